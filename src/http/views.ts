import type { Static } from 'typebox'
import type { AsyncEnd } from '../async/ends.ts'
import type { Source } from '../cache/balances.ts'
import { limitsJson } from '../core/account.ts'
import type { BlockHeader } from '../core/block.ts'
import type { Hold } from '../core/hold.ts'
import { formatId } from '../core/ids.ts'
import type { Payload, Request, RequestRecord } from '../core/request.ts'
import { formatTime } from '../core/time.ts'
import { type Movement, recordedMovements } from '../core/transfer.ts'
import type { Balance } from '../ledger/sql/balances.ts'
import type { HistoryEntry } from '../ledger/sql/history.ts'
import type { Wallet } from '../ledger/sql/wallets.ts'
import type { SagaEnd } from '../saga/runner.ts'
import type { Delivery, LoggedAttempt, LoggedDelivery } from '../webhooks/sql/deliveries.ts'
import type { Endpoint } from '../webhooks/sql/endpoints.ts'
import type {
  BalanceBody,
  BlockBody,
  EntryBody,
  HoldBody,
  LoggedWebhookDeliveryBody,
  TransferBody,
  UnfinishedTransferBody,
  WalletBody,
  WebhookDeliveryBody,
  WebhookEndpointBody,
} from './schemas.ts'
import type { Accepted } from './submit.ts'

/** How what is inside looks outside: ids with prefixes, money as text, times as RFC 3339. */

export function walletView(wallet: Wallet): Static<typeof WalletBody> {
  return {
    id: formatId('wal', wallet.id),
    holderId: wallet.holderId,
    currency: wallet.currency,
    status: wallet.status,
    overdraftLimit: `${wallet.overdraftLimit}`,
    limits: limitsJson(wallet.limits),
    name: wallet.name,
    metadata: wallet.metadata ?? {},
    createdAt: formatTime(wallet.openedUs),
  }
}

/** The wallet as it was when it was opened: what a replay of its opening answers, whatever became of it since. */
export function openedWalletView(record: RequestRecord): Static<typeof WalletBody> {
  const payload = JSON.parse(record.payload) as Payload
  return {
    id: formatId('wal', record.id),
    holderId: payload.holderId ?? '',
    currency: payload.currency ?? '',
    status: 'active',
    overdraftLimit: payload.overdraftLimit ?? '0',
    limits: payload.limits ?? {},
    name: payload.name ?? null,
    metadata: payload.metadata ?? {},
    createdAt: formatTime(record.timeUs),
  }
}

export function balanceView(walletId: string, balance: Balance, source: Source): Static<typeof BalanceBody> {
  const { currency, posted, pendingIn, pendingOut, version, asOfUs } = balance
  return {
    walletId: formatId('wal', walletId),
    currency,
    posted: `${posted}`,
    pendingIn: `${pendingIn}`,
    pendingOut: `${pendingOut}`,
    available: `${posted - pendingOut}`,
    version,
    source,
    asOf: formatTime(asOfUs),
  }
}

const IS_TRANSFER = new Set(['transfer', 'top-up', 'withdrawal', 'reversal'])

export function entryView(entry: HistoryEntry): Static<typeof EntryBody> {
  return {
    id: entryId(entry.accountId, entry.sequence),
    transactionId: formatId('txn', entry.transactionId),
    transferId: IS_TRANSFER.has(entry.kind) ? formatId('trf', entry.requestId) : null,
    kind: entry.kind,
    amount: `${entry.amount}`,
    balanceAfter: `${entry.balanceAfter}`,
    layer: entry.layer,
    sequence: entry.sequence,
    counterparty: entry.counterpartyKind === 'wallet' ? formatId('wal', entry.counterpartyId) : null,
    memo: entry.memo,
    createdAt: formatTime(entry.timeUs),
  }
}

/** An entry is named by its account and its number there. */
export function entryId(accountId: string, sequence: number): string {
  return `ent_${accountId.replaceAll('-', '')}_${sequence}`
}

/** A transfer as it was decided; `reversedBy` is what happened since, so the answer to a replay leaves it out. */
export function transferView({ record, end }: Accepted, reversedBy?: string): Static<typeof TransferBody> {
  const payload = JSON.parse(record.payload) as Payload
  const result: unknown = record.result === null ? null : JSON.parse(record.result)
  const movements = recordedMovements(record.kind, payload, result) ?? []
  const [first, ...more] = movements.map(movementView)
  const isSingle = more.length === 0
  const { effectiveAt, reference, transferId } = payload
  const refusal = record.refusal ?? (isOver(end) ? (end.reason?.refusal ?? null) : null)
  const completedUs = refusal !== null || end === 'pending' ? null : (end?.timeUs ?? record.timeUs)
  return {
    id: formatId('trf', record.id),
    from: isSingle ? (first?.from ?? null) : null,
    to: isSingle ? (first?.to ?? null) : null,
    amount: isSingle ? (first?.amount ?? payload.amount ?? null) : null,
    currency: isSingle ? (first?.currency ?? null) : null,
    ...(first && !isSingle ? { legs: [first, ...more] } : {}),
    status: record.refusal !== null ? 'refused' : end === 'pending' ? 'pending' : (end?.status ?? 'completed'),
    kind: record.kind,
    memo: payload.memo ?? null,
    metadata: payload.metadata ?? {},
    ...(effectiveAt === undefined ? {} : { effectiveAt }),
    ...(reference === undefined ? {} : { reference }),
    ...(transferId === undefined ? {} : { reverses: formatId('trf', transferId) }),
    createdAt: formatTime(record.timeUs),
    completedAt: completedUs === null ? null : formatTime(completedUs),
    ...(reversedBy === undefined ? {} : { reversedBy: formatId('trf', reversedBy) }),
    ...(refusal === null ? {} : { refusal }),
  }
}

/** A request that was accepted to be posted later, as it will be a transfer: made of the request alone, so asking again gives the same. */
export function laterTransferView({
  id,
  tenantId,
  operation,
  payload,
}: Request): Static<typeof UnfinishedTransferBody> {
  const record = { id, tenantId, kind: operation.kind, payload, refusal: null, result: null, timeUs: 0 }
  return { ...transferView({ record, end: 'pending' }), createdAt: null }
}

/** One whose key turned out to belong to another request. */
export function reusedTransferView({ recordId: _, ...request }: AsyncEnd): Static<typeof TransferBody> {
  return transferView({ record: { ...request, refusal: 'idempotency_key_reused', result: null } })
}

function movementView({ from, to, amount, currency }: Movement) {
  return { from: from && formatId('wal', from), to: to && formatId('wal', to), amount: `${amount}`, currency }
}

export function holdView(hold: Hold): Static<typeof HoldBody> {
  return {
    id: formatId('hld', hold.id),
    walletId: formatId('wal', hold.from),
    to: formatId('wal', hold.to),
    amount: `${hold.amount}`,
    currency: hold.currency,
    captured: `${hold.captured}`,
    status: hold.status === 'capturing' ? 'held' : hold.status,
    expiresAt: formatTime(hold.expiresAtUs),
  }
}

function isOver(end: Accepted['end']): end is SagaEnd {
  return end !== undefined && end !== 'pending'
}

/** A hold as the record of its placing, capture or release says it was then; between shards, as the end of the saga says. */
export function recordedHold({ record, end }: Accepted): Hold {
  const { id, tenantId } = record
  const begun = JSON.parse(record.result ?? '{}') as HoldResult
  const { hold } = isOver(end) && end.result !== null ? (JSON.parse(end.result) as HoldResult) : begun
  if (hold) return { ...hold, amount: BigInt(hold.amount), captured: BigInt(hold.captured) }
  const [{ from = '', to = '', amount = '0', currency = '' } = {}] = (JSON.parse(record.payload) as Payload).legs ?? []
  const expiresAtUs = begun.expiresAtUs ?? 0
  return { id, tenantId, from, to, currency, expiresAtUs, amount: BigInt(amount), captured: 0n, status: 'held' }
}

type HoldResult = { expiresAtUs?: number; hold?: RecordedHold }
type RecordedHold = Omit<Hold, 'amount' | 'captured'> & { amount: string; captured: string }

export function blockView(block: BlockHeader): Static<typeof BlockBody> {
  return {
    shard: block.shard,
    number: block.number,
    previousHash: block.previousHash.toString('hex'),
    root: block.root.toString('hex'),
    hash: block.hash.toString('hex'),
    time: formatTime(block.timeUs),
    writer: block.writer,
    requestCount: block.requestCount,
    entryCount: block.entryCount,
  }
}

export function webhookEndpointView(endpoint: Endpoint): Static<typeof WebhookEndpointBody> {
  const { id, url, description, eventTypes, disabledUs, disabledReason, failingSinceUs, createdUs } = endpoint
  const { isFull, missed } = endpoint
  return {
    id: formatId('whk', id),
    url,
    description,
    eventTypes: [...eventTypes],
    disabled: disabledUs !== null,
    disabledReason,
    disabledAt: timeOrNull(disabledUs),
    failingSince: timeOrNull(failingSinceUs),
    full: isFull,
    missedEvents: missed && {
      count: missed.count,
      from: formatTime(missed.fromUs),
      until: formatTime(missed.untilUs),
    },
    createdAt: formatTime(createdUs),
  }
}

export function webhookDeliveryView(delivery: Delivery): Static<typeof WebhookDeliveryBody> {
  return { ...deliveryFields(delivery), lastAttempt: delivery.lastAttempt && attemptView(delivery.lastAttempt) }
}

export function loggedWebhookDeliveryView(delivery: LoggedDelivery): Static<typeof LoggedWebhookDeliveryBody> {
  return { ...deliveryFields(delivery), payload: delivery.body, attempts: delivery.log.map(attemptView) }
}

function deliveryFields({ id, endpointId, eventId, eventType, status, attempts, ...times }: Delivery) {
  return {
    id: formatId('whd', id),
    endpointId: formatId('whk', endpointId),
    messageId: formatId('msg', eventId),
    eventType,
    status,
    attemptCount: attempts,
    nextAttemptAt: timeOrNull(times.nextAttemptUs),
    createdAt: formatTime(times.createdUs),
    deliveredAt: timeOrNull(times.deliveredUs),
  }
}

function attemptView({ number, beganUs, tookMs, statusCode, error, response }: LoggedAttempt) {
  return { number, at: formatTime(beganUs), durationMs: tookMs, statusCode, error, response }
}

function timeOrNull(timeUs: number | null): string | null {
  return timeUs === null ? null : formatTime(timeUs)
}
