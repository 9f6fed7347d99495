import { type LedgerEvent, TRANSACTIONS, type TransactionData } from '../bus/events.ts'
import { type IdPrefix, parseId } from '../core/ids.ts'
import { parseTime } from '../core/time.ts'

/** One payment as one of its wallets sees it. Ids are UUIDs, times microseconds since 1970. */
export type Activity = {
  readonly walletId: string
  /** When it was completed. */
  readonly timeUs: number
  readonly transactionId: string
  /** Counts the movements that were asked for together, from 0. */
  readonly leg: number
  readonly tenantId: string
  readonly kind: TransactionData['kind']
  readonly direction: 'in' | 'out'
  /** The wallet at the other end; `null` is money outside the wallets. */
  readonly counterparty: string | null
  /** Minor units, more than 0. Of a capture, what was captured; of the end of a hold, what it held. */
  readonly amount: string
  readonly currency: string
  readonly transferId: string | null
  readonly holdId: string | null
  /** The transfer that a reversal takes back. */
  readonly reverses: string | null
  readonly memo: string | null
  readonly reference: string | null
}

/** What was done, said once: the event that tells that it is completed. */
export type Completed = { readonly tenantId: string; readonly timeUs: number; readonly data: TransactionData }

/**
 * What an event says was completed; `undefined` if it says no such thing. Something between shards is many events, and one of them says
 * this; what came to nothing has none.
 */
export function completedBy({ topic, tenant, time, data }: LedgerEvent): Completed | undefined {
  if (topic !== TRANSACTIONS) return undefined
  const transaction = data as TransactionData
  if (transaction.status !== 'completed') return undefined
  return { tenantId: uuidOf('ten', tenant), timeUs: timeOf(time), data: transaction }
}

/** The rows of the feed that it makes: one for each movement and wallet. */
export function activityOf({ tenantId, timeUs, data }: Completed): Activity[] {
  const { kind, memo, reference } = data
  const common = {
    ...{ timeUs, transactionId: uuidOf('txn', data.id), tenantId, kind, memo, reference },
    transferId: data.transferId && uuidOf('trf', data.transferId),
    holdId: data.holdId && uuidOf('hld', data.holdId),
    reverses: data.reverses && uuidOf('trf', data.reverses),
  }
  return data.movements.flatMap(({ from: payer, to: payee, amount, currency }, leg) => {
    const from = payer && uuidOf('wal', payer)
    const to = payee && uuidOf('wal', payee)
    const row = { ...common, leg, amount, currency }
    return [
      ...(from ? [{ ...row, walletId: from, direction: 'out' as const, counterparty: to }] : []),
      ...(to ? [{ ...row, walletId: to, direction: 'in' as const, counterparty: from }] : []),
    ]
  })
}

/** @throws Error for what is no such id: a bug, events are ours */
function uuidOf(prefix: IdPrefix, text: string): string {
  const id = parseId(prefix, text)
  if (id === undefined) throw new Error(`"${text}" is no ${prefix} id`)
  return id
}

function timeOf(text: string): number {
  const timeUs = parseTime(text)
  if (timeUs === undefined) throw new Error(`"${text}" is no time`)
  return timeUs
}
