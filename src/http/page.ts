import { ZerosumError } from '../errors.ts'
import type { Page } from '../ledger/reader.ts'
import type { ActivityCursor } from '../projections/reader.ts'

/** Cursors are opaque to clients: the place after which a page goes on, in base64url. */

type Query = { limit: number; cursor?: string }

/** The page that a query asks for, by a place that is a positive number. @throws validation_failed for a cursor that is none of ours */
export function numberPage(query: Query): Page<number> {
  const text = decode(query)
  const before = text === null ? null : Number(text)
  if (before !== null && !(Number.isSafeInteger(before) && before > 0)) throw badCursor()
  return { limit: query.limit, before }
}

/** The same by a place that is a UUID. */
export function idPage(query: Query): Page<string> {
  const before = decode(query)
  if (before !== null && !/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(before)) throw badCursor()
  return { limit: query.limit, before }
}

/** The same by a place in a feed. */
export function activityPage(query: Query): { limit: number; before?: ActivityCursor } {
  const text = decode(query)
  if (text === null) return { limit: query.limit }
  const [, timeUs, transactionId, leg] =
    /^(\d{1,16}) ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}) (\d{1,4})$/.exec(text) ?? []
  if (timeUs === undefined || transactionId === undefined) throw badCursor()
  return { limit: query.limit, before: { timeUs: Number(timeUs), transactionId, leg: Number(leg) } }
}

/** The place of a row, as `activityPage` reads it. */
export function activityPlace({ timeUs, transactionId, leg }: ActivityCursor): string {
  return `${timeUs} ${transactionId} ${leg}`
}

/** A list as it is answered. A full page may have more behind it; `place` says where it would go on. */
export function pageView<T, V>(items: readonly T[], limit: number, view: (item: T) => V, place: (item: T) => unknown) {
  const last = items.at(-1)
  const isFull = items.length === limit && last !== undefined
  return { data: items.map(view), nextCursor: isFull ? Buffer.from(`${place(last)}`).toString('base64url') : null }
}

function decode({ cursor }: Query): string | null {
  return cursor === undefined ? null : Buffer.from(cursor, 'base64url').toString()
}

function badCursor(): ZerosumError {
  const message = 'must be the nextCursor of an earlier page'
  return new ZerosumError('validation_failed', `querystring/cursor: ${message}`, {
    errors: [{ field: 'querystring/cursor', message }],
  })
}
