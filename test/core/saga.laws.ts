import { type Account, available, posted, systemAccountId } from '../../src/core/account.ts'
import type { HoldStatus } from '../../src/core/hold.ts'
import type { Payload, RequestRecord } from '../../src/core/request.ts'
import { begunSaga, END_KEY, PART_KEY, participantsOf, type Saga, type SagaKind, sagaOf } from '../../src/core/saga.ts'
import { totalOf } from '../../src/core/transfer.ts'
import { recordName } from '../../src/core/workspace.ts'
import type { MemoryState } from './memory-state.ts'

/** What can be wrong with a state. */
export type Sort =
  | 'a shard does not sum to zero'
  | 'balances are not what the records make them'
  | 'below the floor'
  | 'above the limit'
  | 'a closed wallet has money'
  | 'a hold or transfer is not what the records make it'
  | 'a record changed'
  | 'credited and released'
  | 'finalized without commit'
  | 'a part outlives its saga'
  | 'transit accounts differ by more than what is in flight'
  | 'money made or lost'
  | 'money is left between shards'
  | 'never ends'
  | 'a step threw'

/** A state that must not be, and how it came about. */
export class Violation extends Error {
  readonly sort: Sort
  readonly detail: string
  /** What happened, the first thing first. */
  readonly trace: readonly string[]

  constructor(sort: Sort, detail: string, trace: readonly string[] = [], options?: ErrorOptions) {
    const lines = trace.map((line, index) => `${index + 1}. ${line}`)
    super([`${sort}: ${detail}`, ...lines].join('\n'), options)
    this.sort = sort
    this.detail = detail
    this.trace = trace
  }

  /** The same, but other things happened before. */
  after(earlier: readonly string[]): Violation {
    return new Violation(this.sort, this.detail, [...earlier, ...this.trace], { cause: this.cause ?? this })
  }
}

export type Shard = { readonly number: number; readonly state: MemoryState }

/** What the records of one shard say of a saga: its beginning, and every step that was accepted or refused, under whatever key. */
type SagaFacts = { readonly saga: Saga; isBegun: boolean; readonly steps: RequestRecord[] }

const factsOf = memoised(({ state }: Shard): ReadonlyMap<string, SagaFacts> => {
  const facts = new Map<string, SagaFacts>()
  const of = (saga: Saga) => {
    const known = facts.get(saga.id) ?? { saga, isBegun: false, steps: [] }
    facts.set(saga.id, known)
    return known
  }
  for (const record of state.records.values()) {
    const { saga } = payloadOf(record)
    if (saga) of(sagaOf(record.tenantId, saga)).steps.push(record)
    const begun = record.refusal === null ? begunSaga(record.tenantId, record.result) : undefined
    if (begun) of(begun).isBegun = true
  }
  return facts
})

// One shard by itself.

/** What must hold on a shard in every state. @throws Violation */
export function checkShard(shard: Shard): void {
  const books = booksOf(shard)
  const sums = new Map<string, { posted: bigint; pending: bigint }>()
  for (const account of shard.state.accounts.values()) {
    const sum = sums.get(account.currency) ?? { posted: 0n, pending: 0n }
    sum.posted += posted(account)
    sum.pending += account.creditsPending - account.debitsPending
    sums.set(account.currency, sum)
  }
  for (const [currency, sum] of sums) {
    if (sum.posted !== 0n || sum.pending !== 0n) {
      throw new Violation(
        'a shard does not sum to zero',
        `shard ${shard.number}: ${sum.posted}, pending ${sum.pending} ${currency}`,
      )
    }
  }
  for (const account of shard.state.accounts.values()) checkAccount(account, books.get(account.id))
  checkThings(shard)
}

function checkAccount(account: Account, expected: Balance = { posted: 0n, out: 0n, in: 0n }): void {
  const { id, kind, status, debitsPending, creditsPending, overdraftLimit, limits } = account
  const isAsExpected =
    posted(account) === expected.posted && debitsPending === expected.out && creditsPending === expected.in
  if (!isAsExpected) {
    const found = `${posted(account)}, out ${debitsPending}, in ${creditsPending}`
    throw new Violation(
      'balances are not what the records make them',
      `${kind} ${id} has ${found}; not ${expected.posted}, out ${expected.out}, in ${expected.in}`,
    )
  }
  const floor = -(overdraftLimit ?? 0n)
  if (kind === 'wallet' && (available(account) < floor || posted(account) < floor)) {
    throw new Violation('below the floor', `${kind} ${id} may spend ${available(account)}`)
  }
  if (status === 'closed' && (posted(account) !== 0n || debitsPending !== 0n || creditsPending !== 0n)) {
    throw new Violation('a closed wallet has money', `${kind} ${id} has ${posted(account)}`)
  }
  // Limits are not lowered half way here, so what was agreed to stays below them.
  if (limits.balanceMax !== undefined && posted(account) + creditsPending > limits.balanceMax) {
    throw new Violation('above the limit', `${kind} ${id} has ${posted(account)}, and ${creditsPending} pending in`)
  }
}

type Balance = { posted: bigint; out: bigint; in: bigint }

/** What a step that was accepted does to a leg: the sign of the pending lines, and whether the posted ones are written. */
type Effect = { readonly pending: 1n | 0n | -1n; readonly isPosted: boolean }

const NOTHING: Effect = { pending: 0n, isPosted: false }
const RESERVES: Effect = { pending: 1n, isPosted: false }
const FREES: Effect = { pending: -1n, isPosted: false }
const POSTS: Effect = { pending: 0n, isPosted: true }
const TURNS: Effect = { pending: -1n, isPosted: true }

/** Written down once more, apart from the code that does it. */
const EFFECTS: Readonly<Record<SagaKind, Readonly<Record<string, Effect>>>> = {
  move: {
    begin: RESERVES,
    'saga-reserve': RESERVES,
    'saga-commit': POSTS,
    'saga-finalize': TURNS,
    'saga-release': FREES,
  },
  hold: { begin: RESERVES, 'saga-reserve': RESERVES, 'saga-release': FREES },
  capture: { 'saga-commit': TURNS, 'saga-finalize': TURNS },
  'let-go': { begin: FREES, 'saga-commit': FREES },
}

/** Every balance as the shard's records alone make it. */
function booksOf(shard: Shard): Map<string, Balance> {
  const books = new Map<string, Balance>()
  const of = (id: string) => {
    const balance = books.get(id) ?? { posted: 0n, out: 0n, in: 0n }
    books.set(id, balance)
    return balance
  }
  for (const record of shard.state.records.values()) {
    if (record.kind !== 'top-up' || record.refusal !== null) continue
    const { walletId = '', amount = '0', currency = '' } = payloadOf(record)
    const cash = { tenantId: record.tenantId, shard: shard.number, kind: 'cash' as const, currency }
    of(walletId).posted += BigInt(amount)
    of(systemAccountId(cash)).posted -= BigInt(amount)
  }
  for (const { saga, isBegun, steps } of factsOf(shard).values()) {
    const accepted = steps.filter(({ refusal }) => refusal === null).map(({ kind }) => kind as string)
    for (const step of isBegun ? ['begin', ...accepted] : accepted) {
      const { pending, isPosted } = EFFECTS[saga.kind][step] ?? NOTHING
      for (const leg of saga.legs) {
        if (leg.fromShard !== shard.number && leg.toShard !== shard.number) continue
        const transit = {
          tenantId: saga.tenantId,
          shard: shard.number,
          kind: 'transit' as const,
          currency: leg.currency,
        }
        const isHere = (at: number) => at === shard.number
        const payer = of(isHere(leg.fromShard) ? leg.from : systemAccountId({ ...transit, peer: leg.fromShard }))
        const payee = of(isHere(leg.toShard) ? leg.to : systemAccountId({ ...transit, peer: leg.toShard }))
        const moved = isPosted ? (saga.captured ?? leg.amount) : 0n
        payer.posted -= moved
        payee.posted += moved
        payer.out += pending * leg.amount
        payee.in += pending * leg.amount
      }
    }
  }
  return books
}

/** Holds and transfers must be as far as the sagas are that made them and end them. */
function checkThings(shard: Shard): void {
  const { state } = shard
  const statuses = new Map<string, HoldStatus>()
  const reversed = new Map<string, bigint>()
  for (const { saga, isBegun } of factsOf(shard).values()) {
    if (!isBegun) continue
    const end = endOf(shard, saga)
    const isDone = end?.kind === 'saga-finalize'
    if (saga.kind === 'move' && saga.reverses === undefined) {
      const expected = end ? (isDone ? 'completed' : 'compensated') : 'pending'
      expectThing(`transfer ${saga.id}`, state.transfer(saga.id)?.status, expected)
    }
    if (saga.reverses !== undefined && (!end || isDone)) {
      reversed.set(saga.reverses, (reversed.get(saga.reverses) ?? 0n) + totalOf(saga.legs))
    }
    if (saga.kind === 'hold') statuses.set(saga.id, end ? (isDone ? 'held' : 'refused') : 'pending')
  }
  for (const { saga, isBegun } of factsOf(shard).values()) {
    const { holdId } = saga
    if (!isBegun || holdId === undefined) continue
    const end = endOf(shard, saga)
    if (saga.kind === 'let-go') statuses.set(holdId, saga.as === 'release' ? 'released' : 'expired')
    else if (!end) statuses.set(holdId, 'capturing')
    else if (end.kind === 'saga-finalize') statuses.set(holdId, 'captured')
  }
  for (const { id, status } of state.holds.values()) expectThing(`hold ${id}`, status, statuses.get(id))
  for (const { id, status, reversed: found } of state.transfers.values()) {
    expectThing(`what is reversed of ${id}`, found, reversed.get(id) ?? 0n)
    // What has not moved, or never will, can't be taken back.
    if (found !== 0n) expectThing(`transfer ${id}, reversed`, status, 'completed')
  }
}

function expectThing<T>(what: string, found: T | undefined, expected: T | undefined): void {
  if (found === expected) return
  throw new Violation('a hold or transfer is not what the records make it', `${what} is ${found}, not ${expected}`)
}

/** What a record says, beside the time. */
const SAID = ['id', 'kind', 'payload', 'refusal', 'result'] as const

/** What a step may change: nothing that was recorded before. @throws Violation */
export function checkChange(before: Shard, after: Shard): void {
  for (const [name, record] of before.state.records) {
    const now = after.state.records.get(name)
    const isSame = now === record || (now && SAID.every((field) => now[field] === record[field]))
    if (isSame) continue
    throw new Violation('a record changed', `${name} on shard ${before.number}`)
  }
}

// All shards together.

/** Whether a saga is over: its last step is recorded on its coordinator, where everybody looks for it. */
export function isOverOn(shards: readonly Shard[], saga: Saga): boolean {
  return endOf(shardOf(shards, saga.shard), saga) !== undefined
}

/** The sagas that the shards know of. */
export function sagasOf(shards: readonly Shard[]): Saga[] {
  return shards.flatMap((shard) =>
    [...factsOf(shard).values()].filter(({ isBegun }) => isBegun).map(({ saga }) => saga),
  )
}

/** What must hold over all shards in every state. @throws Violation */
export function checkAcross(shards: readonly Shard[]): void {
  const sagas = sagasOf(shards)
  for (const saga of sagas) checkSaga(shards, saga)
  checkTransit(shards, sagas)
  checkTotal(shards)
  if (sagas.every((saga) => isOverOn(shards, saga))) checkIdle(shards)
}

/** The two facts that keep money from moving twice, and that nothing of a saga outlives it. */
function checkSaga(shards: readonly Shard[], saga: Saga): void {
  const steps = shards.flatMap((shard) =>
    (factsOf(shard).get(saga.id)?.steps ?? [])
      .filter(({ refusal }) => refusal === null)
      .map(({ kind }) => ({ shard: shard.number, kind })),
  )
  const has = (kind: string, shard?: number) =>
    steps.some((step) => step.kind === kind && (shard === undefined || step.shard === shard))
  const name = `saga ${saga.id} (${saga.kind})`
  const participants = participantsOf(saga)
  const isAgreed = saga.kind === 'hold' ? participants.every((shard) => has('saga-reserve', shard)) : has('saga-commit')
  const isFinalized = has('saga-finalize')
  const isReleased = has('saga-release')
  if (isAgreed && isReleased) throw new Violation('credited and released', name)
  if (isFinalized && !isAgreed) throw new Violation('finalized without commit', name)
  if (!isOverOn(shards, saga) || (saga.kind === 'hold' && isFinalized)) return
  for (const shard of participants) {
    const isEnded = has(isFinalized ? 'saga-finalize' : 'saga-release', shard)
    if (!has('saga-reserve', shard) || isEnded) continue
    throw new Violation('a part outlives its saga', `${name} is over, but still reserved on shard ${shard}`)
  }
}

/** Two shards' transit accounts cancel out, but for the sagas that are posted on one of them and not yet on the other. */
function checkTransit(shards: readonly Shard[], sagas: readonly Saga[]): void {
  for (const [index, a] of shards.entries()) {
    for (const b of shards.slice(index + 1)) {
      let inFlight = 0n
      for (const saga of sagas) {
        const onA = isPostedOn(a, saga)
        const onB = isPostedOn(b, saga)
        if (onA === onB) continue
        for (const { fromShard, toShard, amount } of saga.legs) {
          const isAToB = fromShard === a.number && toShard === b.number
          const isBToA = fromShard === b.number && toShard === a.number
          if (!isAToB && !isBToA) continue
          // Where the payer lives transit is credited, where the payee lives it is debited.
          const moved = saga.captured ?? amount
          inFlight += onA === isAToB ? moved : -moved
          if (isOverOn(shards, saga)) {
            throw new Violation('money is left between shards', `saga ${saga.id} is over, and posted on one side only`)
          }
        }
      }
      const difference = transitSum(a, b.number) + transitSum(b, a.number)
      if (difference === inFlight) continue
      throw new Violation(
        'transit accounts differ by more than what is in flight',
        `shards ${a.number} and ${b.number} differ by ${difference}, in flight is ${inFlight}`,
      )
    }
  }
}

/** Whether a saga's money has moved on a shard: its part is committed there, or its reservation finalized. */
function isPostedOn(shard: Shard, saga: Saga): boolean {
  if (saga.kind === 'hold' || saga.kind === 'let-go') return false
  const records = [PART_KEY, END_KEY].map((key) => shard.state.record(saga.tenantId, saga.id, key))
  return records.some(
    (record) => record?.refusal === null && (record.kind === 'saga-commit' || record.kind === 'saga-finalize'),
  )
}

/** Wallets and transit accounts together hold what came in from outside. */
function checkTotal(shards: readonly Shard[]): void {
  const accounts = shards.flatMap(({ state }) => [...state.accounts.values()])
  const inside = accounts.filter(({ kind }) => kind === 'wallet' || kind === 'transit')
  const broughtIn = shards
    .flatMap(({ state }) => [...state.records.values()])
    .filter(({ kind }) => kind === 'top-up')
    .reduce((sum, record) => sum + BigInt(payloadOf(record).amount ?? 0), 0n)
  const total = inside.reduce((sum, account) => sum + posted(account), 0n)
  if (total !== broughtIn) throw new Violation('money made or lost', `${total} of ${broughtIn}`)
}

/** When no saga is in flight, nothing is between the shards, and nothing is reserved but by holds, on both sides the same. */
function checkIdle(shards: readonly Shard[]): void {
  for (const shard of shards) {
    for (const { number } of shards) {
      const left = transitSum(shard, number) + transitSum(shardOf(shards, number), shard.number)
      if (left !== 0n) throw new Violation('money is left between shards', `${left}, shards ${shard.number}, ${number}`)
    }
  }
  const holds = shards.flatMap(({ state }) => [...state.holds.values()]).filter(({ status }) => status === 'held')
  for (const { state, number } of shards) {
    for (const account of state.accounts.values()) {
      if (account.kind !== 'wallet') continue
      const out = holds.filter(({ from }) => from === account.id).reduce((sum, { amount }) => sum + amount, 0n)
      const into = holds.filter(({ to }) => to === account.id).reduce((sum, { amount }) => sum + amount, 0n)
      if (account.debitsPending === out && account.creditsPending === into) continue
      throw new Violation(
        'a part outlives its saga',
        `no saga is in flight, but wallet ${account.id} on shard ${number} has ${account.debitsPending} pending out, ${account.creditsPending} in`,
      )
    }
  }
}

function transitSum({ state }: Shard, peer: number): bigint {
  return [...state.accounts.values()]
    .filter((account) => account.kind === 'transit' && account.peer === peer)
    .reduce((sum, account) => sum + posted(account), 0n)
}

function endOf({ state }: Shard, { tenantId, id }: Saga): RequestRecord | undefined {
  return state.records.get(recordName(tenantId, id, END_KEY))
}

function shardOf(shards: readonly Shard[], number: number): Shard {
  const shard = shards.find((one) => one.number === number)
  if (!shard) throw new Error(`no shard ${number}`)
  return shard
}

function payloadOf({ payload }: RequestRecord): Payload {
  return JSON.parse(payload) as Payload
}

function memoised<K extends object, V>(compute: (key: K) => V): (key: K) => V {
  const known = new WeakMap<K, V>()
  return (key) => {
    const value = known.get(key) ?? compute(key)
    known.set(key, value)
    return value
  }
}
