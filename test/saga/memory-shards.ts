import assert from 'node:assert/strict'
import { type Account, available, posted } from '../../src/core/account.ts'
import { digestUuid, slotOfId } from '../../src/core/ids.ts'
import { type Decision, post } from '../../src/core/post.ts'
import type { Refusal } from '../../src/core/refusal.ts'
import { type Peer, type Request, type RequestRecord, stepRequest, walletsOf } from '../../src/core/request.ts'
import { begunSaga, decide, evolve, initialState, isOver, type Saga, type SagaStep } from '../../src/core/saga.ts'
import { partOf } from '../../src/saga/runner.ts'
import { MemoryState } from '../core/memory-state.ts'

/** An id made of a name that lives in a slot. */
export function idIn(slot: number, name: string): string {
  return `${digestUuid(name).slice(0, -3)}${slot.toString(16).padStart(3, '0')}`
}

/** What a client is told of a request. */
export type Told = { readonly refusal: Refusal | null; readonly isReplay: boolean }

/** The real `post` on so many shards in memory. Each request is seen through to the end of its saga before the next. */
export class MemoryShards {
  readonly count: number
  readonly states: MemoryState[]
  /** Sagas that began, and refusals that came from another shard than the first. */
  sagaCount = 0
  compensatedCount = 0
  /** All that was decided, in order. */
  readonly decided: { readonly shard: number; readonly nowUs: number; readonly decision: Decision }[] = []
  #stepCount = 0

  constructor(count: number) {
    this.count = count
    this.states = Array.from({ length: count }, () => new MemoryState())
  }

  readonly shardOf = (id: string): number => slotOfId(id) % this.count

  /** @param pick which of several steps goes next, and whether it is sent twice */
  ask(request: Request, nowUs: number, pick = 0): Told {
    const { record, isReplay } = this.#post(this.shardOf(request.id), request, nowUs)
    const saga = record.refusal === null ? begunSaga(record.tenantId, record.result) : undefined
    if (!saga) return { refusal: record.refusal, isReplay }
    if (!isReplay) this.sagaCount += 1
    const refusal = this.#run(saga, nowUs, pick)
    if (refusal !== null && !isReplay) this.compensatedCount += 1
    return { refusal, isReplay }
  }

  /** Brings a saga to its end. @returns why it came to nothing */
  #run(saga: Saga, nowUs: number, pick: number): Refusal | null {
    let state = initialState(saga)
    let refusal: Refusal | null = null
    for (let round = 0; !isOver(state); round++) {
      assert.ok(round < 50, `saga ${saga.id} does not end`)
      const steps = decide(state)
      const next = steps[(pick + round) % steps.length]
      assert.ok(next, `saga ${saga.id} is not over, and nothing is to be done`)
      const record = this.#step(saga, next, nowUs)
      if ((pick >> round) % 2 === 1) assert.deepEqual(this.#step(saga, next, nowUs), record)
      if (next.step === 'finalize' || next.step === 'release') {
        if (next.step === 'release') refusal = next.reason?.refusal ?? null
        state = evolve(state, { type: 'ended', shard: next.shard })
      } else {
        state = evolve(state, { type: 'part', shard: next.shard, ...partOf(record) })
      }
    }
    return refusal
  }

  #step(saga: Saga, { shard, step, reason }: SagaStep, nowUs: number): RequestRecord {
    this.#stepCount += 1
    const leg = saga.legs.find(({ fromShard, toShard }) => fromShard === shard || toShard === shard)
    assert.ok(leg, `saga ${saga.id} has nothing to do on shard ${shard}`)
    const id = idIn(slotOfId(leg.fromShard === shard ? leg.from : leg.to), `step ${this.#stepCount}`)
    return this.#post(shard, stepRequest(id, saga, step, reason), nowUs).record
  }

  #post(shard: number, request: Request, nowUs: number): { record: RequestRecord; isReplay: boolean } {
    const state = this.states[shard]
    assert.ok(state)
    const { outcomes, changes, decisions } = post(state, [request], { nowUs, shard, shardOf: this.shardOf })
    for (const decision of decisions) this.decided.push({ shard, nowUs, decision })
    this.states[shard] = state.after(changes)
    const [outcome] = outcomes
    if (outcome === 'ask_peers') return this.#post(shard, { ...request, peers: this.#peersOf(request) }, nowUs)
    assert.ok(typeof outcome === 'object', `${request.operation.kind} is ${outcome}, though every saga is over`)
    assert.notEqual(outcome.status, 'key_reused')
    return { record: outcome.record, isReplay: outcome.status === 'replayed' }
  }

  /** What the other shards say of the wallets of a request. */
  #peersOf({ tenantId, operation }: Request): Map<string, Peer | null> {
    return new Map(
      walletsOf(operation).map((id) => {
        const wallet = this.states[this.shardOf(id)]?.account(id)
        return [id, wallet?.kind === 'wallet' && wallet.tenantId === tenantId ? wallet : null]
      }),
    )
  }

  #all<T>(what: (state: MemoryState) => ReadonlyMap<string, T>): T[] {
    return this.states.flatMap((state) => [...what(state).values()])
  }

  get accounts(): Account[] {
    return this.#all(({ accounts }) => accounts)
  }

  /** What clients can see: wallets, holds, what was reversed of transfers. */
  seen(): { wallets: object; holds: object; transfers: object } {
    const wallets = this.accounts.filter(({ kind }) => kind === 'wallet')
    const holds = this.#all((state) => state.holds).filter(({ status }) => status !== 'refused')
    const transfers = this.#all((state) => state.transfers).filter(({ status }) => status !== 'compensated')
    return {
      wallets: byId(wallets, (wallet) => ({
        ...{ status: wallet.status, limits: wallet.limits, posted: posted(wallet), available: available(wallet) },
        ...{ pendingOut: wallet.debitsPending, pendingIn: wallet.creditsPending },
      })),
      holds: byId(holds, ({ status, captured, expiresAtUs }) => ({ status, captured, expiresAtUs })),
      transfers: byId(transfers, ({ status, reversed }) => ({ status, reversed })),
    }
  }

  /** Every shard sums to zero, and so does every pair of transit accounts; what one keeps pending, the other has pending too. */
  assertBalanced(): void {
    const pairs = new Map<string, { posted: bigint; pending: bigint }>()
    for (const [shard, { accounts }] of this.states.entries()) {
      const sums = new Map<string, { posted: bigint; pending: bigint }>()
      for (const account of accounts.values()) {
        add(sums, account.currency, account)
        if (account.kind !== 'transit') continue
        assert.ok(account.peer !== undefined)
        add(pairs, `${[shard, account.peer].sort().join(' and ')} ${account.currency}`, account)
      }
      for (const [name, sum] of sums) assert.deepEqual(sum, ZERO, `shard ${shard}, ${name}`)
    }
    for (const [name, sum] of pairs) assert.deepEqual(sum, ZERO, `transit ${name}`)
  }
}

const ZERO = { posted: 0n, pending: 0n }

function add(sums: Map<string, { posted: bigint; pending: bigint }>, name: string, account: Account): void {
  const sum = sums.get(name) ?? ZERO
  sums.set(name, {
    posted: sum.posted + posted(account),
    pending: sum.pending + account.creditsPending - account.debitsPending,
  })
}

function byId<T extends { id: string }>(items: readonly T[], view: (item: T) => object): object {
  return Object.fromEntries(items.map((item) => [item.id, view(item)]))
}
