import { type Account, openedAccount, posted, type SystemAccountPlace, systemAccountId } from './account.ts'
import type { Hold } from './hold.ts'
import type { RequestRecord } from './request.ts'
import type { Transfer } from './transfer.ts'

/** `posted` is money that has moved, `pending` money that is reserved to move. */
export type Layer = 'posted' | 'pending'

/** One line of the ledger. Debits are negative, credits positive; the balances are those after it. */
export type Entry = {
  readonly accountId: string
  readonly sequence: number
  readonly currency: string
  readonly amount: bigint
  readonly layer: Layer
  readonly posted: bigint
  readonly pendingOut: bigint
  readonly pendingIn: bigint
}

/** What the ledger knows before a batch, as far as the batch names it. Reading it has no effect. */
export type State = {
  account(id: string): Account | undefined
  hold(id: string): Hold | undefined
  transfer(id: string): Transfer | undefined
  record(tenantId: string, scope: string, key: string): RequestRecord | undefined
}

/** The name of an idempotency record: tenant, scope and key. The first two are UUIDs, so a space can't be mistaken. */
export function recordName(tenantId: string, scope: string, key: string): string {
  return `${tenantId} ${scope} ${key}`
}

/**
 * What a batch makes of the state while it is decided: copies of what it touches, over a state that stays as it was.
 * Invariant: entries and counters change together, in `move` alone.
 */
export class Workspace {
  readonly accounts = new Map<string, Account>()
  readonly opened: Account[] = []
  /** Accounts whose status or limits were changed by a request. */
  readonly settingsChanged = new Set<string>()
  readonly holds = new Map<string, Hold>()
  readonly transfers = new Map<string, Transfer>()
  readonly records = new Map<string, RequestRecord>()
  /** Sagas that began here, and sagas that began here once and are over now; ids. */
  readonly sagasBegun: string[] = []
  readonly sagasEnded: string[] = []
  /** The shard map, or what is under way with it, changes with this batch, and counts from the next one on. */
  isLayoutChanged = false

  #entries: Entry[] = []
  #before: Account[] = []
  #openedBefore = 0
  readonly #state: State

  constructor(state: State) {
    this.#state = state
  }

  /** An account to read or move; the caller's state is not touched by what becomes of it. */
  account(id: string): Account | undefined {
    const mine = this.accounts.get(id)
    if (mine) return mine
    const before = this.#state.account(id)
    if (!before) return undefined
    const copy = { ...before }
    this.accounts.set(id, copy)
    return copy
  }

  hold(id: string): Hold | undefined {
    return this.holds.get(id) ?? this.#state.hold(id)
  }

  transfer(id: string): Transfer | undefined {
    return this.transfers.get(id) ?? this.#state.transfer(id)
  }

  record(tenantId: string, scope: string, key: string): RequestRecord | undefined {
    return this.records.get(recordName(tenantId, scope, key)) ?? this.#state.record(tenantId, scope, key)
  }

  open(account: Account): Account {
    this.accounts.set(account.id, account)
    this.opened.push(account)
    return account
  }

  /** A wallet that comes from another shard: unknown here so far, or left here before. Its numbers go on where they were. */
  arrive(account: Account): Account {
    const before = this.account(account.id)
    if (
      before &&
      (before.sequence > account.sequence ||
        posted(before) !== 0n ||
        before.debitsPending + before.creditsPending !== 0n)
    ) {
      throw new Error(`the wallet ${account.id} arrives where it is already`)
    }
    const { debitsPosted = 0n, creditsPosted = 0n } = before ?? {}
    const arrived = { ...account, debitsPosted, creditsPosted }
    this.accounts.set(account.id, arrived)
    return arrived
  }

  /** A system account, opened the first time it is needed. */
  systemAccount(place: SystemAccountPlace): Account {
    const id = systemAccountId(place)
    const { shard: _, ...identity } = place
    return this.account(id) ?? this.open(openedAccount({ id, ...identity, overdraftLimit: null, limits: {} }))
  }

  /**
   * Writes one entry and moves the counter it stands for.
   * @param amount debit negative, credit positive
   * @param ends true for the pending line that takes an earlier one of the opposite sign back
   */
  move(account: Account, amount: bigint, layer: Layer, ends = false): void {
    if (this.#before.every(({ id }) => id !== account.id)) this.#before.push({ ...account })
    account.sequence += 1
    if (layer === 'posted') {
      if (amount < 0n) account.debitsPosted -= amount
      else account.creditsPosted += amount
    } else if (amount < 0n !== ends) {
      account.debitsPending -= amount
    } else {
      account.creditsPending += amount
    }
    this.#entries.push({
      accountId: account.id,
      sequence: account.sequence,
      currency: account.currency,
      amount,
      layer,
      posted: posted(account),
      pendingOut: account.debitsPending,
      pendingIn: account.creditsPending,
    })
  }

  /** Ends a request that went through: hands over its entries. */
  commit(): readonly Entry[] {
    const entries = this.#entries
    this.#entries = []
    this.#before = []
    this.#openedBefore = this.opened.length
    return entries
  }

  /** Ends a request that was refused half way: every account is as it was before it, and none was opened. */
  rollback(): void {
    for (const before of this.#before) Object.assign(this.accounts.get(before.id) ?? before, before)
    for (const { id } of this.opened.splice(this.#openedBefore)) this.accounts.delete(id)
    this.#entries = []
    this.#before = []
  }
}
