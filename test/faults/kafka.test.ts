import { afterAll, beforeAll, expect, test } from 'vitest'
import { describeWith } from '../services/available.ts'
import { migratedDatabase } from '../support/database.ts'
import { expectBooks } from './books.ts'
import { type Allowed, beginFault } from './fault.ts'
import { openStage, type Stage } from './stage.ts'

/** What is to be posted later can't be kept safe, so it is not accepted. All else goes on. */
const AWAY: Allowed = { 'later 0': ['503 queue_unavailable'], 'later 1': ['503 queue_unavailable'] }
const BREAKER = 'BreakerOpen ticket dependency=kafka'
const ERRORS = 'ErrorBudgetBurn page window=1h'
const LATE = ['RelayLag ticket shard=0', 'RelayLag ticket shard=1']
const VERY_LATE = ['RelayLag page shard=0', 'RelayLag page shard=1']

describeWith(['redis', 'kafka', 'prometheus'], 'Kafka under load', () => {
  let stage: Stage
  beforeAll(async () => {
    stage = await openStage('faults of Kafka', [await migratedDatabase(), await migratedDatabase()])
  }, 240_000)
  afterAll(() => stage?.close(), 120_000)

  test.each<[string, string[], (stage: Stage) => unknown, (stage: Stage) => unknown]>([
    ['is paused', LATE, ({ kafka }) => kafka.broker(0).pause(), ({ kafka }) => kafka.broker(0).resume()],
    [
      'is killed',
      [...LATE, ...VERY_LATE],
      ({ kafka }) => kafka.broker(0).kill(),
      ({ kafka }) => kafka.broker(0).restart(),
    ],
  ])(
    'when its broker %s, posting goes on, nothing is taken to be posted later, and events come late',
    async (_, alerts, harm, mend) => {
      const fault = await beginFault(stage)
      await harm(stage)
      await fault.shows('zerosum_relay_lag_blocks', (blocks) => blocks > 0)
      await fault.absent('zerosum_consumer_lag_messages')
      await fault.shows('zerosum_breaker_state{dependency="kafka"}', (state) => state === 2)
      await fault.fires(ERRORS, BREAKER, ...alerts)
      await mend(stage)
      fault.mended()
      const { outcomes } = await fault.recovered(AWAY)
      for (const flow of ['later 0', 'later 1'] as const) {
        expect(outcomes[flow]['503 queue_unavailable']).toBeGreaterThan(0)
      }
      await fault.firedOnly(ERRORS, BREAKER, ...VERY_LATE)
    },
    600_000,
  )

  test('when it answers 200 ms late, no client notices, and what is to be posted later is posted', async () => {
    const fault = await beginFault(stage)
    stage.kafkaWay.slow(200)
    await fault.shows('max_over_time(zerosum_relay_lag_blocks[3s])', (blocks) => blocks > 0)
    await fault.shows('rate(zerosum_async_accepted_total[5s])', (rate) => rate > 0)
    await fault.shows('rate(zerosum_async_posted_total[5s])', (rate) => rate > 0)
    stage.kafkaWay.slow(0)
    fault.mended()
    await fault.recovered({})
    await fault.firedOnly()
  }, 600_000)

  test('after all of it the books are right, and every event was published', () => expectBooks(stage), 600_000)
})
