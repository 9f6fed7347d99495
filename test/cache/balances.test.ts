import { randomUUID } from 'node:crypto'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it, onTestFinished } from 'vitest'
import { type Balances, type BalancesOptions, createBalances } from '../../src/cache/balances.ts'
import type { BalanceCache, CachedBalance } from '../../src/cache/cache.ts'
import { createMemoryCache } from '../../src/cache/memoryCache.ts'
import { ReadsSaturated } from '../../src/guard/readGuard.ts'
import type { Balance } from '../../src/ledger/sql/balances.ts'
import { balanceAt, missing, OTHER_TENANT, TENANT } from './contract.ts'
import { until } from './wait.ts'

/** Loads that the test answers. */
type Loads = {
  readonly asked: { tenantId: string; walletId: string; answer(balance?: Balance): void; fail(error: Error): void }[]
}

type Stage = { balances: Balances; cache: BalanceCache; loads: Loads }

function open(options: Partial<BalancesOptions> = {}): Stage {
  const asked: Loads['asked'] = []
  const load = (tenantId: string, walletId: string) =>
    new Promise<Balance | undefined>((answer, fail) => asked.push({ tenantId, walletId, answer, fail }))
  const cache = options.cache ?? createMemoryCache()
  const balances = createBalances({ cache, load, cacheMsMax: 10_000, writeMsMax: 10_000, ...options })
  onTestFinished(() => balances.close())
  return { balances, cache, loads: { asked } }
}

/** What a load answers: a balance without whose it is. */
function plain({ currency, posted, pendingIn, pendingOut, version, asOfUs }: CachedBalance): Balance {
  return { currency, posted, pendingIn, pendingOut, version, asOfUs }
}

/** A cache of which any call may be made to fail, or to be silent until the last of them is let speak. */
function moody(inner: BalanceCache = createMemoryCache()) {
  const state = { mood: 'well' as 'well' | 'dead' | 'silent', calls: 0, speak: () => {} }
  const through =
    <A extends unknown[], T>(work: (...args: A) => Promise<T>) =>
    (...args: A): Promise<T> => {
      state.calls += 1
      if (state.mood === 'dead') return Promise.reject(new Error('no connection'))
      if (state.mood !== 'silent') return work(...args)
      return new Promise((done) => {
        state.speak = () => done(work(...args))
      })
    }
  const { read, write, repair, forget, close } = inner
  const calls = { read: through(read), write: through(write), repair: through(repair), forget: through(forget) }
  return Object.assign(state, { ...calls, close })
}

/** Answers all that is asked, as from a ledger in which every wallet stands at one version. */
function answering(version: () => number) {
  const seen = { running: 0, runningMax: 0, loads: 0 }
  const load = async (_: string, walletId: string) => {
    seen.loads += 1
    seen.running += 1
    seen.runningMax = Math.max(seen.runningMax, seen.running)
    await nextTurn()
    seen.running -= 1
    return plain(balanceAt(walletId, version()))
  }
  return Object.assign(seen, { load })
}

const OPEN = 1
const CLOSED = 0

describe('a balance', () => {
  it('comes from the database the first time, and from the cache after that', async () => {
    const id = randomUUID()
    const { balances, loads } = open()
    const first = balances.read(TENANT, id)
    await until(() => loads.asked.length === 1)
    loads.asked[0]?.answer(plain(balanceAt(id, 3)))
    expect(await first).toEqual({ balance: plain(balanceAt(id, 3)), source: 'database' })
    await nextTurn()
    expect(await balances.read(TENANT, id)).toEqual({ balance: plain(balanceAt(id, 3)), source: 'cache' })
    expect(balances.counters).toMatchObject({ hits: 1, misses: 1, loads: 1, errors: 0, breakerState: CLOSED })
  })

  it('is loaded once for all who ask at the same time', async () => {
    const id = randomUUID()
    const { balances, loads } = open()
    const reads = Array.from({ length: 100 }, () => balances.read(TENANT, id))
    await until(() => loads.asked.length > 0)
    await nextTurn()
    loads.asked[0]?.answer(plain(balanceAt(id, 1)))
    for (const { balance } of await Promise.all(reads)) expect(balance).toEqual(plain(balanceAt(id, 1)))
    expect(loads.asked).toHaveLength(1)
  })

  it('is asked for again when the load has failed, and all who waited are told', async () => {
    const id = randomUUID()
    const { balances, loads } = open()
    const reads = Promise.allSettled(Array.from({ length: 3 }, () => balances.read(TENANT, id)))
    await until(() => loads.asked.length > 0)
    loads.asked[0]?.fail(new Error('no database'))
    expect((await reads).map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected'])
    const again = balances.read(TENANT, id)
    await until(() => loads.asked.length === 2)
    loads.asked[1]?.answer(plain(balanceAt(id, 1)))
    expect((await again).source).toBe('database')
  })

  it('is loaded past the cache, and by a load of its own, if it has to be all there is', async () => {
    const id = randomUUID()
    const { balances, cache, loads } = open()
    await cache.write([balanceAt(id, 3)])
    const reads = [1, 2].map(() => balances.read(TENANT, id, { strong: true }))
    await until(() => loads.asked.length === 2)
    for (const each of loads.asked) each.answer(plain(balanceAt(id, 4)))
    for (const answer of await Promise.all(reads)) {
      expect(answer).toEqual({ balance: plain(balanceAt(id, 4)), source: 'database' })
    }
    await nextTurn()
    expect((await balances.read(TENANT, id)).balance?.version).toBe(4)
    expect(balances.counters).toMatchObject({ hits: 1, misses: 0, loads: 2 })
  })

  it('that does not exist is remembered as such, until it does', async () => {
    const id = randomUUID()
    const { balances, loads } = open()
    const first = balances.read(TENANT, id)
    await until(() => loads.asked.length === 1)
    loads.asked[0]?.answer(undefined)
    expect(await first).toEqual({ balance: undefined, source: 'database' })
    await nextTurn()
    expect(await balances.read(TENANT, id)).toEqual({ balance: undefined, source: 'cache' })
    balances.afterCommit([balanceAt(id, 0)])
    expect((await balances.read(TENANT, id)).balance?.version).toBe(0)
    await until(() => balances.counters.writesWaiting === 0)
    expect(await balances.read(TENANT, id)).toMatchObject({ balance: { version: 0 }, source: 'cache' })
    expect(loads.asked).toHaveLength(1)
  })
})

describe('another tenant', () => {
  it('never sees it, wherever it comes from, nor shares a load', async () => {
    const id = randomUUID()
    const { balances, cache, loads } = open()
    const reads = [TENANT, OTHER_TENANT].map((tenant) => balances.read(tenant, id))
    await until(() => loads.asked.length === 2)
    for (const { tenantId, answer } of loads.asked) {
      answer(tenantId === TENANT ? plain(balanceAt(id, 1)) : undefined)
    }
    expect((await Promise.all(reads)).map(({ balance }) => balance?.version)).toEqual([1, undefined])
    await nextTurn()
    expect(await balances.read(OTHER_TENANT, id)).toEqual({ balance: undefined, source: 'cache' })
    await cache.forget([id])
    balances.afterCommit([balanceAt(id, 2)])
    expect((await balances.read(OTHER_TENANT, id)).balance).toBeUndefined()
    expect((await balances.read(TENANT, id)).balance?.version).toBe(2)
  })

  it('that asks for it does not hide it from its own', async () => {
    const id = randomUUID()
    const { balances, cache, loads } = open()
    await cache.write([missing(id, 1, OTHER_TENANT)])
    const read = balances.read(TENANT, id)
    await until(() => loads.asked.length === 1)
    loads.asked[0]?.answer(plain(balanceAt(id, 1)))
    expect((await read).balance?.version).toBe(1)
    await nextTurn()
    expect(await balances.read(TENANT, id)).toMatchObject({ balance: { version: 1 }, source: 'cache' })
  })
})

describe('loads from the database', () => {
  it('run so many at once, wait so many, and are refused beyond, for each shard by itself', async () => {
    const { balances, loads } = open({ loadsMax: 2, loadsWaitingMax: 3, shardOf: (id) => (id.startsWith('b') ? 1 : 0) })
    const reads = Array.from({ length: 9 }, (_, i) => balances.read(TENANT, `a${i}`))
    const settled = Promise.allSettled(reads)
    await until(() => balances.counters.rejected === 4)
    expect(loads.asked).toHaveLength(2)
    const elsewhere = balances.read(TENANT, 'b')
    await until(() => loads.asked.length === 3)
    loads.asked[2]?.answer(undefined)
    await elsewhere
    for (let i = 0; i < 6; i++) {
      await until(() => loads.asked.length > i)
      loads.asked[i]?.answer(undefined)
    }
    const refused = (await settled).flatMap((each) => (each.status === 'rejected' ? [each.reason] : []))
    expect(refused).toHaveLength(4)
    for (const error of refused) expect(error).toBeInstanceOf(ReadsSaturated)
    expect(loads.asked).toHaveLength(6)
  })
})

describe('without a cache that answers', () => {
  it.each(['dead', 'silent'] as const)('balances are read all the same, and it is left alone (%s)', async (mood) => {
    const cache = moody()
    const ledger = answering(() => 1)
    const breaker = { openMs: 1e9, openMsMax: 1e9 }
    const { balances } = open({ cache, load: ledger.load, cacheMsMax: 20, writeMsMax: 20, loadsMax: 4, breaker })
    cache.mood = mood
    for (let i = 0; i < 30; i++) await balances.read(TENANT, randomUUID())
    expect(balances.counters.breakerState).toBe(OPEN)
    const { calls } = cache
    const many = await Promise.all(Array.from({ length: 200 }, () => balances.read(TENANT, randomUUID())))
    expect(new Set(many.map(({ source }) => source))).toEqual(new Set(['database']))
    expect(cache.calls).toBe(calls)
    expect(calls).toBeLessThan(15)
    expect(ledger.runningMax).toBeLessThanOrEqual(4)
  })

  it('it is tried now and then, nobody waits for that, and it is used again when it answers', async () => {
    const cache = moody()
    const ledger = answering(() => 1)
    const { balances } = open({ cache, load: ledger.load, cacheMsMax: 60_000, breaker: { openMs: 1, openMsMax: 1 } })
    cache.mood = 'dead'
    while (balances.counters.breakerState === CLOSED) await balances.read(TENANT, randomUUID())
    cache.mood = 'silent'
    // One of these is tried on a cache that says nothing for a minute: if any waited, this would take as long.
    await until(async () => {
      await balances.read(TENANT, randomUUID())
      return balances.counters.breakerState === 2
    })
    const { calls } = cache
    for (let i = 0; i < 100; i++) await balances.read(TENANT, randomUUID())
    expect(cache.calls).toBe(calls)
    // Nor do they come to the cache later, all at once.
    cache.speak()
    await until(() => balances.counters.breakerState === CLOSED)
    await nextTurn()
    expect(cache.calls).toBe(calls)
  })

  it('it is left alone when it answers too late for reads, though in time for writes', async () => {
    const inner = createMemoryCache()
    const late = async <T>(answer: Promise<T>) => {
      await sleep(40)
      return await answer
    }
    const cache: BalanceCache = {
      ...inner,
      read: (id) => late(inner.read(id)),
      write: (entries) => late(inner.write(entries)),
    }
    const ledger = answering(() => 1)
    const { balances } = open({ cache, load: ledger.load, cacheMsMax: 5, breaker: { openMs: 1e9, openMsMax: 1e9 } })
    for (let i = 0; i < 30; i++) {
      await balances.read(TENANT, randomUUID())
      balances.afterCommit([balanceAt(randomUUID(), 1)])
      await until(() => balances.counters.writesWaiting === 0)
    }
    expect(balances.counters).toMatchObject({ breakerState: OPEN, errors: 5 })
  })

  it('one that is read but not written is not believed, and is used again when it can be written', async () => {
    const id = randomUUID()
    const inner = createMemoryCache()
    const writes = moody(inner)
    const cache: BalanceCache = { ...inner, write: writes.write }
    let version = 1
    const ledger = answering(() => version)
    const { balances } = open({ cache, load: ledger.load, breaker: { openMs: 1, openMsMax: 5 } })
    await inner.write([balanceAt(id, 1)])
    writes.mood = 'dead'
    while (balances.counters.breakerState === CLOSED) await balances.read(TENANT, randomUUID())
    // On another node, which can't write it either.
    version = 2
    for (let i = 0; i < 20; i++) {
      expect(await balances.read(TENANT, id)).toMatchObject({ balance: { version: 2 }, source: 'database' })
    }
    writes.mood = 'well'
    await until(async () => (await balances.read(TENANT, id)).source === 'cache')
    expect(balances.counters.breakerState).toBe(CLOSED)
    expect((await balances.read(TENANT, id)).balance?.version).toBe(2)
  })

  it('it is filled again as soon as it answers', async () => {
    const id = randomUUID()
    const cache = moody()
    const ledger = answering(() => 1)
    const { balances } = open({ cache, load: ledger.load, breaker: { openMs: 1, openMsMax: 5 } })
    cache.mood = 'dead'
    while (balances.counters.breakerState === CLOSED) await balances.read(TENANT, id)
    cache.mood = 'well'
    await until(async () => (await balances.read(TENANT, id)).source === 'cache')
    expect(balances.counters.breakerState).toBe(CLOSED)
  })
})

describe('what a block has changed', () => {
  it('is shown at once by the node that posted it, and is in the cache soon after', async () => {
    const id = randomUUID()
    const cache = createMemoryCache()
    const { balances } = open({ cache })
    await cache.write([balanceAt(id, 1)])
    balances.afterCommit([balanceAt(id, 2)])
    expect(await balances.read(TENANT, id)).toEqual({ balance: plain(balanceAt(id, 2)), source: 'cache' })
    await until(async () => (await cache.read(id)) !== undefined && balances.counters.writesWaiting === 0)
    expect(await cache.read(id)).toEqual(balanceAt(id, 2))
  })

  it('is shown also to who joined a load that had begun before', async () => {
    const id = randomUUID()
    const { balances, loads } = open()
    const first = balances.read(TENANT, id)
    await until(() => loads.asked.length === 1)
    const second = balances.read(TENANT, id)
    await nextTurn()
    balances.afterCommit([balanceAt(id, 2)])
    loads.asked[0]?.answer(plain(balanceAt(id, 1)))
    expect((await Promise.all([first, second])).map(({ balance }) => balance?.version)).toEqual([2, 2])
  })

  it('waits while the cache is away, of each wallet the newest, and is put right when it is back', async () => {
    const inner = createMemoryCache()
    const cache = moody(inner)
    const ids = Array.from({ length: 600 }, () => randomUUID())
    await inner.write(ids.map((id) => balanceAt(id, 1)))
    const ledger = answering(() => 9)
    const { balances } = open({ cache, load: ledger.load, breaker: { openMs: 1, openMsMax: 5 } })
    cache.mood = 'dead'
    for (let version = 2; version <= 9; version++) balances.afterCommit(ids.map((id) => balanceAt(id, version)))
    await until(() => balances.counters.errors > 0)
    expect(balances.counters.writesWaiting).toBe(600)
    // Nobody is shown what may be old: others may have posted since.
    const read = await balances.read(TENANT, ids[0] ?? '')
    expect(read).toMatchObject({ source: 'database', balance: { version: 9 } })
    cache.mood = 'well'
    await until(() => balances.counters.writesWaiting === 0)
    for (const id of ids) expect(await inner.read(id)).toMatchObject({ version: 9 })
    expect(balances.counters.writesDropped).toBe(0)
  })

  it('is dropped, the oldest first, when too much waits; a later word of the wallet puts that right', async () => {
    const inner = createMemoryCache()
    const cache = moody(inner)
    const { balances } = open({ cache, writesWaitingMax: 10, breaker: { openMs: 1, openMsMax: 5 } })
    const ids = Array.from({ length: 25 }, () => randomUUID())
    await inner.write(ids.map((id) => balanceAt(id, 1)))
    cache.mood = 'dead'
    for (const id of ids) balances.afterCommit([balanceAt(id, 2)])
    expect(balances.counters).toMatchObject({ writesWaiting: 10, writesDropped: 15 })
    cache.mood = 'well'
    await until(() => balances.counters.writesWaiting === 0)
    const versions = await Promise.all(ids.map(async (id) => (await inner.read(id)) as CachedBalance))
    expect(versions.map(({ version }) => version)).toEqual([...Array(15).fill(1), ...Array(10).fill(2)])
    await cache.write(ids.map((id) => balanceAt(id, 2)))
    for (const id of ids) expect(await inner.read(id)).toMatchObject({ version: 2 })
  })

  it('is written before the node stops, or given up if nothing answers', async () => {
    const id = randomUUID()
    const cache = createMemoryCache()
    const { balances } = open({ cache })
    balances.afterCommit([balanceAt(id, 1)])
    await balances.close()
    expect(await cache.read(id)).toEqual(balanceAt(id, 1))
    const silent = moody()
    silent.mood = 'silent'
    const stuck = open({ cache: silent })
    stuck.balances.afterCommit([balanceAt(id, 1)])
    await stuck.balances.close()
    stuck.balances.afterCommit([balanceAt(id, 2)])
    expect(silent.calls).toBe(1)
  })
})
