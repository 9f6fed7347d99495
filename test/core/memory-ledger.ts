import type { Account, Limits } from '../../src/core/account.ts'
import { digestUuid } from '../../src/core/ids.ts'
import { type Decision, type Outcome, type Posting, post } from '../../src/core/post.ts'
import type { Refusal } from '../../src/core/refusal.ts'
import { type Operation, type Request, requestOf } from '../../src/core/request.ts'
import { MemoryState } from './memory-state.ts'

export const TENANT = digestUuid('a tenant')
export const OTHER_TENANT = digestUuid('another tenant')
export const SHARD = 0

/** On one shard nothing is ever busy. */
export type Settled = Omit<Posting, 'outcomes'> & { readonly outcomes: readonly Outcome[] }

export function settled({ outcomes, ...rest }: Posting): Settled {
  return {
    ...rest,
    outcomes: outcomes.map((outcome) => {
      if (typeof outcome !== 'object') throw new Error(`a request is ${outcome}, on a single shard`)
      return outcome
    }),
  }
}

type Asking = { tenantId?: string; key?: string }

/** A ledger to try things on by hand: it names requests, keeps the time, and carries the state from batch to batch. */
export class MemoryLedger {
  state = new MemoryState()
  /** The time of the last batch; each comes a microsecond later, unless somebody waits. */
  nowUs = 1_700_000_000_000_000
  #requestCount = 0

  wait(seconds: number): void {
    this.nowUs += seconds * 1_000_000
  }

  /** A request under an id and, unless one is given, a key of its own. */
  request(operation: Operation, { tenantId = TENANT, key }: Asking = {}): Request {
    this.#requestCount += 1
    return requestOf(
      digestUuid(`request ${this.#requestCount}`),
      tenantId,
      key ?? `key ${this.#requestCount}`,
      operation,
    )
  }

  /** Posts one batch. */
  post(...requests: Request[]): Settled {
    this.nowUs += 1
    const posting = settled(post(this.state, requests, { nowUs: this.nowUs, shard: SHARD, shardOf: () => SHARD }))
    this.state = this.state.after(posting.changes)
    return posting
  }

  /** Posts a batch of one new request and answers what was decided. */
  ask(operation: Operation, asking?: Asking): Decision {
    const [decision] = this.post(this.request(operation, asking)).decisions
    if (!decision) throw new Error('this was asked before')
    return decision
  }

  /** What must go through, → the id of what it made. */
  make(operation: Operation, asking?: Asking): string {
    const { record } = this.ask(operation, asking)
    if (record.refusal !== null) throw new Error(`${operation.kind} was refused: ${record.refusal}`)
    return record.id
  }

  refusalOf(operation: Operation, asking?: Asking): Refusal | null {
    return this.ask(operation, asking).record.refusal
  }

  /** Opens a wallet, tops it up, → its id. */
  wallet({ currency = 'EUR', funds = 0n, overdraftLimit = 0n, limits = {}, tenantId = TENANT }: Wanted = {}): string {
    const holderId = `holder ${this.#requestCount}`
    const id = this.make({ kind: 'wallet-open', holderId, currency, overdraftLimit, limits }, { tenantId })
    if (funds > 0n) this.make({ kind: 'top-up', walletId: id, amount: funds, currency }, { tenantId })
    return id
  }

  account(id: string): Account {
    const account = this.state.account(id)
    if (!account) throw new Error(`no account ${id}`)
    return account
  }

  /** Posted, pending out, pending in. */
  balance(id: string): [posted: bigint, pendingOut: bigint, pendingIn: bigint] {
    const { debitsPosted, creditsPosted, debitsPending, creditsPending } = this.account(id)
    return [creditsPosted - debitsPosted, debitsPending, creditsPending]
  }
}

type Wanted = { currency?: string; funds?: bigint; overdraftLimit?: bigint; limits?: Limits; tenantId?: string }

// Operations, as short as tables want them.

export type Amounts = readonly [from: string, to: string, amount: bigint, currency?: string]

export function transfer(...legs: Amounts[]): Operation {
  return { kind: 'transfer', legs: legs.map(legOf), remarks: {} }
}

export function hold(leg: Amounts, expiresInSeconds = 60): Operation {
  return { kind: 'hold', leg: legOf(leg), expiresInSeconds, remarks: {} }
}

function legOf([from, to, amount, currency = 'EUR']: Amounts) {
  return { from, to, amount, currency }
}

export function topUp(walletId: string, amount: bigint, currency = 'EUR'): Operation {
  return { kind: 'top-up', walletId, amount, currency }
}

export function withdrawal(walletId: string, amount: bigint, currency = 'EUR'): Operation {
  return { kind: 'withdrawal', walletId, amount, currency }
}

export function reversal(transferId: string, amount?: bigint): Operation {
  return { kind: 'reversal', transferId, ...(amount === undefined ? {} : { amount }) }
}

export function capture(holdId: string, amount?: bigint): Operation {
  return { kind: 'capture', holdId, ...(amount === undefined ? {} : { amount }) }
}

export function release(holdId: string): Operation {
  return { kind: 'release', holdId }
}

export function expiry(holdId: string): Operation {
  return { kind: 'expiry', holdId }
}

export function update(
  walletId: string,
  change: { status?: 'active' | 'frozen' | 'closed'; limits?: Limits; name?: string },
): Operation {
  return { kind: 'wallet-update', walletId, ...change }
}
