import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, it, onTestFinished } from 'vitest'
import { seededRandom } from '../../bench/load.ts'
import { type Balances, createBalances } from '../../src/cache/balances.ts'
import { createRedisCache } from '../../src/cache/redisCache.ts'
import type { Balance } from '../../src/ledger/sql/balances.ts'
import { seedFor } from '../ledger/seed.ts'
import { startRedis } from '../services/redis.ts'
import { balanceAt, TENANT } from './contract.ts'
import { connected, until } from './wait.ts'

const WALLETS = 60
const CLIENTS = 24
const LOADS_MAX = 4
/** Reads and writes, each with a breaker, are tried once in a tenth of a second at most. */
const TRIED_MS_MIN = 50

/** A ledger that takes its time to answer. */
function slowLedger() {
  const versions = new Map<string, number>(Array.from({ length: WALLETS }, () => [randomUUID(), 0]))
  return {
    ids: [...versions.keys()],
    versionOf: (id: string) => versions.get(id) ?? 0,
    commit(id: string) {
      const version = (versions.get(id) ?? 0) + 1
      versions.set(id, version)
      return balanceAt(id, version)
    },
    async load(_: string, id: string): Promise<Balance> {
      const { currency, posted, pendingIn, pendingOut, version, asOfUs } = balanceAt(id, versions.get(id) ?? 0)
      await sleep(1)
      return { currency, posted, pendingIn, pendingOut, version, asOfUs }
    },
  }
}

it('when Redis is killed, silent or empty under load, reads go on and the cache is there again after it', async () => {
  const random = seededRandom(seedFor('outage'))
  const redis = await startRedis()
  const ledger = slowLedger()
  const caches = [1, 2].map(() => createRedisCache({ url: redis.url }))
  onTestFinished(async () => {
    for (const cache of caches) await cache.close()
    await redis.stop()
  })
  await Promise.all(caches.map(connected))
  const nodes = caches.map((cache) => {
    // As with two processes, each has a limit of its own.
    const { load, seen } = loadsOf(ledger)
    const balances = createBalances({
      ...{ cache, load, loadsMax: LOADS_MAX, cacheMsMax: 50 },
      breaker: { openMs: 100, openMsMax: 300 },
    })
    return { balances, seen, reads: 0 }
  })

  const failures: unknown[] = []
  let isOver = false
  async function client({ balances }: { balances: Balances }, count: () => void): Promise<void> {
    while (!isOver) {
      const id = ledger.ids[Math.floor(random() * WALLETS)] ?? ''
      if (random() < 0.1) balances.afterCommit([ledger.commit(id)])
      try {
        const { balance } = await balances.read(TENANT, id)
        const isTrue =
          balance && balance.version <= ledger.versionOf(id) && balance.posted === postedAt(balance.version)
        if (!isTrue) failures.push(new Error(`it was never like that: ${balance?.version} ${balance?.posted}`))
      } catch (error) {
        failures.push(error)
      }
      count()
      await sleep(0)
    }
  }
  const clients = nodes.flatMap((node) =>
    Array.from({ length: CLIENTS }, () =>
      client(node, () => {
        node.reads += 1
      }),
    ),
  )
  const each = (isSo: (node: (typeof nodes)[number]) => boolean) => until(() => nodes.every(isSo))
  /** So many more reads on each node. */
  const more = async (reads: number) => {
    const goals = nodes.map((node) => node.reads + reads)
    await until(() => nodes.every((node, i) => node.reads >= (goals[i] ?? 0)))
  }
  const filled = async () => {
    await each(({ balances }) => balances.counters.breakerState === 0)
    const goals = nodes.map(({ balances }) => balances.counters.hits + 500)
    await until(() => nodes.every(({ balances }, i) => balances.counters.hits >= (goals[i] ?? 0)))
  }

  await filled()
  for (const [outage, recover] of [
    [() => redis.kill(), () => redis.restart()],
    [() => redis.pause(), () => redis.resume()],
  ] as const) {
    const before = nodes.map(({ balances }) => balances.counters.errors)
    const beganMs = performance.now()
    await outage()
    await each(({ balances }) => balances.counters.breakerState !== 0)
    await more(2_000)
    // What it takes to open the breaker, what was under way when it did, and a try now and then: not one a read.
    for (const [i, { balances }] of nodes.entries()) {
      const triesMax = (performance.now() - beganMs) / TRIED_MS_MIN
      expect(balances.counters.errors - (before[i] ?? 0)).toBeLessThan(400 + triesMax)
    }
    await recover()
    await filled()
  }
  await redis.flush()
  await filled()

  isOver = true
  await Promise.all(clients)
  expect(failures).toEqual([])
  for (const { seen, balances } of nodes) {
    expect(seen.runningMax).toBeLessThanOrEqual(LOADS_MAX)
    expect(balances.counters.rejected).toBe(0)
    await until(() => balances.counters.writesWaiting === 0)
  }
  // The next change of every wallet, on any node, is what all nodes show.
  const [first] = nodes
  for (const id of ledger.ids) first?.balances.afterCommit([ledger.commit(id)])
  await until(() => first?.balances.counters.writesWaiting === 0)
  for (const { balances } of nodes) {
    for (const id of ledger.ids) {
      await until(async () => {
        const { balance, source } = await balances.read(TENANT, id)
        expect(balance?.version).toBe(ledger.versionOf(id))
        return source === 'cache'
      })
    }
    await balances.close()
  }
}, 400_000)

/** The amount that belongs to a version. */
const postedAt = (version: number) => balanceAt('', version).posted

/** One node's way to the ledger, counted by itself. */
function loadsOf(ledger: ReturnType<typeof slowLedger>) {
  const seen = { running: 0, runningMax: 0 }
  const load = async (tenantId: string, id: string) => {
    seen.running += 1
    seen.runningMax = Math.max(seen.runningMax, seen.running)
    const balance = await ledger.load(tenantId, id)
    seen.running -= 1
    return balance
  }
  return { load, seen }
}
