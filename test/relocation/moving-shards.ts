import assert from 'node:assert/strict'
import { type Account, available, posted } from '../../src/core/account.ts'
import { dueLines } from '../../src/core/dueLines.ts'
import type { Hold } from '../../src/core/hold.ts'
import { slotOfId } from '../../src/core/ids.ts'
import { isMovingSlot, type Layout, type MapChange, nextMap } from '../../src/core/mapChange.ts'
import type { Undecided } from '../../src/core/move.ts'
import { type Decision, type Outcome, post } from '../../src/core/post.ts'
import { isRelocation } from '../../src/core/relocation.ts'
import type { Payload, Request, RequestRecord } from '../../src/core/request.ts'
import { begunSaga, END_KEY, type Saga } from '../../src/core/saga.ts'
import { type ShardMap, shardOfSlot } from '../../src/core/shardMap.ts'
import { recordName } from '../../src/core/workspace.ts'
import { Memory } from '../../src/ledger/memory.ts'
import type { Wanted } from '../../src/ledger/sql/loadState.ts'
import { MemoryState } from '../core/memory-state.ts'

/** As many slots as are in use: all maps are so small here. */
export const SLOTS = 6

/** One shard, as its database would have it. */
type Shard = {
  state: MemoryState
  layout: Layout
  /** Sagas that began here and are not over. */
  readonly inFlight: Map<string, Saga>
  /** What was decided here, by the record's name. */
  readonly own: Map<string, RequestRecord>
  /** What other shards recorded of the slots that came here: by the shard and the record's name. */
  readonly moved: Map<string, RequestRecord>
}

/** What a shard knows of slots, to be copied to another. */
export type History = {
  readonly records: readonly (readonly [name: string, record: RequestRecord])[]
  readonly transfers: MemoryState['transfers']
  readonly holds: readonly Hold[]
}

/** History is copied to a shard that has the slots already: the database refuses. */
export class CopiedTooLate extends Error {}

/**
 * Shards in memory whose slots can be moved: the real `post`, and around it what a database keeps, by the rules of the migrations. After
 * every block is checked what must be true in every state.
 */
export class MovingShards {
  readonly shards: readonly Shard[]
  nowUs = 0
  readonly #post: typeof post
  /** The number of the last entry of each wallet, wherever it was written. */
  readonly #sequences = new Map<string, number>()
  /** What has departed and has not arrived, by change and wallet. */
  readonly #travelling = new Map<string, { pair: string; amount: bigint }>()

  /** @param homes the shard of each slot in the beginning */
  constructor(homes: readonly number[], count: number, posting: typeof post = post) {
    this.#post = posting
    const map: ShardMap = { epoch: 1, shardCount: count, shards: homes, drained: [] }
    this.shards = Array.from({ length: count }, () => ({
      state: new MemoryState(),
      layout: { map, open: undefined },
      inFlight: new Map(),
      own: new Map(),
      moved: new Map(),
    }))
  }

  /** Another one that is as this one is now. */
  copied(): MovingShards {
    const copy = new MovingShards(this.map.shards, this.shards.length, this.#post)
    copy.nowUs = this.nowUs
    for (const [number, { state, layout, inFlight, own, moved }] of this.shards.entries()) {
      const shard = copy.shard(number)
      shard.state = state
      shard.layout = layout
      for (const [id, saga] of inFlight) shard.inFlight.set(id, saga)
      for (const [name, record] of own) shard.own.set(name, record)
      for (const [place, record] of moved) shard.moved.set(place, record)
    }
    for (const [id, sequence] of this.#sequences) copy.#sequences.set(id, sequence)
    for (const [name, travelling] of this.#travelling) copy.#travelling.set(name, travelling)
    return copy
  }

  get numbers(): number[] {
    return [...this.shards.keys()]
  }

  shard(number: number): Shard {
    const shard = this.shards[number]
    assert.ok(shard, `there is no shard ${number}`)
    return shard
  }

  /** The newest map that any shard has. */
  get map(): ShardMap {
    return this.shards.map(({ layout }) => layout.map).reduce((a, b) => (b.epoch > a.epoch ? b : a))
  }

  /** The changes that are under way on some shard. */
  get open(): MapChange[] {
    return this.shards.flatMap(({ layout }) => layout.open?.change ?? [])
  }

  /** Whether everything is somewhere: nothing has left that has not arrived. */
  get isWhole(): boolean {
    return this.shards.every(({ layout: { open } }) => {
      return open?.phase !== 'departing' || this.shard(open.change.to).layout.map.epoch >= open.change.epoch
    })
  }

  /** Posts a block. @returns what becomes of the request @param others what else is in the batch, before it and after */
  post(number: number, request: Request, others: readonly [Request[], Request[]] = [[], []]): Outcome | Undecided {
    const shard = this.shard(number)
    const { map, open } = shard.layout
    const [before, after] = others
    const shardOf = (id: string) => shardOfSlot(map, slotOfId(id))
    const requests = [...before, request, ...after]
    const wanted = new Memory('unbounded').wantedBy(requests, { shard: number, shardOf })
    const context = { nowUs: this.nowUs, shard: number, shardOf, open, map }
    const { outcomes, decisions, changes } = this.#post(loaded(shard.state, wanted), requests, context)
    const outcome = outcomes[before.length]
    assert.ok(outcome)
    const money = this.#money()
    shard.state = shard.state.after(changes)
    for (const decision of decisions) this.#note(number, decision)
    for (const id of changes.sagasEnded) assert.ok(shard.inFlight.delete(id), `${id} ends, but was not in flight`)
    if (decisions.length === 0) return outcome
    const isMoving = decisions.every(({ request }) => isRelocation(request.operation))
    if (isMoving) assert.deepEqual(this.#money(), money, 'a move makes money')
    this.#checkAlways()
    return outcome
  }

  /** What a decision does beside accounts, holds and records. */
  #note(number: number, { request, record, entries }: Decision): void {
    const shard = this.shard(number)
    const { id, operation, scope, key } = request
    shard.own.set(recordName(record.tenantId, scope, key), record)
    const due = record.refusal === null ? dueLines(record, JSON.parse(record.payload) as Payload, number) : []
    const lines = entries.map(({ accountId, amount, currency, layer }) => ({ accountId, amount, currency, layer }))
    assert.deepEqual(
      lines,
      due?.map(({ ends: _, ...line }) => line),
      `${operation.kind} writes other lines than its record says`,
    )
    for (const { accountId, sequence } of entries) {
      if (shard.state.account(accountId)?.kind !== 'wallet') continue
      assert.equal(sequence, (this.#sequences.get(accountId) ?? 0) + 1, `a number of ${accountId} on shard ${number}`)
      this.#sequences.set(accountId, sequence)
    }
    if (record.refusal !== null) return
    const saga = 'saga' in operation ? undefined : begunSaga(record.tenantId, record.result)
    if (saga) shard.inFlight.set(id, saga)
    this.#changeLayout(shard, request)
    if (operation.kind === 'wallet-depart') {
      const pair = `${[number, operation.toShard].sort().join(' and ')} ${operation.currency}`
      const amount = entries.at(-1)?.amount ?? 0n
      this.#travelling.set(`${operation.changeId} ${scope}`, { pair, amount })
    }
    if (operation.kind === 'wallet-arrive') {
      assert.ok(this.#travelling.delete(`${operation.changeId} ${scope}`), `${scope} arrives, but has not left: ${key}`)
    }
  }

  /** As `apply_map_steps` of the migrations. */
  #changeLayout(shard: Shard, { operation }: Request): void {
    const { map, open } = shard.layout
    switch (operation.kind) {
      case 'map-close':
        assert.equal(open, undefined)
        shard.layout = { map, open: { change: operation.change, phase: 'closed' } }
        break
      case 'map-depart':
        assert.ok(open?.change.id === operation.change.id && open.phase === 'closed')
        shard.layout = { map, open: { change: operation.change, phase: 'departing' } }
        break
      case 'map-open':
        assert.equal(open?.change.id, operation.change.id)
        if (operation.isMoved) assert.equal(operation.change.epoch, map.epoch + 1)
        shard.layout = { map: operation.isMoved ? nextMap(map, operation.change) : map, open: undefined }
        break
      default:
    }
  }

  // What is read.

  /** How many sagas that began on a shard and are not over have to do with slots. */
  countSagasOf(number: number, { slots }: MapChange): number {
    return [...this.shard(number).inFlight.values()].filter(({ id, legs }) =>
      [id, ...legs.flatMap(({ from, to }) => [from, to])].some((one) => slots.includes(slotOfId(one))),
    ).length
  }

  /** The open holds of a shard's payers that have an end in the slots of a change. */
  holdsOf(number: number, { slots }: MapChange): Hold[] {
    return [...this.shard(number).state.holds.values()].filter(
      ({ status, from, to }) => status === 'held' && [from, to].some((one) => slots.includes(slotOfId(one))),
    )
  }

  walletsOf(number: number, { slots }: MapChange): Account[] {
    return [...this.shard(number).state.accounts.values()].filter(
      ({ id, kind }) => kind === 'wallet' && slots.includes(slotOfId(id)),
    )
  }

  /** The record of the last step of a saga, by the id of the request that began it, on the shard that it is on now. */
  sagaEnd(number: number, { tenantId, id }: RequestRecord): RequestRecord | undefined {
    const { own, moved } = this.shard(number)
    const name = recordName(tenantId, id, END_KEY)
    if ([...own.values()].some((record) => record.id === id)) return own.get(name)
    const place = [...moved].find(([, record]) => record.id === id)?.[0] ?? ''
    return moved.get(`${place.slice(0, place.indexOf(' '))} ${name}`)
  }

  // History. Steps of sagas and of changes are a shard's own: those of another shard say nothing about this one's.

  history(number: number, { slots, to }: MapChange): History {
    const { state, own, moved } = this.shard(number)
    const places = [
      ...[...own].map(([name, record]) => [`${number} ${name}`, record] as const),
      ...[...moved].filter(([place]) => !place.startsWith(`${to} `)),
    ]
    const isWanted = ([place, { id }]: (typeof places)[number]) => {
      const scope = place.split(' ')[2] ?? ''
      return slots.includes(slotOfId(id)) || (place.includes('§') && slots.includes(slotOfId(scope)))
    }
    return {
      records: places.filter(isWanted),
      transfers: new Map([...state.transfers].filter(([id]) => slots.includes(slotOfId(id)))),
      holds: [...state.holds.values()].filter(
        ({ id, status }) =>
          slots.includes(slotOfId(id)) && ['captured', 'released', 'expired', 'refused'].includes(status),
      ),
    }
  }

  /** @throws CopiedTooLate */
  copy(number: number, { slots }: MapChange, { records, transfers, holds }: History): void {
    const shard = this.shard(number)
    if (slots.some((slot) => shard.layout.map.shards[slot] === number)) throw new CopiedTooLate()
    const { state, moved } = shard
    const known = new Map(state.records)
    for (const [place, record] of records) {
      moved.set(place, record)
      const name = place.slice(place.indexOf(' ') + 1)
      if (!name.includes('§') && !known.has(name)) known.set(name, record)
    }
    const ended = holds.filter(({ id }) => ['moved', undefined].includes(state.hold(id)?.status))
    shard.state = new MemoryState({
      accounts: state.accounts,
      holds: new Map([...state.holds, ...ended.map((hold) => [hold.id, hold] as const)]),
      transfers: new Map([...state.transfers, ...transfers]),
      records: known,
    })
  }

  // What must be true.

  /** In wallets and between shards, by currency. */
  #money(): Map<string, bigint> {
    const sums = new Map<string, bigint>()
    for (const { state } of this.shards) {
      for (const account of state.accounts.values()) {
        if (account.kind !== 'wallet' && account.kind !== 'transit') continue
        sums.set(account.currency, (sums.get(account.currency) ?? 0n) + posted(account))
      }
    }
    return sums
  }

  /** In every state: each shard sums to zero; what is between shards is what has departed and not arrived. */
  #checkAlways(): void {
    const between = new Map<string, bigint>()
    const count = (pair: string, amount: bigint) => between.set(pair, (between.get(pair) ?? 0n) + amount)
    for (const [number, { state }] of this.shards.entries()) {
      const sums = new Map<string, bigint>()
      for (const account of state.accounts.values()) {
        const { currency, kind, peer } = account
        sums.set(currency, (sums.get(currency) ?? 0n) + posted(account))
        const pending = `${currency} pending`
        sums.set(pending, (sums.get(pending) ?? 0n) + account.creditsPending - account.debitsPending)
        if (kind === 'wallet')
          assert.ok(available(account) >= -(account.overdraftLimit ?? 0n), `${account.id} is below its floor`)
        if (kind === 'transit') count(`${[number, peer].sort().join(' and ')} ${currency}`, posted(account))
      }
      for (const [name, sum] of sums) assert.equal(sum, 0n, `shard ${number}, ${name}`)
    }
    if (this.shards.some(({ inFlight }) => inFlight.size > 0)) return
    for (const { pair, amount } of this.#travelling.values()) count(pair, -amount)
    for (const [pair, amount] of between) assert.equal(amount, 0n, `between ${pair}, beside what is on its way`)
  }

  /** When nothing is under way any more: nothing is left behind, and nothing between shards. */
  checkSettled(): void {
    const { map } = this
    for (const [number, { layout, inFlight }] of this.shards.entries()) {
      assert.deepEqual(layout, { map, open: undefined }, `shard ${number}`)
      assert.equal(inFlight.size, 0, `sagas of shard ${number} that are not over`)
    }
    assert.equal(this.#travelling.size, 0, 'wallets that left and have not arrived')
    const pending = new Map<string, bigint>()
    const pairs = new Map<string, bigint>()
    const add = (sums: Map<string, bigint>, name: string, amount: bigint) =>
      sums.set(name, (sums.get(name) ?? 0n) + amount)
    for (const [number, { state }] of this.shards.entries()) {
      for (const account of state.accounts.values()) {
        const { id, kind, currency, peer, debitsPending, creditsPending } = account
        if (kind === 'transit') {
          const pair = `${[number, peer].sort().join(' and ')} ${currency}`
          add(pairs, pair, posted(account))
          add(pairs, `${pair} pending`, creditsPending - debitsPending)
        }
        if (kind !== 'wallet') continue
        if (shardOfSlot(map, slotOfId(id)) !== number) {
          assert.deepEqual(
            [posted(account), debitsPending, creditsPending],
            [0n, 0n, 0n],
            `${id}, left on shard ${number}`,
          )
        } else {
          add(pending, `out of ${id}`, debitsPending)
          add(pending, `into ${id}`, creditsPending)
        }
      }
      for (const { id, status, from, to, amount } of state.holds.values()) {
        if (shardOfSlot(map, slotOfId(id)) !== number) {
          assert.ok(
            !['held', 'pending', 'capturing'].includes(status),
            `${id} is ${status} on shard ${number}, which it left`,
          )
        } else if (status === 'held') {
          add(pending, `out of ${from}`, -amount)
          add(pending, `into ${to}`, -amount)
        } else assert.ok(!['pending', 'capturing', 'moved'].includes(status), `${id} is ${status}`)
      }
    }
    for (const [name, sum] of pairs) assert.equal(sum, 0n, `between ${name}`)
    for (const [name, sum] of pending) assert.equal(sum, 0n, `pending ${name}, without a hold`)
  }

  /** What clients can see, each thing where the newest map has it: as `MemoryShards.seen`. */
  seen(): { wallets: object; holds: object; transfers: object } {
    const { map } = this
    const here = <T>(what: (state: MemoryState) => ReadonlyMap<string, T>): [string, T][] =>
      this.shards.flatMap(({ state }, number) =>
        [...what(state)].filter(([id]) => slotOfId(id) < SLOTS && shardOfSlot(map, slotOfId(id)) === number),
      )
    const wallets = here(({ accounts }) => accounts).filter(([, { kind }]) => kind === 'wallet')
    const holds = here((state) => state.holds).filter(([, { status }]) => status !== 'refused')
    const transfers = here((state) => state.transfers).filter(([, { status }]) => status !== 'compensated')
    return {
      wallets: view(wallets, (wallet) => ({
        ...{ status: wallet.status, limits: wallet.limits, posted: posted(wallet), available: available(wallet) },
        ...{ pendingOut: wallet.debitsPending, pendingIn: wallet.creditsPending },
      })),
      holds: view(holds, ({ status, captured, expiresAtUs }) => ({ status, captured, expiresAtUs })),
      transfers: view(transfers, ({ status, reversed }) => ({ status, reversed })),
    }
  }

  /** A wallet, by whoever believes a map; `undefined` if it is on its way, `null` if it is not there. */
  wallet(tenantId: string, id: string): Account | null | undefined {
    const number = shardOfSlot(this.map, slotOfId(id))
    const { layout, state } = this.shard(number)
    if (layout.open?.phase === 'departing' && isMovingSlot(layout.open.change, slotOfId(id))) return undefined
    const account = state.account(id)
    return account?.kind === 'wallet' && account.tenantId === tenantId ? account : null
  }
}

/** As much of a state as a poster loads for a batch: what is not asked for is not there, as in `loadState`. */
function loaded(state: MemoryState, wanted: Wanted): MemoryState {
  const names = new Set(wanted.records.map(({ tenantId, scope, key }) => recordName(tenantId, scope, key)))
  const accounts = new Set(wanted.accounts)
  const isIndirect = wanted.holds.length + wanted.transfers.length > 0
  for (const end of [
    ...wanted.holds.flatMap((id) => [state.hold(id)]),
    ...wanted.transfers.flatMap((id) => state.transfer(id)?.movements ?? []),
  ]) {
    for (const id of [end?.from, end?.to]) if (id) accounts.add(id)
  }
  return new MemoryState({
    accounts: new Map(
      [...state.accounts].filter(([id, { kind }]) => accounts.has(id) || (isIndirect && kind !== 'wallet')),
    ),
    holds: new Map([...state.holds].filter(([id]) => wanted.holds.includes(id))),
    transfers: new Map([...state.transfers].filter(([id]) => wanted.transfers.includes(id))),
    records: new Map([...state.records].filter(([name]) => names.has(name))),
  })
}

function view<T>(items: readonly (readonly [string, T])[], of: (item: T) => object): object {
  return Object.fromEntries(items.map(([id, item]) => [id, of(item)]))
}
