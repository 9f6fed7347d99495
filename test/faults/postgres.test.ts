import { afterAll, beforeAll, expect, test } from 'vitest'
import { listOf, type ShardServer, startShardServers } from '../saga/servers.ts'
import { describeWith } from '../services/available.ts'
import { expectBooks } from './books.ts'
import { type Allowed, beginFault } from './fault.ts'
import { openStage, type Stage } from './stage.ts'

/**
 * Whoever pays from a wallet there is told to ask again, or that it is pending; who pays to one, that it is pending. Balances are shown as long as
 * the cache has them. Nobody else notices.
 */
const AWAY: Allowed = {
  'pay 1': ['503 ledger_unavailable', '409 request_in_flight'],
  'pay 1 to 0': ['503 ledger_unavailable', '409 request_in_flight', '202'],
  'pay 0 to 1': ['202'],
  'read 1': ['503 ledger_unavailable'],
}
const DOWN = [
  ...['ShardDown page shard=1', 'ErrorBudgetBurn page window=1h', 'BreakerOpen ticket dependency=shard1'],
  'SagasStuck page shard=0',
]
/** Some of it, as it happens. */
const MAYBE = [
  ...['QueueOld ticket shard=1', 'PostingTroubles ticket shard=1', 'PoolExhausted ticket'],
  // Sagas that began there are seen when it is back, and are old by then.
  'SagasStuck page shard=1',
]

describeWith(['redis', 'kafka', 'prometheus'], 'PostgreSQL of one of two shards under load', () => {
  let stage: Stage
  let servers: ShardServer[] = []
  const shard = () => {
    const [, server] = servers
    if (!server) throw new Error('there is no shard 1')
    return server
  }
  beforeAll(async () => {
    servers = await startShardServers(2)
    stage = await openStage('faults of PostgreSQL', listOf(servers).split(','))
  }, 240_000)
  afterAll(async () => {
    await stage?.close()
    await Promise.all(servers.map((server) => server.close()))
  }, 120_000)

  test.each([
    ['is paused', () => shard().freeze(), async () => shard().thaw()],
    ['is killed', () => shard().kill(), () => shard().restart()],
  ])(
    'when it %s, wallets on the other shard do not notice, and payments between them end when it is back',
    async (_, harm, mend) => {
      const fault = await beginFault(stage)
      await harm()
      await fault.shows('zerosum_shard_up{shard="1"}', (up) => up === 0)
      await fault.absent('zerosum_sagas_in_flight{shard="1"}')
      await fault.shows('zerosum_sagas_in_flight{shard="0"}', (count) => count > 0)
      await fault.fires(...DOWN)
      await mend()
      fault.mended()
      const { outcomes } = await fault.recovered(AWAY)
      expect(outcomes['pay 1']['503 ledger_unavailable']).toBeGreaterThan(0)
      expect(outcomes['pay 0 to 1']['202']).toBeGreaterThan(0)
      expect(outcomes['read 1']['200']).toBeGreaterThan(0)
      await fault.firedOnly(...DOWN, ...MAYBE)
    },
    600_000,
  )

  test('when it answers 200 ms late, clients wait a little longer, and nothing fails', async () => {
    const fault = await beginFault(stage)
    shard().passage.slow(200)
    const half = (shard: number) =>
      `histogram_quantile(0.5, sum by (le) (rate(zerosum_block_commit_seconds_bucket{shard="${shard}"}[5s])))`
    await fault.shows(half(1), (seconds) => seconds > 0.1)
    await fault.shows(half(0), (seconds) => seconds < 0.1)
    await fault.fires('LatencyBudgetBurn page window=1h')
    shard().passage.slow(0)
    fault.mended()
    await fault.recovered({})
    await fault.firedOnly()
  }, 600_000)

  test('after all of it the books are right, and every event was published', () => expectBooks(stage), 600_000)
})
