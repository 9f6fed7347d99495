import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { seededRandom } from '../../bench/load.ts'
import { type BalanceCache, LIFETIMES } from '../../src/cache/cache.ts'
import { createMemoryCache } from '../../src/cache/memoryCache.ts'
import { createRedisCache } from '../../src/cache/redisCache.ts'
import { seedFor } from '../ledger/seed.ts'
import { type RedisServer, startRedis } from '../services/redis.ts'
import { type Disruptions, explore, MUTANTS } from './interleaving.ts'
import { openStore, type Store } from './store.ts'
import { connected } from './wait.ts'

type Stage = { cache: BalanceCache; disruptions: Disruptions }

/** Goes through many orders; the first rule that was broken. */
async function broken({ cache, disruptions }: Stage, random: () => number, runs: number): Promise<string | undefined> {
  for (let run = 0; run < runs; run++) {
    const found = await explore({ cache, disruptions, random, steps: 150 })
    if (found !== undefined) return found
  }
  return undefined
}

function describeOrders(name: string, stage: () => Stage, runs: number): void {
  describe(`in whichever order things come to the cache ${name}`, () => {
    const seed = seedFor(`orders ${name}`)

    it('a stale balance never stays beyond the next word of its wallet', async () => {
      expect(await broken(stage(), seededRandom(seed), runs)).toBeUndefined()
    })

    it.each(Object.keys(MUTANTS))('that would be noticed if %s', async (mutant) => {
      const { cache, disruptions } = stage()
      const changed = MUTANTS[mutant]?.(cache) ?? cache
      expect(await broken({ cache: changed, disruptions }, seededRandom(seed), 100)).toBeDefined()
    })
  })
}

let nowMs = 1
const memory = createMemoryCache({ now: () => nowMs })
const age = async () => {
  nowMs += LIFETIMES.balanceMs * 2
}
describeOrders('in memory', () => ({ cache: memory, disruptions: { age } }), 300)

let redis: RedisServer
let store: Store
let shared: BalanceCache
beforeAll(async () => {
  redis = await startRedis()
  store = await openStore(redis.url)
  shared = createRedisCache({ url: redis.url, answerMsMax: 10_000 })
  await connected(shared)
})
afterAll(async () => {
  store?.close()
  await shared?.close()
  await redis?.stop()
})
describeOrders('in Redis', () => ({ cache: shared, disruptions: store }), 30)
