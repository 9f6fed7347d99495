import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { newKey } from '../../src/tenants/directory.ts'
import { listOf, type ShardServer, startShardServers } from '../saga/servers.ts'
import { describeWith } from '../services/available.ts'
import { clientOf, type Problem } from '../support/api.ts'
import { expectBooks } from './books.ts'
import { type Allowed, beginFault, type Fault } from './fault.ts'
import { openStage, type Stage } from './stage.ts'

/** A key that was looked up so long ago is looked up again, where that can be. */
const KEY_IS_OLD_MS = 11_000

/** What becomes of a fault on one of two shards. */
const away = (shard: 0 | 1) => {
  const other = 1 - shard
  return {
    /**
     * Whoever pays from a wallet there is told to ask again, or that it is pending; who pays to one, that it is pending. Balances are shown as long
     * as the cache has them. Nobody else notices.
     */
    allowed: {
      [`pay ${shard}`]: ['503 ledger_unavailable', '409 request_in_flight'],
      [`pay ${shard} to ${other}`]: ['503 ledger_unavailable', '409 request_in_flight', '202'],
      [`pay ${other} to ${shard}`]: ['202'],
      [`read ${shard}`]: ['503 ledger_unavailable'],
    } as Allowed,
    down: [
      ...[`ShardDown page shard=${shard}`, 'ErrorBudgetBurn page window=1h'],
      ...[`BreakerOpen ticket dependency=shard${shard}`, `SagasStuck page shard=${other}`],
    ],
    /** Some of it, as it happens. */
    maybe: [
      ...[`QueueOld ticket shard=${shard}`, `PostingTroubles ticket shard=${shard}`, 'PoolExhausted ticket'],
      // Sagas that began there are seen when it is back, and are old by then.
      `SagasStuck page shard=${shard}`,
    ],
  }
}

describeWith(['redis', 'kafka', 'prometheus'], 'PostgreSQL of one of two shards under load', () => {
  let stage: Stage
  let servers: ShardServer[] = []
  const serverOf = (shard: number) => {
    const server = servers[shard]
    if (!server) throw new Error(`there is no shard ${shard}`)
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

  type Harm = (server: ShardServer) => Promise<void>
  const paused: [string, Harm, Harm] = ['is paused', (server) => server.freeze(), async (server) => server.thaw()]
  const killed: [string, Harm, Harm] = ['is killed', (server) => server.kill(), (server) => server.restart()]

  /** Waits until it has been told, returns when it is over. */
  async function isAway(shard: 0 | 1, harm: Harm, mend: Harm, meanwhile?: (fault: Fault) => Promise<void>) {
    const { allowed, down, maybe } = away(shard)
    const other = 1 - shard
    const fault = await beginFault(stage)
    await harm(serverOf(shard))
    const keysAreOld = shard === 0 ? sleep(KEY_IS_OLD_MS) : undefined
    await fault.shows(`zerosum_shard_up{shard="${shard}"}`, (up) => up === 0)
    await fault.absent(`zerosum_sagas_in_flight{shard="${shard}"}`)
    await fault.shows(`zerosum_sagas_in_flight{shard="${other}"}`, (count) => count > 0)
    await meanwhile?.(fault)
    await fault.fires(...down)
    await keysAreOld
    await mend(serverOf(shard))
    fault.mended()
    const { outcomes } = await fault.recovered(allowed)
    expect(outcomes[`pay ${shard}`]['503 ledger_unavailable']).toBeGreaterThan(0)
    expect(outcomes[shard === 0 ? 'pay 1 to 0' : 'pay 0 to 1']['202']).toBeGreaterThan(0)
    expect(outcomes[`read ${shard}`]['200']).toBeGreaterThan(0)
    await fault.firedOnly(...down, ...maybe)
  }

  test.each([paused, killed])(
    'when the second %s, wallets on the other shard do not notice, and payments between them end when it is back',
    (_, harm, mend) => isAway(1, harm, mend),
    600_000,
  )

  test.each([paused, killed])(
    'when the first %s, it is the same; whose key is known goes on, and what is only there is told to be away',
    (_, harm, mend) =>
      isAway(0, harm, mend, async (fault) => {
        // A key that was never seen can't be looked up: that it is nobody's would be a guess.
        const stranger = clientOf(stage.node.send, newKey())
        for (const client of [stranger, stage.client]) {
          const answer = await client.get<Problem>('/v1/webhook-endpoints')
          expect(answer, answer.text).toMatchObject({ status: 503, body: { code: 'ledger_unavailable' } })
        }
        await fault.absent('zerosum_webhook_pending')
        await fault.shows('zerosum_consumer_lag_messages{group="webhooks"}', (messages) => messages > 0)
        // What is for the other shard.
        await fault.shows('rate(zerosum_async_posted_total[5s])', (rate) => rate > 0)
      }),
    600_000,
  )

  test.each([1, 0] as const)(
    'when that of shard %i answers 200 ms late, clients wait a little longer, and nothing fails',
    async (shard) => {
      const fault = await beginFault(stage)
      serverOf(shard).passage.slow(200)
      const half = (shard: number) =>
        `histogram_quantile(0.5, sum by (le) (rate(zerosum_block_commit_seconds_bucket{shard="${shard}"}[5s])))`
      await fault.shows(half(shard), (seconds) => seconds > 0.1)
      await fault.shows(half(1 - shard), (seconds) => seconds < 0.1)
      await fault.fires('LatencyBudgetBurn page window=1h')
      serverOf(shard).passage.slow(0)
      fault.mended()
      await fault.recovered({})
      await fault.firedOnly()
    },
    600_000,
  )

  test('after all of it the books are right, and every event was published', () => expectBooks(stage), 600_000)
})
