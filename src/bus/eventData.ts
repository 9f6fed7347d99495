import { Ajv } from 'ajv'
import { parseTime } from '../core/time.ts'
import type { LedgerEvent } from './events.ts'

/**
 * What consumers take for granted in an event that comes from outside, as a check: without it a handler would fail at it again and again, and
 * its group stand still. It is no more than that: kinds, currencies and fields that a newer version adds are let through.
 */

const id = (prefix: string) => ({ type: 'string', pattern: `^${prefix}_[0-9a-f]{32}$` })
const orNull = (schema: object) => ({ anyOf: [schema, { type: 'null' }] })
const amount = { type: 'string', pattern: '^-?[0-9]{1,30}$' }
const currency = { type: 'string', pattern: '^[A-Z]{3,8}$' }
const word = { type: 'string', pattern: '^[a-z][a-z_-]{0,39}$' }
const text = { type: 'string', format: 'storable' }
const object = (properties: Record<string, object>) => ({
  ...{ type: 'object', properties, required: Object.keys(properties) },
})
const asked = {
  ...{ kind: word, step: orNull(word), transferId: orNull(id('trf')), holdId: orNull({ type: 'string' }) },
  ...{ memo: orNull(text), createdAt: { type: 'string', format: 'known-time' } },
}
const transaction = object({
  ...{ ...asked, id: id('txn'), status: orNull(word) },
  movements: {
    type: 'array',
    items: object({ from: orNull(id('wal')), to: orNull(id('wal')), amount, currency }),
  },
  reverses: orNull(id('trf')),
})
const entry = object({
  ...{ ...asked, transactionId: id('txn'), walletId: id('wal'), layer: word, amount, currency },
  sequence: { type: 'integer', minimum: 1, maximum: Number.MAX_SAFE_INTEGER },
  balance: object({ posted: amount, pendingIn: amount, pendingOut: amount, available: amount }),
  counterparty: orNull(id('wal')),
  statement: { type: 'boolean' },
})

const ajv = new Ajv({
  strict: false,
  formats: {
    'known-time': (text: string) => parseTime(text) !== undefined,
    storable: (text: string) => text.isWellFormed() && !text.includes('\0'),
  },
})
/** Fields that older versions did not make. */
const optional = { type: 'object', properties: { refusal: orNull(word) } }
const CHECKS: Record<LedgerEvent['type'], (data: unknown) => boolean> = {
  'zerosum.transaction.v1': ajv.compile({ allOf: [transaction, optional] }),
  'zerosum.entry.v1': ajv.compile(entry),
}
const TYPES: Record<string, LedgerEvent['type']> = {
  'zerosum.transactions.v1': 'zerosum.transaction.v1',
  'zerosum.entries.v1': 'zerosum.entry.v1',
}

/** Whether an event is one that a group may be given: of the type of its topic, and with data of that type. */
export function isSound({ topic, type, time, tenant, data }: LedgerEvent): boolean {
  if (TYPES[topic] !== type || parseTime(time) === undefined || !/^ten_[0-9a-f]{32}$/.test(tenant)) return false
  return CHECKS[type](data)
}
