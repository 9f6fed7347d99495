import { arrayLiteral, type Sql } from '../../postgres/connect.ts'
import type { Disposition } from '../disposition.ts'
import type { Queued } from '../requestQueue.ts'

/** A request that waits in a shard's table. */
export type QueuedRow = {
  readonly id: string
  readonly text: string
  readonly attempts: number
  readonly firstMs: number | null
  readonly traceparent?: string
}

/** The lock that `queue_requests` holds while it gives out places. */
const PLACES = 8_203_725

/** Puts requests at the end; one that waits there already stays where it is, one that was set aside is tried again. */
export async function addQueued(sql: Sql, requests: readonly Queued[]): Promise<void> {
  await sql`
    SELECT queue_requests(${arrayLiteral(requests.map(({ id }) => id))}::uuid[],
                          ${arrayLiteral(requests.map(({ text }) => text))}::text[],
                          ${arrayLiteral(requests.map(({ traceparent }) => traceparent ?? null))}::text[])`
}

type QueuedColumns = {
  id: string
  message: string
  attempts: number
  first_ms: bigint | null
  due_us: bigint
  traceparent: string | null
}

/**
 * The first that are due after a time, in their order.
 * @param afterUs microseconds since 1970, by the database's clock
 */
export async function readQueued(sql: Sql, afterUs: number, limit: number): Promise<(QueuedRow & { dueUs: number })[]> {
  const rows = await sql.begin(async (sql) => {
    // The plan is made while the table is empty, and then it must not be to sort a hundred thousand rows for each batch.
    await sql.unsafe('SET LOCAL enable_sort = off')
    // What is put off may be due after places that are not committed yet: who read that now would pass them.
    await sql`SELECT pg_advisory_xact_lock_shared(${PLACES})`
    return await sql<QueuedColumns[]>`
      SELECT id, message, attempts, first_ms, due_us, traceparent FROM queued_requests
      WHERE dead_us IS NULL AND due_us > ${afterUs}
        AND due_us <= (extract(epoch FROM statement_timestamp()) * 1000000)::int8
      ORDER BY due_us LIMIT ${limit}`
  })
  return rows.map(({ id, message, attempts, first_ms, due_us, traceparent }) => ({
    ...{ id, text: message, attempts, firstMs: first_ms === null ? null : Number(first_ms), dueUs: Number(due_us) },
    ...(traceparent === null ? {} : { traceparent }),
  }))
}

/** Records what became of requests: those that are over go, the others wait or are set aside. Rows are locked in the order in which adding does. */
export async function recordDispositions(
  sql: Sql,
  settled: readonly { readonly id: string; readonly disposition: Disposition }[],
): Promise<void> {
  const done = settled.flatMap(({ id, disposition }) => (disposition.fate === 'done' ? [id] : []))
  if (done.length > 0)
    await sql`
      WITH locked AS MATERIALIZED (
        SELECT id FROM queued_requests WHERE id = ANY (${arrayLiteral(done)}::uuid[]) ORDER BY id FOR UPDATE)
      DELETE FROM queued_requests q USING locked WHERE q.id = locked.id`
  const kept = settled.flatMap(({ id, disposition }) => (disposition.fate === 'done' ? [] : [{ id, disposition }]))
  if (kept.length === 0) return
  const nowMs = Date.now()
  const column = (of: (one: (typeof kept)[number]['disposition'], id: string) => string | number | boolean | null) =>
    kept.map(({ id, disposition }) => of(disposition, id))
  await sql`
    WITH locked AS MATERIALIZED (
      SELECT id FROM queued_requests WHERE id = ANY (${arrayLiteral(kept.map(({ id }) => id))}::uuid[]) ORDER BY id FOR UPDATE)
    UPDATE queued_requests q SET
      attempts = q.attempts + 1, reason = s.reason, first_ms = coalesce(s.first_ms, q.first_ms),
      due_us = (extract(epoch FROM clock_timestamp()) * 1000000)::int8 + s.wait_ms * 1000,
      dead_us = CASE WHEN s.is_dead THEN (extract(epoch FROM clock_timestamp()) * 1000000)::int8 END
    FROM locked JOIN unnest(
      ${column((_, id) => id)}::uuid[], ${column(({ reason }) => reason)}::text[],
      ${column((one) => (one.fate === 'later' ? one.firstMs : null))}::int8[],
      ${column((one) => (one.fate === 'later' ? Math.max(0, one.dueMs - nowMs) : 0))}::int8[],
      ${column(({ fate }) => fate === 'dead')}::boolean[]) AS s (id, reason, first_ms, wait_ms, is_dead) USING (id)
    WHERE q.id = locked.id`
}

/** How many wait to be posted; counted up to a limit. */
export async function countQueued(sql: Sql, limit: number): Promise<number> {
  const [row] = await sql<{ count: bigint }[]>`
    SELECT count(*) FROM (SELECT FROM queued_requests WHERE dead_us IS NULL LIMIT ${limit}) AS waiting`
  return Number(row?.count)
}

/** How many were set aside; counted up to a limit. */
export async function countDead(sql: Sql, limit: number): Promise<number> {
  const [row] = await sql<{ count: bigint }[]>`
    SELECT count(*) FROM (SELECT FROM queued_requests WHERE dead_us IS NOT NULL LIMIT ${limit}) AS dead`
  return Number(row?.count)
}

/** A request that was set aside. */
export type DeadRow = QueuedRow & { readonly reason: string; readonly deadMs: number }

export async function readDead(sql: Sql, limit: number): Promise<DeadRow[]> {
  const rows = await sql<{ id: string; message: string; attempts: number; reason: string; dead_us: bigint }[]>`
    SELECT id, message, attempts, reason, dead_us FROM queued_requests WHERE dead_us IS NOT NULL ORDER BY dead_us LIMIT ${limit}`
  return rows.map(({ id, message, attempts, reason, dead_us }) => ({
    ...{ id, text: message, attempts, firstMs: null, reason, deadMs: Number(dead_us / 1000n) },
  }))
}

/** Has those that were set aside begin anew. @param ids `null` is all of them. @returns how many there were */
export async function reviveDead(sql: Sql, ids: readonly string[] | null): Promise<number> {
  const some = ids === null ? sql`` : sql`AND id = ANY (${arrayLiteral(ids)}::uuid[])`
  const { count } = await sql`
    UPDATE queued_requests SET dead_us = NULL, reason = NULL, attempts = 0, first_ms = NULL,
      due_us = (extract(epoch FROM clock_timestamp()) * 1000000)::int8
    WHERE dead_us IS NOT NULL ${some}`
  return count
}
