import { formatId } from '../core/ids.ts'
import type { Refusal } from '../core/refusal.ts'
import { isRelocation } from '../core/relocation.ts'
import type { Kind, Payload } from '../core/request.ts'
import { begunSaga, linesOf, type Saga, type Step, sagaOf } from '../core/saga.ts'
import { formatTime } from '../core/time.ts'
import { recordedMovements } from '../core/transfer.ts'
import type { Layer } from '../core/workspace.ts'

/**
 * The ledger's events, made of what its blocks hold and of nothing else: the same block, the same events. docs/asyncapi.yaml describes
 * them to consumers.
 *
 * Each accepted request that moved money makes one transaction event, and one entry event for each entry of a wallet. What only moves
 * wallets from shard to shard makes none, so an account's numbers rise but may skip some. One event more has no entries: a hold between
 * shards stands when all have reserved, which moves nothing further.
 *
 * A refused request that asked to move money makes one transaction event, `refused`, without entries: who did not wait for an answer hears
 * of it so. A capture between shards that comes to nothing makes one too, `compensated`. These come after all other events of their block:
 * older versions did not make them, and the places of the events that a block always had must stay as consumers' marks have them.
 *
 * A transfer between shards is several transactions, and each has its event. All of them say what was asked (`kind`, `transferId`,
 * `memo`), and which step they are (`step`). `status` is that of what was asked: the shard that leads it says `pending` first and then,
 * once, `completed` or `compensated`; the others say `null`. Who counts what was done takes `completed`. Entry events come for all
 * entries, because balances have to be right between the steps too; `statement` is false on those that a statement leaves out: lines
 * that reserve the amount of a transfer between shards, and take it back. A hold's lines are in it, as what they are: pending.
 */

/** An entry as it is stored. `accountName`: `wallet`, or the name of a system account. */
export type BlockEntry = {
  readonly line: number
  readonly accountId: string
  readonly accountName: string
  readonly sequence: number
  readonly currency: string
  readonly layer: Layer
  readonly amount: bigint
  readonly posted: bigint
  readonly pendingOut: bigint
  readonly pendingIn: bigint
}

/** The refused requests that make an event: those by which a client asks to move money, or to reserve it. */
export const TOLD_WHEN_REFUSED = ['transfer', 'top-up', 'withdrawal', 'reversal', 'hold', 'capture'] as const

/** A request as it is stored, with its entries by line. */
export type BlockItem = {
  readonly id: string
  readonly tenantId: string
  readonly kind: Kind
  readonly payload: string
  readonly result: string | null
  /** `null` when it was accepted. */
  readonly refusal: Refusal | null
  readonly entries: readonly BlockEntry[]
  /** W3C trace context of the request, if it is traced. */
  readonly traceparent?: string
}

/** A block as it is stored, as far as events are made of it: its accepted requests, and the refused ones that are told of, in order. */
export type StoredBlock = {
  readonly shard: number
  readonly number: number
  /** Microseconds since 1970. */
  readonly timeUs: number
  readonly items: readonly BlockItem[]
}

export const TRANSACTIONS = 'zerosum.transactions.v1'
export const ENTRIES = 'zerosum.entries.v1'
export const TOPICS = [TRANSACTIONS, ENTRIES] as const
export type Topic = (typeof TOPICS)[number]

/** Where an event stands: the places of a shard's events are in its order, block first. */
export type Place = {
  readonly shard: number
  readonly block: number
  /** Counts the events of the block, of all topics, from 0. */
  readonly index: number
}

/** An event as it is published: CloudEvents 1.0, with `tenant` as an extension. */
export type LedgerEvent = {
  readonly topic: Topic
  /** Events with the same key come in the order of the ledger: the id of the transaction, or of the account. */
  readonly key: string
  readonly place: Place
  /** `<shard>.<block>.<index>`. */
  readonly id: string
  readonly source: string
  readonly type: 'zerosum.transaction.v1' | 'zerosum.entry.v1'
  /** Of the block; RFC 3339. */
  readonly time: string
  readonly subject: string
  readonly tenant: string
  /** W3C trace context, if there is any. */
  readonly traceparent?: string
  readonly data: TransactionData | EntryData
}

/** What entries and transactions say of the request behind them. Ids are as in the HTTP API, times RFC 3339. */
type Asked = {
  readonly kind: Exclude<Kind, `saga-${string}` | `wallet-${string}` | `map-${string}` | 'hold-move'>
  /** Of something between shards, which part this is; `null` on one shard. */
  readonly step: Step | 'begin' | null
  readonly transferId: string | null
  readonly holdId: string | null
  readonly memo: string | null
  readonly createdAt: string
}

export type TransactionData = Asked & {
  readonly id: string
  readonly status: 'pending' | 'completed' | 'compensated' | 'refused' | null
  /** Why it was refused, or came to nothing between shards; else `null`. */
  readonly refusal: Refusal | null
  /** All that was asked to move, on whatever shard; `null` is money outside the wallets. Amounts are decimal strings of minor units. */
  readonly movements: readonly {
    readonly from: string | null
    readonly to: string | null
    readonly amount: string
    readonly currency: string
  }[]
  /** The transfer that a reversal takes back. */
  readonly reverses: string | null
  /** These three stand in the first event of a request only. */
  readonly reference: string | null
  readonly metadata: Readonly<Record<string, string>>
  readonly effectiveAt: string | null
}

export type EntryData = Asked & {
  readonly id: string
  readonly transactionId: string
  readonly walletId: string
  /** Of the wallet's entries; a higher one is later. */
  readonly sequence: number
  readonly layer: Layer
  /** Debit negative. */
  readonly amount: string
  readonly currency: string
  /** After the entry. */
  readonly balance: {
    readonly posted: string
    readonly pendingIn: string
    readonly pendingOut: string
    readonly available: string
  }
  /** The wallet at the other side, wherever it lives; `null` is money outside the wallets. */
  readonly counterparty: string | null
  readonly statement: boolean
}

/** The events of a block, in order. */
export function eventsOf({ shard, number: block, timeUs, items }: StoredBlock): LedgerEvent[] {
  const events: LedgerEvent[] = []
  const time = formatTime(timeUs)
  const told = items.filter((item) => !isRelocation(item)).map((item) => ({ item, behind: behindOf(item) }))
  const posted = told.filter(({ item, behind }) => item.entries.length > 0 || endsHold(behind, shard))
  const failed = told.filter(({ item, behind }) => isToldRefusal(item) || failsCapture(behind, shard))
  for (const { item, behind } of [...posted, ...failed]) {
    const asked = askedOf(behind, time)
    const tenant = formatId('ten', item.tenantId)
    const add = (event: Pick<LedgerEvent, 'topic' | 'type' | 'key' | 'data'>) => {
      const place = { shard, block, index: events.length }
      events.push({
        ...{ ...event, place, id: `${shard}.${block}.${place.index}`, source: `/zerosum/shards/${shard}` },
        ...{ time, subject: event.key, tenant },
        ...(item.traceparent === undefined ? {} : { traceparent: item.traceparent }),
      })
    }
    const transactionId = formatId('txn', item.id)
    const data = transactionOf(transactionId, asked, behind, shard)
    add({ topic: TRANSACTIONS, type: 'zerosum.transaction.v1', key: transactionId, data })
    for (const entry of item.entries) {
      if (entry.accountName !== 'wallet') continue
      const data = entryOf(entry, { transactionId, asked, counterparty: otherSide(entry, item, behind, shard) }, behind)
      add({ topic: ENTRIES, type: 'zerosum.entry.v1', key: data.walletId, data })
    }
  }
  return events
}

function isToldRefusal({ kind, refusal }: BlockItem): boolean {
  return refusal !== null && TOLD_WHEN_REFUSED.some((told) => told === kind)
}

/** What is behind a stored request: a client's request itself, or the saga that it is a step of. */
type Behind = {
  readonly requestId: string
  readonly kind: Asked['kind']
  readonly payload: Payload
  readonly refusal: Refusal | null
  readonly result: { readonly hold?: Held } | null
  readonly of?: SagaPart
}
type SagaPart = { readonly saga: Saga; readonly step: Step | 'begin' }
type Held = { readonly from: string; readonly to: string; readonly amount: string; readonly currency: string }

function behindOf({ id, tenantId, kind, payload: text, refusal, result: resultText }: BlockItem): Behind {
  const payload = JSON.parse(text) as Payload
  const result = resultText === null ? null : (JSON.parse(resultText) as Behind['result'])
  const begun = begunSaga(tenantId, resultText)
  if (begun) return { requestId: id, kind: begun.as, payload, refusal, result, of: { saga: begun, step: 'begin' } }
  if (!payload.saga) return { requestId: id, kind: kind as Asked['kind'], payload, refusal, result }
  const saga = sagaOf(tenantId, payload.saga)
  const step = kind.slice('saga-'.length) as Step
  // What is released says why.
  const why = payload.reason?.refusal ?? refusal
  return { requestId: saga.id, kind: saga.as, payload: {}, refusal: why, result, of: { saga, step } }
}

/** A hold between shards stands when all have reserved; the end of its saga says so and moves nothing. */
function endsHold({ of }: Behind, shard: number): boolean {
  return of?.saga.kind === 'hold' && of.step === 'finalize' && of.saga.shard === shard
}

/** A capture has moved nothing before its end, and nothing when it comes to nothing. */
function failsCapture({ of }: Behind, shard: number): boolean {
  return of?.saga.kind === 'capture' && of.step === 'release' && of.saga.shard === shard
}

const TRANSFERS: ReadonlySet<string> = new Set(['transfer', 'top-up', 'withdrawal', 'reversal'])

function askedOf({ requestId, kind, payload, of }: Behind, createdAt: string): Asked {
  const holdId = kind === 'hold' ? requestId : (of?.saga.holdId ?? payload.holdId)
  return {
    kind,
    step: of?.step ?? null,
    transferId: TRANSFERS.has(kind) ? formatId('trf', requestId) : null,
    holdId: holdId === undefined ? null : formatId('hld', holdId),
    memo: payload.memo ?? of?.saga.memo ?? null,
    createdAt,
  }
}

function transactionOf(id: string, asked: Asked, behind: Behind, shard: number): TransactionData {
  const { payload, refusal, of } = behind
  const reverses = of ? of.saga.reverses : payload.transferId
  return {
    ...{ id, ...asked, status: of ? statusOf(of, shard) : refusal === null ? 'completed' : 'refused', refusal },
    movements: movementsBehind(behind).map(({ from, to, amount, currency }) => ({
      ...{ from: from && formatId('wal', from), to: to && formatId('wal', to), amount: `${amount}`, currency },
    })),
    reverses: reverses === undefined ? null : formatId('trf', reverses),
    reference: payload.reference ?? null,
    metadata: payload.metadata ?? {},
    effectiveAt: payload.effectiveAt ?? null,
  }
}

/** Only the shard that leads a saga knows how it stands. Letting go of a hold can't fail, so it is done when it begins. */
function statusOf({ saga, step }: SagaPart, shard: number): TransactionData['status'] {
  if (saga.shard !== shard) return null
  switch (step) {
    case 'begin':
      return saga.kind === 'let-go' ? 'completed' : 'pending'
    case 'finalize':
      return 'completed'
    case 'release':
      return 'compensated'
    case 'reserve':
    case 'commit':
    case 'cancel':
      return null
    default:
      return step satisfies never
  }
}

type Movement = { from: string | null; to: string | null; amount: bigint | string; currency: string }

function movementsBehind({ kind, payload, result, of }: Behind): readonly Movement[] {
  if (of) return of.saga.legs.map((leg) => ({ ...leg, amount: of.saga.captured ?? leg.amount }))
  switch (kind) {
    case 'transfer':
    case 'top-up':
    case 'withdrawal':
    case 'reversal':
      return recordedMovements(kind, payload, result) ?? []
    case 'hold':
      return payload.legs ?? []
    case 'capture':
    case 'release':
    case 'expiry': {
      const { hold } = result ?? {}
      return hold ? [{ ...hold, amount: payload.amount ?? hold.amount }] : []
    }
    default:
      return kind satisfies never
  }
}

/** Lines come in pairs, so the other side is one away; if it lives elsewhere, behind a transit account, the saga knows it. */
function otherSide({ line, accountId }: BlockEntry, { entries }: BlockItem, { of }: Behind, shard: number) {
  if (of) {
    const leg = linesOf(of.saga, of.step, shard)[line >> 1]?.leg
    if (!leg) throw new Error(`saga ${of.saga.id} has entries on shard ${shard}, but no leg there`)
    return leg.from === accountId ? leg.to : leg.from
  }
  const other = entries.find((one) => one.line === (line ^ 1))
  return other?.accountName === 'wallet' ? other.accountId : null
}

function entryOf(
  { accountId, sequence, layer, amount, currency, posted, pendingIn, pendingOut }: BlockEntry,
  { transactionId, asked, counterparty }: { transactionId: string; asked: Asked; counterparty: string | null },
  { of }: Behind,
): EntryData {
  return {
    ...{ id: `ent_${accountId.replaceAll('-', '')}_${sequence}`, transactionId, ...asked },
    ...{ walletId: formatId('wal', accountId), sequence, layer, amount: `${amount}`, currency },
    balance: {
      ...{ posted: `${posted}`, pendingIn: `${pendingIn}`, pendingOut: `${pendingOut}` },
      available: `${posted - pendingOut}`,
    },
    counterparty: counterparty && formatId('wal', counterparty),
    statement: !(of?.saga.kind === 'move' && layer === 'pending'),
  }
}
