import { setTimeout as sleep } from 'node:timers/promises'
import type { RedisServer } from '../redis/connection.ts'
import { redisPrefix } from '../redis/installation.ts'
import { firstMapMadeUs } from '../shards/storedMap.ts'
import { createRedisCache } from './redisCache.ts'

const CONNECT_TRIES = 50
const CONNECT_PAUSE_MS = 100
const ANSWER_MS_MAX = 10_000

/**
 * `zerosum cache flush`: forgets all that Redis has of this installation, and nothing else.
 * @param firstUrl of the first shard's database
 * @returns the exit code
 */
export async function flushCache(firstUrl: string, redis: RedisServer | undefined): Promise<number> {
  if (!redis) {
    console.error('REDIS_URL is not set: nodes keep nothing that outlives them.')
    return 2
  }
  const keyPrefix = redisPrefix(await firstMapMadeUs(firstUrl))
  let trouble: Error | undefined
  const cache = createRedisCache({
    ...{ ...redis, keyPrefix, answerMsMax: ANSWER_MS_MAX },
    onTrouble: (error) => {
      trouble = error
    },
  })
  try {
    for (let tries = 1; ; tries++) {
      try {
        const count = await cache.flush()
        console.log(`${count} keys of this installation (${keyPrefix}*) are forgotten.`)
        return 0
      } catch (error) {
        if (tries < CONNECT_TRIES) await sleep(CONNECT_PAUSE_MS)
        else {
          console.error(`Redis does not answer: ${(trouble ?? (error as Error)).message}`)
          return 1
        }
      }
    }
  } finally {
    await cache.close()
  }
}
