import { afterAll, beforeAll, expect, test } from 'vitest'
import { describeWith } from '../services/available.ts'
import { migratedDatabase } from '../support/database.ts'
import { expectBooks } from './books.ts'
import { beginFault } from './fault.ts'
import { openStage, type Stage } from './stage.ts'

const BREAKER = 'BreakerOpen ticket dependency=redis'
const NOTICED = 'no client notices, the database shows balances, and the cache is used again by itself'

describeWith(['redis', 'kafka', 'prometheus'], 'Redis under load', () => {
  let stage: Stage
  beforeAll(async () => {
    stage = await openStage('faults of Redis', [await migratedDatabase(), await migratedDatabase()])
  }, 240_000)
  afterAll(() => stage?.close(), 120_000)

  test.each<[string, (stage: Stage) => unknown, (stage: Stage) => unknown]>([
    ['is paused', ({ redis }) => redis.pause(), ({ redis }) => redis.resume()],
    ['is killed', ({ redis }) => redis.kill(), ({ redis }) => redis.restart()],
    ['answers 200 ms late', ({ redisWay }) => redisWay.slow(200), ({ redisWay }) => redisWay.slow(0)],
  ])(
    `when it %s, ${NOTICED}`,
    async (_, harm, mend) => {
      const fault = await beginFault(stage)
      await harm(stage)
      await fault.shows('zerosum_breaker_state{dependency="redis"}', (state) => state === 2)
      await fault.fires(BREAKER)
      await fault.shows('rate(zerosum_cache_reads_total{result="miss"}[3s])', (rate) => rate > 0)
      await mend(stage)
      fault.mended()
      await fault.shows('rate(zerosum_cache_reads_total{result="hit"}[3s])', (rate) => rate > 0)
      const { during } = await fault.recovered({})
      const sources = during.flatMap(({ flow, answer }) => (flow.startsWith('read') ? [answer?.body.source] : []))
      expect(sources).toContain('database')
      await fault.firedOnly(BREAKER)
    },
    600_000,
  )

  test('after all of it the books are right, and every event was published', () => expectBooks(stage), 600_000)
})
