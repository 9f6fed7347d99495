import { describe, expect, test } from 'vitest'
import { DEAD, REQUESTS, RETRY, RETRY_SLOW } from '../../src/async/kafkaQueue.ts'
import { isSound } from '../../src/bus/eventData.ts'
import {
  ENTRIES,
  type EntryData,
  eventsOf,
  type LedgerEvent,
  type StoredBlock,
  TOPICS,
  TRANSACTIONS,
  type TransactionData,
} from '../../src/bus/events.ts'
import { formatId } from '../../src/core/ids.ts'
import { type Operation, requestOf } from '../../src/core/request.ts'
import {
  capture,
  expiry,
  hold,
  release,
  reversal,
  TENANT,
  topUp,
  transfer,
  update,
  withdrawal,
} from '../core/memory-ledger.ts'
import { idIn, MemoryShards } from '../saga/memory-shards.ts'
import { DOCUMENT, faultsOf } from './asyncapi.ts'

const NOW_US = 1_764_000_000_123_456
const LATER_US = NOW_US + 120_000_000

/** Shards in memory, and the events of all that happens on them. */
class World {
  readonly shards: MemoryShards
  #count = 0
  #seen = 0
  readonly blocks: StoredBlock[] = []
  readonly #blocks: number[]

  constructor(shardCount: number) {
    this.shards = new MemoryShards(shardCount)
    this.#blocks = Array.from({ length: shardCount }, () => 0)
  }

  /** Asks for something on a shard; its id, and what was published of it since the last time. */
  ask(operation: Operation, shard = 0, nowUs = NOW_US): { id: string; refusal: string | null; events: LedgerEvent[] } {
    const id = idIn(shard, `request ${++this.#count}`)
    const { refusal } = this.shards.ask(requestOf(id, TENANT, `key ${this.#count}`, operation), nowUs)
    return { id, refusal, events: this.published() }
  }

  wallet(shard = 0, funds = 0n): string {
    const { id } = this.ask(
      { kind: 'wallet-open', holderId: `h${this.#count}`, currency: 'EUR', overdraftLimit: 0n, limits: {} },
      shard,
    )
    if (funds > 0n) this.ask(topUp(id, funds), shard)
    return id
  }

  published(): LedgerEvent[] {
    const fresh = this.shards.decided.slice(this.#seen)
    this.#seen = this.shards.decided.length
    return fresh.flatMap(({ shard, nowUs, decision }) => {
      const number = (this.#blocks[shard] ?? 0) + 1
      this.#blocks[shard] = number
      const { request, record, entries } = decision
      const nameOf = (id: string) => {
        const account = this.shards.states[shard]?.account(id)
        return account?.peer === undefined ? `${account?.kind}` : `${account.kind}:${account.peer}`
      }
      const { id, tenantId } = request
      const { kind, payload, result, refusal } = record
      const lines = entries.map((entry, line) => ({ ...entry, line, accountName: nameOf(entry.accountId) }))
      const block: StoredBlock = {
        ...{ shard, number, timeUs: nowUs },
        items: [{ id, tenantId, kind, payload, result, refusal, entries: lines }],
      }
      this.blocks.push(block)
      return eventsOf(block)
    })
  }
}

test('the topics are those that docs/asyncapi.yaml names', () => {
  expect(Object.values(DOCUMENT.channels).map(({ address }) => address)).toEqual([
    ...TOPICS,
    REQUESTS,
    RETRY,
    RETRY_SLOW,
    DEAD,
  ])
})

test('an event of before there were refused ones is sound without the field, and not with nonsense in it', () => {
  const world = new World(1)
  const [event] = world.ask(topUp(world.wallet(), 5n)).events
  if (event?.topic !== TRANSACTIONS) throw new Error('no transaction')
  const { refusal, ...older } = event.data as TransactionData
  expect(refusal).toBeNull()
  expect(isSound({ ...event, data: older } as LedgerEvent)).toBe(true)
  expect(isSound({ ...event, data: { ...older, refusal: 5 } } as unknown as LedgerEvent)).toBe(false)
  const { movements: _, ...broken } = older
  expect(isSound({ ...event, data: broken } as LedgerEvent)).toBe(false)
})

const transactionsOf = (events: readonly LedgerEvent[]) =>
  events.filter(({ topic }) => topic === TRANSACTIONS).map(({ data }) => data as TransactionData)
const entriesOf = (events: readonly LedgerEvent[]) =>
  events.filter(({ topic }) => topic === ENTRIES).map(({ data }) => data as EntryData)
const wal = (id: string) => formatId('wal', id)

/** What of an entry depends on the rules, on one line. */
const short = ({ walletId, layer, amount, balance, statement, step }: EntryData, names: Record<string, string>) =>
  `${names[walletId]} ${layer} ${amount} → ${balance.posted} -${balance.pendingOut} +${balance.pendingIn}${step ? ` ${step}` : ''}${statement ? '' : ' (silent)'}`

describe('on one shard', () => {
  test('a transfer is one transaction, and an entry for each wallet; ids, times and amounts are as in the API', () => {
    const world = new World(1)
    const [a, b] = [world.wallet(0, 100n), world.wallet()]
    const remarks = { memo: 'rent', metadata: { x: 'y' }, effectiveAt: '2026-01-01' }
    const leg = { from: a, to: b, amount: 30n, currency: 'EUR' }
    const { id, events } = world.ask({ kind: 'transfer', legs: [leg], remarks })
    const asked = {
      ...{ kind: 'transfer', step: null, transferId: formatId('trf', id), holdId: null, memo: 'rent' },
      createdAt: '2025-11-24T16:00:00.123456Z',
    }
    expect(events.map(({ topic, key, id, subject }) => ({ topic, key, id, subject }))).toEqual([
      { topic: TRANSACTIONS, key: formatId('txn', id), id: '0.4.0', subject: formatId('txn', id) },
      { topic: ENTRIES, key: wal(a), id: '0.4.1', subject: wal(a) },
      { topic: ENTRIES, key: wal(b), id: '0.4.2', subject: wal(b) },
    ])
    expect(events[1]).toMatchObject({
      ...{ place: { shard: 0, block: 4, index: 1 }, source: '/zerosum/shards/0', type: 'zerosum.entry.v1' },
      ...{ time: asked.createdAt, tenant: formatId('ten', TENANT) },
    })
    expect(transactionsOf(events)).toEqual([
      {
        ...{ id: formatId('txn', id), ...asked, status: 'completed', refusal: null },
        movements: [{ from: wal(a), to: wal(b), amount: '30', currency: 'EUR' }],
        ...{ reverses: null, reference: null, metadata: { x: 'y' }, effectiveAt: '2026-01-01' },
      },
    ])
    expect(entriesOf(events)).toEqual([
      {
        ...{ id: `ent_${a.replaceAll('-', '')}_2`, transactionId: formatId('txn', id), ...asked },
        ...{ walletId: wal(a), sequence: 2, layer: 'posted', amount: '-30', currency: 'EUR', counterparty: wal(b) },
        balance: { posted: '70', pendingIn: '0', pendingOut: '0', available: '70' },
        statement: true,
      },
      expect.objectContaining({ walletId: wal(b), sequence: 1, amount: '30', counterparty: wal(a) }),
    ])
  })

  test.each<
    [kind: string, operation: (world: World, a: string, b: string) => Operation, lines: string[], more: object]
  >([
    [
      'top-up',
      (_, a) => topUp(a, 5n),
      ['a posted 5 → 105 -0 +0'],
      { kind: 'top-up', movements: [{ from: null, amount: '5' }] },
    ],
    [
      'withdrawal',
      (_, a) => withdrawal(a, 5n),
      ['a posted -5 → 95 -0 +0'],
      { kind: 'withdrawal', movements: [{ to: null }] },
    ],
    [
      'transfer of several legs',
      (_, a, b) => transfer([a, b, 10n], [b, a, 4n]),
      ['a posted -10 → 90 -0 +0', 'b posted 10 → 10 -0 +0', 'b posted -4 → 6 -0 +0', 'a posted 4 → 94 -0 +0'],
      { movements: [{ amount: '10' }, { amount: '4' }] },
    ],
    [
      'reversal',
      (world, a, b) => reversal(world.ask(transfer([a, b, 10n])).id, 3n),
      ['b posted -3 → 7 -0 +0', 'a posted 3 → 93 -0 +0'],
      { kind: 'reversal', movements: [{ amount: '3' }], reverses: expect.stringMatching(/^trf_/) },
    ],
    [
      'hold',
      (_, a, b) => hold([a, b, 10n]),
      ['a pending -10 → 100 -10 +0', 'b pending 10 → 0 -0 +10'],
      { kind: 'hold', transferId: null, holdId: expect.stringMatching(/^hld_/), movements: [{ amount: '10' }] },
    ],
    [
      'capture of a part',
      (world, a, b) => capture(world.ask(hold([a, b, 10n])).id, 4n),
      ['a pending 10 → 100 -0 +0', 'b pending -10 → 0 -0 +0', 'a posted -4 → 96 -0 +0', 'b posted 4 → 4 -0 +0'],
      { kind: 'capture', holdId: expect.stringMatching(/^hld_/), movements: [{ amount: '4' }] },
    ],
    [
      'release',
      (world, a, b) => release(world.ask(hold([a, b, 10n])).id),
      ['a pending 10 → 100 -0 +0', 'b pending -10 → 0 -0 +0'],
      { kind: 'release', movements: [{ amount: '10' }] },
    ],
    [
      'expiry',
      (world, a, b) => expiry(world.ask(hold([a, b, 10n])).id),
      ['a pending 10 → 100 -0 +0', 'b pending -10 → 0 -0 +0'],
      { kind: 'expiry', movements: [{ amount: '10' }] },
    ],
  ])('%s', (_, operation, lines, more) => {
    const world = new World(1)
    const [a, b] = [world.wallet(0, 100n), world.wallet()]
    const asked = operation(world, a, b)
    const { refusal, events } = world.ask(asked, 0, asked.kind === 'expiry' ? LATER_US : NOW_US)
    expect(refusal).toBeNull()
    expect(entriesOf(events).map((entry) => short(entry, { [wal(a)]: 'a', [wal(b)]: 'b' }))).toEqual(lines)
    expect(transactionsOf(events)).toMatchObject([{ status: 'completed', step: null, ...more }])
    expect(events.flatMap(faultsOf)).toEqual([])
  })

  test('what moves no money makes no events: wallets opened and changed, wallets that change their shard', () => {
    const world = new World(1)
    const [a, b] = [world.wallet(), world.wallet()]
    expect(world.published()).toEqual([])
    expect(world.ask(update(a, { name: 'mine' })).events).toEqual([])
    expect(world.ask(update(b, { status: 'closed' })).events).toEqual([])
    expect(world.ask(update(b, { status: 'active' }))).toMatchObject({ refusal: 'wallet_closed', events: [] })
    expect(world.ask(release(a))).toMatchObject({ refusal: 'hold_not_found', events: [] })
    const entry = {
      ...({
        line: 0,
        accountId: a,
        accountName: 'wallet',
        sequence: 1,
        currency: 'EUR',
        layer: 'posted',
        amount: 1n,
      } as const),
      ...{ posted: 1n, pendingOut: 0n, pendingIn: 0n },
    }
    for (const kind of ['wallet-depart', 'wallet-arrive', 'hold-move', 'map-open'] as const) {
      const item = { id: a, tenantId: TENANT, kind, payload: '{}', result: null, refusal: null, entries: [entry] }
      expect(eventsOf({ shard: 0, number: 1, timeUs: 1, items: [item] })).toEqual([])
    }
  })
})

describe('what is refused', () => {
  const outside = { transferId: expect.stringMatching(/^trf_/), holdId: null }
  const held = { transferId: null, holdId: expect.stringMatching(/^hld_/) }
  test.each<
    [kind: string, operation: (world: World, a: string, b: string) => Operation, refusal: string, more: object]
  >([
    [
      'transfer',
      (_, a, b) => transfer([a, b, 101n]),
      'insufficient_funds',
      { ...outside, movements: [{ amount: '101' }] },
    ],
    ['top-up', (_, a) => topUp(a, 1n, 'USD'), 'currency_mismatch', { ...outside, movements: [{ from: null }] }],
    ['withdrawal', (_, a) => withdrawal(a, 101n), 'insufficient_funds', { ...outside, movements: [{ to: null }] }],
    [
      'reversal',
      (world, a, b) => reversal(world.ask(transfer([a, b, 1n])).id, 2n),
      'exceeds_reversible',
      { ...outside, movements: [], reverses: expect.stringMatching(/^trf_/) },
    ],
    ['hold', (_, a, b) => hold([a, b, 101n]), 'insufficient_funds', { ...held, movements: [{ amount: '101' }] }],
    [
      'capture',
      (world, a, b) => capture(world.ask(hold([a, b, 1n])).id, 2n),
      'exceeds_hold',
      { ...held, movements: [] },
    ],
  ])('a %s is one transaction event with the reason, and no entries', (kind, operation, refusal, more) => {
    const world = new World(1)
    const [a, b] = [world.wallet(0, 100n), world.wallet()]
    const asked = world.ask(operation(world, a, b))
    expect(asked.refusal).toBe(refusal)
    expect(entriesOf(asked.events)).toEqual([])
    expect(transactionsOf(asked.events)).toMatchObject([{ kind, status: 'refused', refusal, step: null, ...more }])
    expect(asked.events.flatMap(faultsOf)).toEqual([])
  })

  test('comes after all other events of its block: the places of those are what they were before refusals were told', () => {
    const world = new World(1)
    const [a, b] = [world.wallet(0, 100n), world.wallet()]
    const asked = [transfer([a, b, 500n]), transfer([a, b, 1n]), transfer([a, b, 600n]), topUp(b, 1n)]
    const first = world.blocks.length
    const ids = asked.map((operation) => world.ask(operation).id)
    const items = world.blocks.slice(first).flatMap(({ items }) => items)
    const block = { shard: 0, number: 9, timeUs: NOW_US }
    const before = eventsOf({ ...block, items: items.filter(({ refusal }) => refusal === null) })
    const events = eventsOf({ ...block, items })
    expect(before).toHaveLength(5)
    expect(events.slice(0, before.length)).toEqual(before)
    expect(events.slice(before.length).map(({ id, key }) => [id, key])).toEqual([
      ['0.9.5', formatId('txn', ids[0] ?? '')],
      ['0.9.6', formatId('txn', ids[2] ?? '')],
    ])
  })
})

describe('between shards', () => {
  const statuses = (events: readonly LedgerEvent[]) =>
    transactionsOf(events).map(({ status, step }) => `${step} ${status}`)

  test('a transfer is pending, is credited, and is completed; what only reserves is no line of a statement', () => {
    const world = new World(2)
    const [a, b] = [world.wallet(0, 100n), world.wallet(1)]
    const { id, events } = world.ask(transfer([a, b, 30n]))
    expect(statuses(events)).toEqual(['begin pending', 'commit null', 'finalize completed'])
    expect(entriesOf(events).map((entry) => short(entry, { [wal(a)]: 'a', [wal(b)]: 'b' }))).toEqual([
      'a pending -30 → 100 -30 +0 begin (silent)',
      'b posted 30 → 30 -0 +0 commit',
      'a pending 30 → 100 -0 +0 finalize (silent)',
      'a posted -30 → 70 -0 +0 finalize',
    ])
    for (const data of [...transactionsOf(events), ...entriesOf(events)]) {
      expect(data).toMatchObject({ kind: 'transfer', transferId: formatId('trf', id) })
    }
    expect(entriesOf(events).map(({ counterparty }) => counterparty)).toEqual([wal(b), wal(a), wal(b), wal(b)])
    for (const { movements } of transactionsOf(events)) {
      expect(movements).toEqual([{ from: wal(a), to: wal(b), amount: '30', currency: 'EUR' }])
    }
    expect(events.flatMap(faultsOf)).toEqual([])
  })

  test('a transfer that the other side refuses is compensated', () => {
    const world = new World(2)
    const [a, b] = [world.wallet(0, 100n), world.wallet(1)]
    world.ask(update(b, { limits: { balanceMax: 5n } }), 1)
    const { refusal, events } = world.ask(transfer([a, b, 30n]))
    expect(refusal).toBe('limit_exceeded')
    expect(statuses(events)).toEqual(['begin pending', 'release compensated'])
    expect(transactionsOf(events).map(({ refusal }) => refusal)).toEqual([null, 'limit_exceeded'])
    expect(entriesOf(events).map(({ balance, statement }) => [balance.available, statement])).toEqual([
      ['70', false],
      ['100', false],
    ])
  })

  test('of three shards, only the one that leads says how it stands', () => {
    const world = new World(3)
    const [a, b, c] = [world.wallet(0, 100n), world.wallet(1, 50n), world.wallet(2)]
    const { events } = world.ask(transfer([a, b, 10n], [b, c, 20n], [c, a, 1n]))
    expect(statuses(events)).toEqual([
      ...['begin pending', 'reserve null', 'commit null'],
      ...['finalize null', 'finalize completed'],
    ])
    const others = Object.groupBy(entriesOf(events), ({ walletId, counterparty }) => `${walletId} ${counterparty}`)
    expect(Object.keys(others).sort()).toEqual(
      [a, b, c].flatMap((one) => [a, b, c].filter((two) => two !== one).map((two) => `${wal(one)} ${wal(two)}`)).sort(),
    )
    expect(events.flatMap(faultsOf)).toEqual([])
  })

  test('a hold stands when the other side has reserved; its capture, and a release, are told once', () => {
    const world = new World(2)
    const [a, b] = [world.wallet(0, 100n), world.wallet(1)]
    const held = world.ask(hold([a, b, 30n]))
    expect(statuses(held.events)).toEqual(['begin pending', 'reserve null', 'finalize completed'])
    expect(entriesOf(held.events).map(({ statement }) => statement)).toEqual([true, true])
    const captured = world.ask(capture(held.id, 20n))
    expect(statuses(captured.events)).toEqual(['commit null', 'finalize completed'])
    expect(transactionsOf(captured.events)).toMatchObject([
      { holdId: formatId('hld', held.id), movements: [{ amount: '20' }] },
      { holdId: formatId('hld', held.id), movements: [{ amount: '20' }] },
    ])
    const released = world.ask(release(world.ask(hold([a, b, 30n])).id))
    expect(statuses(released.events)).toEqual(['begin completed', 'commit null'])
    world.ask(update(b, { limits: { balanceMax: 5n } }), 1)
    expect(statuses(world.ask(hold([a, b, 30n])).events)).toEqual(['begin pending', 'release compensated'])
    for (const { events } of [held, captured, released]) expect(events.flatMap(faultsOf)).toEqual([])
  })

  test('a capture that comes to nothing says so once, and why', () => {
    const world = new World(2)
    const [a, b] = [world.wallet(0, 100n), world.wallet(1)]
    const held = world.ask(hold([a, b, 30n]))
    world.ask(update(b, { status: 'frozen' }), 1)
    const { events } = world.ask(capture(held.id))
    expect(transactionsOf(events)).toMatchObject([
      {
        ...{ kind: 'capture', step: 'release', status: 'compensated', refusal: 'wallet_frozen' },
        holdId: formatId('hld', held.id),
      },
    ])
    expect(entriesOf(events)).toEqual([])
    expect(events.flatMap(faultsOf)).toEqual([])
  })

  test('the entries of a wallet, one after the other, come to what it holds', () => {
    const world = new World(3)
    const wallets = Array.from({ length: 9 }, (_, i) => world.wallet(i % 3, 1_000n))
    const events: LedgerEvent[] = []
    const start = new Map(wallets.map((id) => [wal(id), { posted: 1_000n, pending: 0n, sequence: 1 }]))
    for (let i = 0; i < 120; i++) {
      const [from, to, other] = [i, i * 5 + 1, i * 7 + 2].map((n) => wallets[n % 9] ?? '') as [string, string, string]
      if (new Set([from, to, other]).size < 3) continue
      const shard = world.shards.shardOf(from)
      const operation =
        i % 3 === 0
          ? hold([from, to, 7n])
          : i % 3 === 1
            ? transfer([from, to, 9n])
            : transfer([from, to, 3n], [to, other, 2n])
      const asked = world.ask(operation, shard)
      events.push(...asked.events)
      if (asked.refusal !== null) continue
      if (i % 6 === 0) events.push(...world.ask(capture(asked.id, 5n), shard).events)
      if (i % 6 === 3) events.push(...world.ask(release(asked.id), shard).events)
      if (i % 3 === 1) events.push(...world.ask(reversal(asked.id, 4n), shard).events)
    }
    expect(events.length).toBeGreaterThan(500)
    for (const entry of entriesOf(events)) {
      const so = start.get(entry.walletId)
      if (!so) throw new Error(`no wallet ${entry.walletId}`)
      so[entry.layer] += BigInt(entry.amount)
      so.sequence += 1
      expect(entry.sequence).toBe(so.sequence)
      expect(BigInt(entry.balance.posted)).toBe(so.posted)
      expect(BigInt(entry.balance.pendingIn) - BigInt(entry.balance.pendingOut)).toBe(so.pending)
      expect(BigInt(entry.balance.available)).toBe(so.posted - BigInt(entry.balance.pendingOut))
    }
    for (const account of world.shards.accounts.filter(({ kind }) => kind === 'wallet')) {
      expect(start.get(wal(account.id))?.posted).toBe(account.creditsPosted - account.debitsPosted)
    }
    const ended = transactionsOf(events).filter(({ status }) => status === 'completed' || status === 'compensated')
    const names = ended.map(({ kind, transferId, holdId }) => `${kind} ${transferId ?? holdId}`)
    expect(new Set(names).size).toBe(names.length)
    expect(events.flatMap(faultsOf)).toEqual([])
  })
})
