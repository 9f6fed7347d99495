import { digestUuid } from './ids.ts'

/** What a system account is for: money at the bank, fees earned, money nobody has claimed, money between shards. */
export type SystemAccount = 'cash' | 'fees' | 'suspense' | 'transit'

export type AccountStatus = 'active' | 'frozen' | 'closed'

/** What one wallet may do. `undefined` is no limit; amounts are minor units of the wallet's currency. */
export type Limits = {
  /** The largest single amount that may leave the wallet. */
  readonly transferMax?: bigint
  /** The most the wallet may come to hold: posted + pending in, after money arrives. */
  readonly balanceMax?: bigint
}

/**
 * A ledger account. Its balance is never set, only moved by entries: the posted counters only ever grow, the pending
 * ones grow with a hold and shrink by the same amount when the hold ends. Credits raise the balance, debits lower it.
 */
export type Account = {
  readonly id: string
  readonly tenantId: string
  readonly kind: 'wallet' | SystemAccount
  readonly currency: string
  /** Of a transit account, the shard at its other end. */
  readonly peer?: number
  status: AccountStatus
  /** How far below zero `available` may go, >= 0; `null` on system accounts, which have no floor. */
  readonly overdraftLimit: bigint | null
  limits: Limits
  /** The number of the account's last entry; 0 before the first. */
  sequence: number
  debitsPosted: bigint
  creditsPosted: bigint
  debitsPending: bigint
  creditsPending: bigint
}

export type LimitsJson = { transferMax?: string; balanceMax?: string }

/** Limits as they are written in JSON. */
export function limitsJson({ transferMax, balanceMax }: Limits): LimitsJson {
  return {
    ...(transferMax === undefined ? {} : { transferMax: `${transferMax}` }),
    ...(balanceMax === undefined ? {} : { balanceMax: `${balanceMax}` }),
  }
}

/** An account as it is opened: active, empty. */
export function openedAccount(
  fields: Pick<Account, 'id' | 'tenantId' | 'kind' | 'currency' | 'peer' | 'overdraftLimit' | 'limits'>,
): Account {
  return {
    ...fields,
    status: 'active',
    sequence: 0,
    debitsPosted: 0n,
    creditsPosted: 0n,
    debitsPending: 0n,
    creditsPending: 0n,
  }
}

/** Where a system account lives: each tenant has one of each kind per currency and shard, of `transit` one for each peer. */
export type SystemAccountPlace = {
  tenantId: string
  shard: number
  kind: SystemAccount
  currency: string
  /** The shard at the other end of a transit account. */
  peer?: number
}

/** Asked for with every movement, and few. */
const digests = new Map<string, string>()
const DIGESTS_MAX = 10_000

/** The id of a system account follows from what it is, so that finding it needs no look-up and two writers agree. */
export function systemAccountId({ tenantId, shard, kind, currency, peer }: SystemAccountPlace): string {
  const name = `system-account ${tenantId} ${shard} ${peer === undefined ? kind : `${kind}:${peer}`} ${currency}`
  const known = digests.get(name)
  if (known !== undefined) return known
  if (digests.size === DIGESTS_MAX) digests.clear()
  const id = digestUuid(name)
  digests.set(name, id)
  return id
}

/** Money that is there: credits - debits. */
export function posted(account: Account): bigint {
  return account.creditsPosted - account.debitsPosted
}

/** Money that may be spent: posted - pending out. What is pending in cannot be spent yet. */
export function available(account: Account): bigint {
  return account.creditsPosted - account.debitsPosted - account.debitsPending
}
