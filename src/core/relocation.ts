import { type AccountStatus, type Limits, type LimitsJson, limitsJson, systemAccountId } from './account.ts'
import type { Hold } from './hold.ts'
import { CLOSE_KEY, FATE_KEY, type MapChange, OPEN_KEY } from './mapChange.ts'

/** What moves slots from shard to shard, as requests of the shards' chains; Zerosum asks for it, never a client. See mapChange.ts. */
export type RelocationOperation =
  | { readonly kind: 'map-close' | 'map-abandon'; readonly change: MapChange }
  | {
      readonly kind: 'map-depart'
      readonly change: MapChange
      /** The open holds that have an end in its slots: nobody else can list them when they are half moved. */
      readonly holds: readonly Hold[]
    }
  | {
      readonly kind: 'map-open'
      readonly change: MapChange
      /** Not if it was abandoned. */
      readonly isMoved: boolean
    }
  | {
      readonly kind: 'wallet-depart'
      readonly walletId: string
      readonly currency: string
      readonly changeId: string
      readonly toShard: number
    }
  | {
      readonly kind: 'wallet-arrive'
      readonly wallet: MovedWallet
      readonly changeId: string
      readonly fromShard: number
      /** The time of the block in which it left: it arrives later than that, whatever the clocks say. */
      readonly departedUs: number
    }
  | {
      readonly kind: 'hold-move'
      readonly hold: Hold
      readonly changeId: string
      readonly before: Homes
      readonly after: Homes
    }

/** The shards that the two ends of a hold live on. */
export type Homes = { readonly from: number; readonly to: number }

/** As much of a wallet as the ledger itself knows when it leaves: what its departure records. */
export type DepartedWallet = {
  readonly currency: string
  readonly status: AccountStatus
  readonly overdraftLimit: bigint
  readonly limits: Limits
  /** The number of its last entry on the shard that it left. */
  readonly sequence: number
  /** What it holds; nothing is pending, holds move for themselves. */
  readonly posted: bigint
}

/** A wallet as it arrives. */
export type MovedWallet = DepartedWallet & {
  readonly id: string
  readonly holderId: string
  readonly name?: string
  readonly metadata?: Readonly<Record<string, string>>
  /** Microseconds since 1970. */
  readonly openedUs: number
}

export function isRelocation<T extends { readonly kind: string }>(
  operation: T,
): operation is Extract<T, RelocationOperation> {
  return operation.kind.startsWith('map-') || LOCAL.has(operation.kind)
}

/** The kinds that write entries. They move wallets, not money: who looks at a wallet's history has no use for them. */
export const RELOCATIONS = ['wallet-depart', 'wallet-arrive', 'hold-move'] as const

const LOCAL: ReadonlySet<string> = new Set(RELOCATIONS)

/** With the change, what a step must happen once for. */
export function relocationScope(operation: RelocationOperation): string {
  switch (operation.kind) {
    case 'map-close':
    case 'map-depart':
    case 'map-abandon':
    case 'map-open':
      return operation.change.id
    case 'wallet-depart':
      return operation.walletId
    case 'wallet-arrive':
      return operation.wallet.id
    case 'hold-move':
      return operation.hold.id
    default:
      return operation satisfies never
  }
}

/** The idempotency key: what is asked twice is done once, by whoever asks. */
export function relocationKey(operation: RelocationOperation): string {
  switch (operation.kind) {
    case 'map-close':
      return CLOSE_KEY
    case 'map-depart':
    case 'map-abandon':
      return FATE_KEY
    case 'map-open':
      return OPEN_KEY
    case 'wallet-depart':
    case 'wallet-arrive':
    case 'hold-move':
      return `§${operation.kind} ${operation.changeId}`
    default:
      return operation satisfies never
  }
}

type DepartedJson = Omit<DepartedWallet, 'overdraftLimit' | 'limits' | 'posted'> & {
  overdraftLimit: string
  limits: LimitsJson
  posted: string
}
type HoldJson = Omit<Hold, 'amount' | 'captured'> & { amount: string; captured: string }

/** How these are recorded: amounts are decimal strings. */
export type RelocationPayload = {
  change?: MapChange
  holds?: HoldJson[]
  isMoved?: boolean
  changeId?: string
  toShard?: number
  fromShard?: number
  departedUs?: number
  wallet?: DepartedJson & Omit<MovedWallet, keyof DepartedWallet>
  hold?: HoldJson
  before?: Homes
  after?: Homes
}

export function relocationPayload(
  operation: RelocationOperation,
): RelocationPayload & { walletId?: string; currency?: string } {
  switch (operation.kind) {
    case 'map-close':
    case 'map-abandon':
      return { change: changeJson(operation.change) }
    case 'map-depart':
      return { change: changeJson(operation.change), holds: operation.holds.map(holdJson) }
    case 'map-open':
      return { change: changeJson(operation.change), isMoved: operation.isMoved }
    case 'wallet-depart': {
      const { walletId, currency, changeId, toShard } = operation
      return { walletId, currency, changeId, toShard }
    }
    case 'wallet-arrive': {
      const { wallet, changeId, fromShard, departedUs } = operation
      const { id, holderId, name, metadata, openedUs } = wallet
      const named = { ...(name === undefined ? {} : { name }), ...(metadata === undefined ? {} : { metadata }) }
      return { wallet: { id, holderId, ...named, openedUs, ...departedJson(wallet) }, changeId, fromShard, departedUs }
    }
    case 'hold-move': {
      const { hold, changeId, before, after } = operation
      return { hold: holdJson(hold), changeId, before, after }
    }
    default:
      return operation satisfies never
  }
}

function changeJson({ id, epoch, shardCount, createdUs, drained, slots, from, to }: MapChange): MapChange {
  return { id, epoch, shardCount, createdUs, drained, slots, from, to }
}

function holdJson({ id, tenantId, from, to, amount, currency, expiresAtUs, status, captured }: Hold): HoldJson {
  return { ...{ id, tenantId, from, to, amount: `${amount}`, currency, expiresAtUs, status }, captured: `${captured}` }
}

/** Reads what was recorded of a hold. */
export function holdOf(json: HoldJson): Hold {
  return { ...json, amount: BigInt(json.amount), captured: BigInt(json.captured) }
}

export function departedJson(wallet: DepartedWallet): DepartedJson {
  const { currency, status, overdraftLimit, limits, sequence, posted } = wallet
  return {
    ...{ currency, status, overdraftLimit: `${overdraftLimit}`, limits: limitsJson(limits) },
    ...{ sequence, posted: `${posted}` },
  }
}

/** Reads the result of an accepted departure. @throws if it is none */
export function departedOf(result: string | null): DepartedWallet {
  const { wallet } = JSON.parse(result ?? 'null') as { wallet: DepartedJson }
  const { transferMax, balanceMax } = wallet.limits
  return {
    ...wallet,
    overdraftLimit: BigInt(wallet.overdraftLimit),
    posted: BigInt(wallet.posted),
    limits: {
      ...(transferMax === undefined ? {} : { transferMax: BigInt(transferMax) }),
      ...(balanceMax === undefined ? {} : { balanceMax: BigInt(balanceMax) }),
    },
  }
}

/**
 * What the move of a hold does on a shard, in order: the pair of pending lines between its ends as they were is taken back, the pair
 * between them as they are now is written; neither where the shard has none of the ends.
 */
export function holdPairs(
  { before, after }: { readonly before: Homes; readonly after: Homes },
  shard: number,
): { homes: Homes; isEnding: boolean }[] {
  const pair = (homes: Homes, isEnding: boolean) =>
    homes.from === shard || homes.to === shard ? [{ homes, isEnding }] : []
  return [...pair(before, true), ...pair(after, false)]
}

/** The accounts that a step moves on a shard, by id. */
export function accountsOf(operation: RelocationOperation, tenantId: string, shard: number): string[] {
  const transit = (currency: string, peer: number) =>
    systemAccountId({ tenantId, shard, kind: 'transit', currency, peer })
  switch (operation.kind) {
    case 'wallet-depart':
      return [operation.walletId, transit(operation.currency, operation.toShard)]
    case 'wallet-arrive':
      return [operation.wallet.id, transit(operation.wallet.currency, operation.fromShard)]
    case 'hold-move': {
      const { from, to, currency } = operation.hold
      return holdPairs(operation, shard).flatMap(({ homes }) => [
        homes.from === shard ? from : transit(currency, homes.from),
        homes.to === shard ? to : transit(currency, homes.to),
      ])
    }
    default:
      return []
  }
}
