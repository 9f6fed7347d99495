import type { AccountStatus, Limits } from './account.ts'
import { digestUuid } from './ids.ts'
import type { Refusal } from './refusal.ts'

/** One movement of money, from one wallet to another. */
export type Leg = { readonly from: string; readonly to: string; readonly amount: bigint; readonly currency: string }

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

export type Kind = Operation['kind']

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
  /** The operation as canonical JSON: recorded, hashed, and compared when the key comes again. */
  readonly payload: string
}

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

/** The scope of an operation's idempotency key (design, Idempotency). */
export function scopeOf(tenantId: string, operation: Operation): string {
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
    default:
      return operation satisfies never
  }
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
type LimitsJson = { transferMax?: string; balanceMax?: string }

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
}

/** Canonical JSON of an operation: fixed field order, metadata sorted by key, absent fields left out. */
function encodePayload(operation: Operation): string {
  return JSON.stringify(payloadOf(operation))
}

function payloadOf(operation: Operation): Payload {
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

/** Limits as they are written in JSON. */
export function limitsJson({ transferMax, balanceMax }: Limits): LimitsJson {
  return {
    ...(transferMax === undefined ? {} : { transferMax: `${transferMax}` }),
    ...(balanceMax === undefined ? {} : { balanceMax: `${balanceMax}` }),
  }
}

function sorted(metadata: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(metadata).sort(([a], [b]) => (a < b ? -1 : 1)))
}
