import { type AccountStatus, type Limits, type LimitsJson, limitsJson } from './account.ts'
import { digestUuid } from './ids.ts'
import type { Leg } from './leg.ts'
import type { Refusal } from './refusal.ts'
import {
  isRelocation,
  type RelocationOperation,
  type RelocationPayload,
  relocationPayload,
  relocationScope,
} from './relocation.ts'
import { type Reason, type Saga, type SagaJson, type Step, sagaText, stepKey } from './saga.ts'

/** What clients may attach to a transfer or hold. Text only; recorded, never interpreted. */
export type Remarks = {
  readonly memo?: string
  readonly metadata?: Readonly<Record<string, string>>
  /** The value date that the client's own books use; RFC 3339. It does not change when money moves. */
  readonly effectiveAt?: string
}

/** What is asked. Wallets, holds and transfers are named by id; amounts are minor units, 1 to 2^63 - 1. */
export type Operation =
  | { readonly kind: 'transfer'; readonly legs: readonly Leg[]; readonly remarks: Remarks }
  | {
      readonly kind: 'top-up' | 'withdrawal'
      readonly walletId: string
      readonly amount: bigint
      readonly currency: string
      /** Where the money comes from or goes to, in the client's words. */
      readonly reference?: string
    }
  | { readonly kind: 'reversal'; readonly transferId: string; readonly amount?: bigint }
  | { readonly kind: 'hold'; readonly leg: Leg; readonly expiresInSeconds: number; readonly remarks: Remarks }
  | { readonly kind: 'capture'; readonly holdId: string; readonly amount?: bigint }
  | { readonly kind: 'release' | 'expiry'; readonly holdId: string }
  | {
      readonly kind: 'wallet-open'
      readonly holderId: string
      readonly currency: string
      readonly overdraftLimit: bigint
      readonly limits: Limits
      readonly name?: string
      readonly metadata?: Readonly<Record<string, string>>
    }
  | {
      readonly kind: 'wallet-update'
      readonly walletId: string
      readonly status?: AccountStatus
      readonly limits?: Limits
      readonly name?: string
      readonly metadata?: Readonly<Record<string, string>>
    }
  | { readonly kind: `saga-${Step}`; readonly saga: Saga; readonly reason?: Reason }
  | RelocationOperation

export type Kind = Operation['kind']

/** A step of a saga. Zerosum asks for it, never a client. */
export type SagaStepOperation = Extract<Operation, { readonly saga: Saga }>

/**
 * What a client asks once. Its id becomes the id of what it makes: the transfer, the hold, the wallet, and of the one
 * transaction that it posts.
 */
export type Request = {
  readonly id: string
  readonly tenantId: string
  /** With the tenant, where the key must be unique: the debited wallet, or the resource that is acted on. */
  readonly scope: string
  /** The idempotency key, 1 to 255 printable ASCII characters. */
  readonly key: string
  readonly operation: Operation
  /** What the shards of wallets that live elsewhere say of them, if they were asked; `null` is a wallet that is not there. */
  readonly peers?: ReadonlyMap<string, Peer | null>
  /** The operation as canonical JSON: recorded, hashed, and compared when the key comes again. */
  readonly payload: string
  /** W3C trace context of what asks, if it is traced. Not recorded with the request. */
  readonly traceparent?: string
}

/** As much of a wallet elsewhere as a refusal may hang on. */
export type Peer = { readonly currency: string; readonly status: AccountStatus }

/** What is recorded of a request for ever: what was asked, what became of it, when. Answers are made of it alone. */
export type RequestRecord = {
  readonly id: string
  readonly tenantId: string
  readonly kind: Kind
  readonly payload: string
  /** `null` when it was accepted. */
  readonly refusal: Refusal | null
  /** What the decision added, as JSON: when a hold expires, what a reversal moved. */
  readonly result: string | null
  /** The time of the block that decided it, microseconds since 1970. */
  readonly timeUs: number
}

/** A request is an operation that somebody asked under a key. */
export function requestOf(id: string, tenantId: string, key: string, operation: Operation): Request {
  return { id, tenantId, key, operation, scope: scopeOf(tenantId, operation), payload: encodePayload(operation) }
}

/** A step of a saga as a request: the key is the step's, so that it is decided once. @param reason of a release */
export function stepRequest(id: string, saga: Saga, step: Step, reason?: Reason): Request {
  const operation = { kind: `saga-${step}` as const, saga, ...(reason === undefined ? {} : { reason }) }
  return requestOf(id, saga.tenantId, stepKey(step), operation)
}

/** The scope of an operation's idempotency key (design, Idempotency). */
export function scopeOf(tenantId: string, operation: Operation): string {
  if (isRelocation(operation)) return relocationScope(operation)
  switch (operation.kind) {
    case 'transfer':
      return operation.legs[0]?.from ?? tenantId
    case 'hold':
      return operation.leg.from
    case 'top-up':
    case 'withdrawal':
    case 'wallet-update':
      return operation.walletId
    case 'reversal':
      return operation.transferId
    case 'capture':
    case 'release':
    case 'expiry':
      return operation.holdId
    case 'wallet-open':
      return digestUuid(`holder ${tenantId} ${operation.holderId}`)
    case 'saga-reserve':
    case 'saga-commit':
    case 'saga-cancel':
    case 'saga-finalize':
    case 'saga-release':
      return operation.saga.id
    default:
      return operation satisfies never
  }
}

/** The wallets that an operation names, and that must be there for it. */
export function walletsOf(operation: Operation): string[] {
  if (operation.kind === 'hold') return [operation.leg.from, operation.leg.to]
  return operation.kind === 'transfer' ? operation.legs.flatMap(({ from, to }) => [from, to]) : []
}

/** What an operation acts on beside wallets: the hold that ends, the transfer that is reversed. */
export function targetOf(operation: Operation): string | null {
  switch (operation.kind) {
    case 'reversal':
      return operation.transferId
    case 'capture':
    case 'release':
    case 'expiry':
      return operation.holdId
    default:
      return null
  }
}

type LegJson = { from: string; to: string; amount: string; currency: string }

/** A payload as it stands in the database: amounts are decimal strings, ids are UUIDs. */
export type Payload = {
  legs?: LegJson[]
  memo?: string
  metadata?: Record<string, string>
  effectiveAt?: string
  walletId?: string
  amount?: string
  currency?: string
  reference?: string
  transferId?: string
  holdId?: string
  expiresInSeconds?: number
  holderId?: string
  overdraftLimit?: string
  limits?: LimitsJson
  name?: string
  status?: AccountStatus
  saga?: SagaJson
  reason?: Reason
} & RelocationPayload

/** Canonical JSON of an operation: fixed field order, metadata sorted by key, absent fields left out. */
function encodePayload(operation: Operation): string {
  if (!('saga' in operation)) return JSON.stringify(payloadOf(operation))
  const { saga, reason } = operation
  return `{"saga":${sagaText(saga)}${reason === undefined ? '' : `,"reason":${JSON.stringify(reason)}`}}`
}

function payloadOf(operation: Exclude<Operation, SagaStepOperation>): Payload {
  if (isRelocation(operation)) return relocationPayload(operation)
  switch (operation.kind) {
    case 'transfer':
      return { legs: operation.legs.map(legJson), ...remarksJson(operation.remarks) }
    case 'hold':
      return {
        legs: [legJson(operation.leg)],
        expiresInSeconds: operation.expiresInSeconds,
        ...remarksJson(operation.remarks),
      }
    case 'top-up':
    case 'withdrawal':
      return {
        walletId: operation.walletId,
        amount: `${operation.amount}`,
        currency: operation.currency,
        ...(operation.reference === undefined ? {} : { reference: operation.reference }),
      }
    case 'reversal':
      return { transferId: operation.transferId, ...amountJson(operation.amount) }
    case 'capture':
      return { holdId: operation.holdId, ...amountJson(operation.amount) }
    case 'release':
    case 'expiry':
      return { holdId: operation.holdId }
    case 'wallet-open':
      return {
        holderId: operation.holderId,
        currency: operation.currency,
        overdraftLimit: `${operation.overdraftLimit}`,
        limits: limitsJson(operation.limits),
        ...labelsJson(operation),
      }
    case 'wallet-update':
      return {
        walletId: operation.walletId,
        ...(operation.status === undefined ? {} : { status: operation.status }),
        ...(operation.limits === undefined ? {} : { limits: limitsJson(operation.limits) }),
        ...labelsJson(operation),
      }
    default:
      return operation satisfies never
  }
}

function legJson(leg: Leg): LegJson {
  return { from: leg.from, to: leg.to, amount: `${leg.amount}`, currency: leg.currency }
}

function amountJson(amount: bigint | undefined): Payload {
  return amount === undefined ? {} : { amount: `${amount}` }
}

function remarksJson({ memo, metadata, effectiveAt }: Remarks): Payload {
  return {
    ...(memo === undefined ? {} : { memo }),
    ...(metadata === undefined ? {} : { metadata: sorted(metadata) }),
    ...(effectiveAt === undefined ? {} : { effectiveAt }),
  }
}

function labelsJson({ name, metadata }: { name?: string; metadata?: Readonly<Record<string, string>> }): Payload {
  return {
    ...(name === undefined ? {} : { name }),
    ...(metadata === undefined ? {} : { metadata: sorted(metadata) }),
  }
}

function sorted(metadata: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(metadata).sort(([a], [b]) => (a < b ? -1 : 1)))
}
