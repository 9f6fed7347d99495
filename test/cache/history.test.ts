import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, beforeEach, expect, onTestFinished, test } from 'vitest'
import { flushCache } from '../../src/cache/command.ts'
import { watchHistory } from '../../src/cache/history.ts'
import { createRedisCache, type RedisCache } from '../../src/cache/redisCache.ts'
import { refuseCluster } from '../../src/redis/cluster.ts'
import { redisPrefix } from '../../src/redis/installation.ts'
import { firstMapMadeUs } from '../../src/shards/storedMap.ts'
import { describeWith } from '../services/available.ts'
import { type RedisServer, startRedis } from '../services/redis.ts'
import { openApi } from '../support/api.ts'
import { balanceAt } from './contract.ts'
import { connected, until } from './wait.ts'

/** A chain of blocks that can be set back, as by a restore. */
function chainOf(number: number) {
  const blocks: { number: number; hash: Buffer }[] = []
  const state = { isAway: false }
  const answer = <T>(found: T): T => {
    if (state.isAway) throw new Error('the shard is away')
    return found
  }
  return {
    shard: {
      number,
      reader: {
        block: async (number: number) => answer(blocks.find((block) => block.number === number)) as never,
        blocks: async () => answer(blocks.slice(-1)) as never,
      },
    },
    state,
    grow(count: number) {
      for (let i = 0; i < count; i++)
        blocks.push({ number: blocks.length + 1, hash: Buffer.from(randomUUID().padEnd(32, 'x').slice(0, 32)) })
    },
    setBack(count: number) {
      blocks.splice(blocks.length - count)
    },
  }
}

describeWith('redis', 'a cache in Redis, and the history of the ledger', () => {
  let redis: RedisServer
  beforeAll(async () => {
    redis = await startRedis()
  })
  afterAll(() => redis?.stop())
  beforeEach(() => redis.flush())

  const open = async (keyPrefix?: string): Promise<RedisCache> => {
    const cache = createRedisCache({ url: redis.url, answerMsMax: 10_000, ...(keyPrefix ? { keyPrefix } : {}) })
    onTestFinished(() => cache.close())
    await connected(cache)
    return cache
  }

  function watch(cache: RedisCache, chains: ReturnType<typeof chainOf>[]) {
    const takenBack: (readonly number[])[] = []
    const troubles: unknown[] = []
    const history = watchHistory({
      ...{ cache, shards: () => chains.map(({ shard }) => shard), lookMs: 20 },
      onTakenBack: (shards) => takenBack.push(shards),
      onTrouble: (error) => troubles.push(error),
    })
    onTestFinished(() => history.stop())
    return { history, takenBack, troubles }
  }

  const untilRecorded = (cache: RedisCache, shard: number, block: number) =>
    until(async () => (await cache.heads()).some((head) => head.shard === shard && head.block === block))

  test('is emptied when a shard lacks blocks that were there, and before anything is read from it', async () => {
    const [one, two] = [chainOf(0), chainOf(1)]
    for (const chain of [one, two]) chain.grow(5)
    const cache = await open()
    const before = watch(cache, [one, two])
    await untilRecorded(cache, 1, 5)
    await before.history.stop()
    const id = randomUUID()
    await cache.write([balanceAt(id, 7)])
    two.setBack(2)
    const { history, takenBack } = watch(cache, [one, two])
    const seen: unknown[] = []
    await until(async () => {
      const found = await history.cache.read(id).catch(() => 'not yet')
      seen.push(found)
      return found !== 'not yet'
    })
    expect(seen.at(-1)).toBeUndefined()
    expect(takenBack).toEqual([[1]])
  })

  test('is emptied when the blocks are others, while nodes run', async () => {
    const chain = chainOf(0)
    chain.grow(5)
    const cache = await open()
    const { history, takenBack } = watch(cache, [chain])
    await untilRecorded(cache, 0, 5)
    const id = randomUUID()
    await cache.write([balanceAt(id, 7)])
    chain.setBack(2)
    chain.grow(9)
    await until(async () => (await history.cache.read(id)) === undefined)
    await untilRecorded(cache, 0, 12)
    expect(takenBack).toEqual([[0]])
  })

  test('stays as it is while chains grow, and answers nothing before all shards were seen', async () => {
    const [one, two] = [chainOf(0), chainOf(1)]
    two.state.isAway = true
    const cache = await open()
    const id = randomUUID()
    await cache.write([balanceAt(id, 7)])
    const { history, takenBack } = watch(cache, [one, two])
    one.grow(3)
    await untilRecorded(cache, 0, 3)
    await expect(history.cache.read(id)).rejects.toThrow(/not known/)
    two.state.isAway = false
    await until(async () => (await history.cache.read(id).catch(() => undefined)) !== undefined)
    for (let i = 4; i < 10; i++) {
      one.grow(1)
      await untilRecorded(cache, 0, i)
    }
    expect(await history.cache.read(id)).toEqual(balanceAt(id, 7))
    expect(takenBack).toEqual([])
  })

  test('zerosum cache flush forgets the keys of this installation, in portions, and no others', async () => {
    const api = await openApi()
    onTestFinished(() => api.close())
    const own = redisPrefix(await firstMapMadeUs(api.url))
    const others = [`${own.slice(0, -1)}x:`, 'zerosum:*:', 'app:']
    const mine = await open(own)
    await mine.write(Array.from({ length: 2_500 }, () => balanceAt(randomUUID(), 1)))
    for (const prefix of others) await (await open(prefix)).write([balanceAt(randomUUID(), 1)])
    expect(await flushCache(api.url, { url: redis.url })).toBe(0)
    expect(Number(await redis.ask('DBSIZE'))).toBe(others.length)
    expect(await (await open('zerosum:*:')).flush()).toBe(1)
    expect(Number(await redis.ask('DBSIZE'))).toBe(others.length - 1)
    expect(await flushCache(api.url, undefined)).toBe(2)
  })

  test('two installations have different keys, and one has the same after a restore', async () => {
    const api = await openApi()
    onTestFinished(() => api.close())
    await sleep(5)
    const other = await openApi()
    onTestFinished(() => other.close())
    const [one, two] = [await firstMapMadeUs(api.url), await firstMapMadeUs(other.url)]
    expect(redisPrefix(one)).not.toBe(redisPrefix(two))
    expect(redisPrefix(await firstMapMadeUs(api.url))).toBe(redisPrefix(one))
    expect(redisPrefix(one)).toMatch(/^zerosum:[0-9a-z]{8,14}:$/)
  })

  test('a Redis Cluster is refused; one that is silent is taken as it is', async () => {
    await refuseCluster({ url: redis.url })
    const cluster = await startRedis('--cluster-enabled', 'yes')
    onTestFinished(() => cluster.stop())
    await expect(refuseCluster({ url: cluster.url })).rejects.toThrow('Redis Cluster')
    await cluster.kill()
    await refuseCluster({ url: cluster.url })
  })
})
