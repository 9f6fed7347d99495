import fc from 'fast-check'
import type { AccountStatus, Limits } from '../../src/core/account.ts'
import { digestUuid, slotOfId } from '../../src/core/ids.ts'
import type { Leg } from '../../src/core/leg.ts'
import type { Refusal } from '../../src/core/refusal.ts'
import { type Operation, type Request, requestOf, scopeOf } from '../../src/core/request.ts'
import { idIn } from './memory-shards.ts'

/** Random work for several shards, whose wallets are in few slots, so that many of them share one. */

export const TENANT = digestUuid('a tenant')

// The choices: the how-manieth wallet, hold, transfer. What they come to is found when the request is made.

type LegChoice = { from: number; to: number; amount: number }
export type Choice =
  | { kind: 'open'; slot: number; isDollars: boolean; overdraftLimit: number; limits: Limits }
  | { kind: 'top-up' | 'withdrawal'; wallet: number; amount: number }
  | { kind: 'transfer'; legs: LegChoice[]; isOtherCurrency: boolean }
  | { kind: 'hold'; leg: LegChoice; expiresInSeconds: number }
  | { kind: 'capture' | 'reversal'; target: number; amount: number | undefined }
  | { kind: 'release' | 'expiry'; target: number }
  | { kind: 'status'; wallet: number; status: AccountStatus }
  | { kind: 'limits'; wallet: number; limits: Limits }
  | { kind: 'again'; target: number }

export type Command = { choice: Choice; waitSeconds: number; pick: number }

const n = fc.nat(99)
const amount = fc.integer({ min: 1, max: 120 })
const part = fc.option(amount, { nil: undefined })
const leg = fc.record({ from: n, to: n, amount })
const limits: fc.Arbitrary<Limits> = fc.oneof(
  { weight: 3, arbitrary: fc.constant({}) },
  { weight: 1, arbitrary: fc.bigInt({ min: 1n, max: 150n }).map((transferMax) => ({ transferMax })) },
  { weight: 1, arbitrary: fc.bigInt({ min: 1n, max: 300n }).map((balanceMax) => ({ balanceMax })) },
)
const status = fc.constantFrom<AccountStatus>('active', 'active', 'active', 'frozen', 'closed')
const open = fc.record({
  kind: fc.constant('open' as const),
  slot: fc.nat(5),
  isDollars: fc.nat(9).map((ten) => ten === 0),
  overdraftLimit: fc.constantFrom(0, 0, 0, 50),
  limits,
})
const kindOf = <K extends Choice['kind']>(...kinds: K[]) => fc.constantFrom(...kinds)
const choice = fc.oneof<{ weight: number; arbitrary: fc.Arbitrary<Choice> }[]>(
  { weight: 1, arbitrary: open },
  { weight: 5, arbitrary: fc.record({ kind: kindOf('top-up', 'withdrawal'), wallet: n, amount }) },
  {
    weight: 12,
    arbitrary: fc.record({
      kind: kindOf('transfer'),
      legs: fc.oneof(fc.array(leg, { minLength: 1, maxLength: 1 }), fc.array(leg, { minLength: 2, maxLength: 6 })),
      isOtherCurrency: fc.nat(29).map((thirty) => thirty === 0),
    }),
  },
  { weight: 8, arbitrary: fc.record({ kind: kindOf('hold'), leg, expiresInSeconds: fc.constantFrom(2, 60, 3600) }) },
  { weight: 14, arbitrary: fc.record({ kind: kindOf('capture', 'reversal'), target: n, amount: part }) },
  { weight: 5, arbitrary: fc.record({ kind: kindOf('release', 'expiry'), target: n }) },
  { weight: 4, arbitrary: fc.record({ kind: kindOf('status'), wallet: n, status }) },
  { weight: 2, arbitrary: fc.record({ kind: kindOf('limits'), wallet: n, limits }) },
  { weight: 3, arbitrary: fc.record({ kind: kindOf('again'), target: n }) },
)
export const command: fc.Arbitrary<Command> = fc.record({
  choice,
  waitSeconds: fc.constantFrom(0, 0, 0, 0, 0, 3),
  pick: fc.nat(255),
})
/** Makes requests of choices, and remembers what may be named by later ones. */
export class Client {
  readonly #wallets: { id: string; currency: string }[] = []
  readonly #holds: string[] = []
  readonly #transfers: string[] = []
  readonly #asked: Request[] = []
  #count = 0

  request(choice: Choice): Request | undefined {
    if (choice.kind === 'again') return pickOf(this.#asked, choice.target)
    const operation = this.#operation(choice)
    if (!operation) return undefined
    this.#count += 1
    const slot = choice.kind === 'open' ? choice.slot : slotOfId(scopeOf(TENANT, operation))
    const request = requestOf(idIn(slot, `request ${this.#count}`), TENANT, `key ${this.#count}`, operation)
    this.#asked.push(request)
    return request
  }

  /** What was accepted can be named from now on; and now and then what was not. */
  note({ id, operation }: Request, isAccepted: boolean): void {
    if (operation.kind === 'wallet-open') this.#wallets.push({ id, currency: operation.currency })
    if (!isAccepted && this.#count % 8 !== 0) return
    if (operation.kind === 'hold') this.#holds.push(id)
    if (['transfer', 'top-up', 'withdrawal'].includes(operation.kind)) this.#transfers.push(id)
  }

  #operation(choice: Exclude<Choice, { kind: 'again' }>): Operation | undefined {
    switch (choice.kind) {
      case 'open': {
        const currency = choice.isDollars ? 'USD' : 'EUR'
        const overdraftLimit = BigInt(choice.overdraftLimit)
        return {
          kind: 'wallet-open',
          holderId: `holder ${this.#count}`,
          currency,
          overdraftLimit,
          limits: choice.limits,
        }
      }
      case 'top-up':
      case 'withdrawal': {
        const wallet = this.#wallet(choice.wallet)
        return { kind: choice.kind, walletId: wallet.id, amount: BigInt(choice.amount), currency: wallet.currency }
      }
      case 'transfer': {
        const legs = this.#legs(choice.legs).map((leg) => (choice.isOtherCurrency ? { ...leg, currency: 'CHF' } : leg))
        return { kind: 'transfer', legs, remarks: {} }
      }
      case 'hold':
        return { kind: 'hold', leg: this.#leg(choice.leg), expiresInSeconds: choice.expiresInSeconds, remarks: {} }
      case 'capture':
      case 'release':
      case 'expiry': {
        const holdId = pickOf(this.#holds.slice(-4), choice.target)
        if (holdId === undefined) return undefined
        if (choice.kind !== 'capture') return { kind: choice.kind, holdId }
        return { kind: 'capture', holdId, ...(choice.amount === undefined ? {} : { amount: BigInt(choice.amount) }) }
      }
      case 'reversal': {
        const transferId = pickOf(this.#transfers.slice(-6), choice.target)
        const amount = choice.amount === undefined ? {} : { amount: BigInt(choice.amount) }
        return transferId === undefined ? undefined : { kind: 'reversal', transferId, ...amount }
      }
      case 'status':
        return { kind: 'wallet-update', walletId: this.#involved(choice.wallet), status: choice.status }
      case 'limits':
        return { kind: 'wallet-update', walletId: this.#wallet(choice.wallet).id, limits: choice.limits }
      default:
        return choice satisfies never
    }
  }

  /** One time in a hundred nobody's, on some shard or other. */
  #wallet(n: number): { id: string; currency: string } {
    const found = n === 99 ? undefined : pickOf(this.#wallets, n)
    return found ?? { id: idIn(this.#count % 6, 'no wallet'), currency: 'EUR' }
  }

  /** Every other time the payee of the last hold. */
  #involved(n: number): string {
    const held = this.#asked.findLast(({ operation }) => operation.kind === 'hold')?.operation
    return n % 2 === 1 && held?.kind === 'hold' ? held.leg.to : this.#wallet(n).id
  }

  #leg({ from, to, amount }: LegChoice): Leg {
    const payer = this.#wallet(from)
    return { from: payer.id, to: this.#wallet(to).id, amount: BigInt(amount), currency: payer.currency }
  }

  #legs(choices: readonly LegChoice[]): Leg[] {
    const legs: Leg[] = []
    for (const leg of choices.map((each) => this.#leg(each))) {
      const isFirst = legs.length === 0
      const isChained = leg.from === leg.to || legs.some(({ from, to }) => leg.from === to || leg.to === from)
      if (isFirst || !isChained) legs.push(leg)
      // A first leg from a wallet to itself stands alone, else the next would be chained to it.
      if (isFirst && isChained) break
    }
    return legs
  }
}

export function pickOf<T>(items: readonly T[], n: number): T | undefined {
  return items[n % items.length]
}

/** Codes that are decided before any other shard is asked, and that nothing another shard may say would have gone before. */
const OF_FIRST_SHARD: ReadonlySet<Refusal> = new Set([
  ...(['same_wallet', 'from_not_found', 'hold_not_found', 'transfer_not_found', 'hold_already_captured'] as const),
  ...(['hold_already_released', 'hold_expired', 'hold_not_expired', 'exceeds_hold', 'already_reversed'] as const),
  ...(['exceeds_reversible', 'wallet_not_empty', 'insufficient_funds'] as const),
])

export function isComparable({ operation }: Request, refusal: Refusal | null): boolean {
  if (refusal === null || operation.kind === 'wallet-update') return true
  const isSingle = operation.kind !== 'transfer' || operation.legs.length === 1
  return isSingle && operation.kind !== 'reversal' && OF_FIRST_SHARD.has(refusal)
}

/** Wallets with money, one in each of these slots. */
export function openingOf(slots: readonly number[]): Command[] {
  return slots.flatMap((slot, i): Command[] => [
    { choice: { kind: 'open', slot, isDollars: false, overdraftLimit: 0, limits: {} }, waitSeconds: 0, pick: 0 },
    { choice: { kind: 'top-up', wallet: i, amount: 100 }, waitSeconds: 0, pick: 0 },
  ])
}
