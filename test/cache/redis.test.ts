import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { LIFETIMES } from '../../src/cache/cache.ts'
import { CacheSilent, createRedisCache, type RedisCacheOptions } from '../../src/cache/redisCache.ts'
import { type RedisServer, startRedis } from '../services/redis.ts'
import { balanceAt, describeCache, missing } from './contract.ts'
import { openStore, type Store } from './store.ts'
import { answered, connected, until } from './wait.ts'

let redis: RedisServer
beforeAll(async () => {
  redis = await startRedis()
})
afterAll(() => redis?.stop())

/** Long enough for a machine with much to do. */
const PATIENT = { answerMsMax: 10_000 }

describeCache('in Redis', async () => {
  const server = await startRedis()
  const store = await openStore(server.url)
  const open = () => createRedisCache({ url: server.url, ...PATIENT })
  const [cache, other] = [open(), open()]
  await Promise.all([connected(cache), connected(other)])
  return {
    cache,
    other,
    age: () => store.age(),
    async close() {
      store.close()
      await Promise.all([cache.close(), other.close()])
      await server.stop()
    },
  }
})

describe('the balance cache in Redis', () => {
  const open = async (options: Partial<RedisCacheOptions> = {}) => {
    const cache = createRedisCache({ url: redis.url, ...PATIENT, ...options })
    onTestFinished(() => cache.close())
    await connected(cache)
    return cache
  }
  let store: Store
  beforeAll(async () => {
    store = await openStore(redis.url)
  })
  afterAll(() => store?.close())
  const ask = (...command: string[]) => store.ask(...command)

  it('gives every entry an age at which it goes, not all the same', async () => {
    const cache = await open()
    const ids = Array.from({ length: 50 }, () => randomUUID())
    await cache.write(ids.map((id) => balanceAt(id, 1)))
    const lives = await Promise.all(ids.map(async (id) => Number(await ask('PTTL', `zerosum:balance:${id}`))))
    expect(Math.min(...lives)).toBeGreaterThan(LIFETIMES.balanceMs * 0.7)
    expect(Math.max(...lives)).toBeLessThanOrEqual(LIFETIMES.balanceMs * 1.2)
    expect(new Set(lives.map((ms) => Math.round(ms / 1_000))).size).toBeGreaterThan(10)
    const absent = randomUUID()
    await cache.write([missing(absent)])
    expect(Number(await ask('PTTL', `zerosum:balance:${absent}`))).toBeLessThanOrEqual(LIFETIMES.missingMs * 1.2)
  })

  it('does not make an entry live longer by a write that is older', async () => {
    const id = randomUUID()
    const cache = await open()
    await cache.write([balanceAt(id, 2)])
    await ask('PEXPIRE', `zerosum:balance:${id}`, '60000')
    await cache.write([balanceAt(id, 1), balanceAt(id, 2), missing(id)])
    expect(Number(await ask('PTTL', `zerosum:balance:${id}`))).toBeLessThanOrEqual(60_000)
  })

  it('goes on when the server has lost the script', async () => {
    const id = randomUUID()
    const cache = await open()
    await cache.write([balanceAt(id, 1)])
    await ask('SCRIPT', 'FLUSH')
    await cache.write([balanceAt(id, 2)])
    expect(await cache.read(id)).toEqual(balanceAt(id, 2))
  })

  it('takes what it cannot read for nothing, and puts a balance in its place', async () => {
    const cache = await open()
    const [text, list, next] = [randomUUID(), randomUUID(), randomUUID()]
    await ask('SET', `zerosum:balance:${text}`, 'what is this')
    await ask('RPUSH', `zerosum:balance:${list}`, '1')
    expect(await cache.read(text)).toBeUndefined()
    await cache.write([balanceAt(text, 1), balanceAt(list, 1), balanceAt(next, 1)])
    for (const id of [text, list, next]) expect(await cache.read(id)).toEqual(balanceAt(id, 1))
  })

  it('keeps two installations that share a server apart', async () => {
    const id = randomUUID()
    const [one, two] = [await open(), await open({ keyPrefix: 'staging:' })]
    await one.write([balanceAt(id, 1)])
    expect(await two.read(id)).toBeUndefined()
  })
})

describe('without its Redis, the cache', () => {
  it('fails at once when there was never one, tells once, and is there when one starts', async () => {
    const server = await startRedis()
    onTestFinished(() => server.stop())
    await server.kill()
    const troubles: Error[] = []
    const cache = createRedisCache({ url: server.url, onTrouble: (error) => troubles.push(error), ...PATIENT })
    onTestFinished(() => cache.close())
    await until(() => troubles.length > 0)
    await expect(cache.read(randomUUID())).rejects.toThrow()
    await expect(cache.write([balanceAt(randomUUID(), 1)])).rejects.toThrow()
    await server.restart()
    await connected(cache)
    expect(troubles).toHaveLength(1)
  })

  it('fails what waits when it is killed, and connects again', async () => {
    const server = await startRedis()
    onTestFinished(() => server.stop())
    const cache = createRedisCache({ url: server.url, ...PATIENT })
    onTestFinished(() => cache.close())
    await connected(cache)
    server.pause()
    const waiting = Promise.allSettled(Array.from({ length: 20 }, () => cache.read(randomUUID())))
    await server.kill()
    expect((await waiting).map(({ status }) => status)).toEqual(Array(20).fill('rejected'))
    await server.restart()
    await connected(cache)
  })

  it('gives up after a time when it is silent, then fails at once until the answer has come', async () => {
    const server = await startRedis()
    onTestFinished(() => server.stop())
    const id = randomUUID()
    const cache = createRedisCache({ url: server.url, answerMsMax: 100 })
    onTestFinished(() => cache.close())
    await connected(cache)
    await answered(() => cache.write([balanceAt(id, 1)]))
    server.pause()
    await expect(cache.write([balanceAt(id, 2)])).rejects.toThrow(CacheSilent)
    for (let i = 0; i < 100; i++) await expect(cache.read(id)).rejects.toThrow(/asked before/)
    server.resume()
    await connected(cache)
    // What nobody waited for any more was done all the same, and may be: newer wins.
    expect(await answered(() => cache.read(id))).toEqual(balanceAt(id, 2))
  })

  it('gives up a connection that stays silent, and finds the server that has taken its place', async () => {
    const server = await startRedis()
    onTestFinished(() => server.stop())
    const troubles: Error[] = []
    const cache = createRedisCache({ url: server.url, answerMsMax: 100, onTrouble: (error) => troubles.push(error) })
    onTestFinished(() => cache.close())
    await connected(cache)
    server.pause()
    await expect(cache.read(randomUUID())).rejects.toThrow(CacheSilent)
    await until(() => troubles.length > 0)
    server.resume()
    await connected(cache)
  })

  it('can be closed in any state, and fails after that', async () => {
    const server = await startRedis()
    onTestFinished(() => server.stop())
    const open = () => createRedisCache({ url: server.url, answerMsMax: 100 })
    const [unconnected, silent] = [open(), open()]
    await unconnected.close()
    await connected(silent)
    server.pause()
    const waiting = silent.read(randomUUID()).then(
      () => 'answered',
      () => 'failed',
    )
    await silent.close()
    expect(await waiting).toBe('failed')
    await expect(silent.read(randomUUID())).rejects.toThrow()
    await expect(unconnected.read(randomUUID())).rejects.toThrow()
  })
})
