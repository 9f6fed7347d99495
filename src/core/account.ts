import { digestUuid } from './ids.ts'

/** What a system account is for: money at the bank, fees earned, money nobody has claimed. */
export type SystemAccount = 'cash' | 'fees' | 'suspense'

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

/** An account as it is opened: active, empty. */
export function openedAccount(
  fields: Pick<Account, 'id' | 'tenantId' | 'kind' | 'currency' | 'overdraftLimit' | 'limits'>,
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

/** Where a system account lives: each tenant has one of each kind per currency and shard. */
export type SystemAccountPlace = { tenantId: string; shard: number; kind: SystemAccount; currency: string }

/** The id of a system account follows from what it is, so that finding it needs no look-up and two writers agree. */
export function systemAccountId({ tenantId, shard, kind, currency }: SystemAccountPlace): string {
  return digestUuid(`system-account ${tenantId} ${shard} ${kind} ${currency}`)
}

/** Money that is there: credits - debits. */
export function posted(account: Account): bigint {
  return account.creditsPosted - account.debitsPosted
}

/** Money that may be spent: posted - pending out. What is pending in cannot be spent yet. */
export function available(account: Account): bigint {
  return account.creditsPosted - account.debitsPosted - account.debitsPending
}
