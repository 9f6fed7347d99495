import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { createPools } from '../../src/bus/pools.ts'
import { requestOf } from '../../src/core/request.ts'
import { createBatcher } from '../../src/ledger/batcher.ts'
import { createPoster } from '../../src/ledger/poster.ts'
import { pruneTraces } from '../../src/ledger/sql/pruneTraces.ts'
import { startTracePruning, TRACES_KEPT_US } from '../../src/observe/tracePruning.ts'
import { connect } from '../../src/postgres/connect.ts'
import { newId } from '../../src/shards/newId.ts'
import { migratedDatabase } from '../support/database.ts'
import { TENANT } from '../support/ledger.ts'

/** Posts blocks at these ages, each with a traced request and one that is not. */
async function stage(agesUs: readonly number[]) {
  const url = await migratedDatabase()
  const nowUs = Date.now() * 1000
  for (const ageUs of agesUs) {
    const poster = createPoster({ url, shard: 0, writer: 'test', clockUs: () => nowUs - ageUs })
    const { submit } = createBatcher({ post: (requests) => poster.post(requests) })
    const open = (traced: object) => {
      const [id, holderId] = [newId(0), newId(0)]
      const operation = { kind: 'wallet-open', holderId, currency: 'USD', overdraftLimit: 0n, limits: {} } as const
      return submit({ ...requestOf(id, TENANT, 'open', operation), ...traced })
    }
    await Promise.all([open({}), open({ traceparent: `00-${'a'.repeat(32)}-${'b'.repeat(16)}-01` })])
    await poster.close()
  }
  const sql = connect(url, { max: 1, name: 'test' })
  onTestFinished(() => sql.end())
  const places = async () =>
    (await sql<{ block: bigint; item: number }[]>`SELECT block, item FROM request_traces ORDER BY 1`).map(
      ({ block, item }) => `${block}.${item}`,
    )
  return { url, sql, places, nowUs }
}

test('contexts are kept by the places of their requests, and removed from the oldest on, so many at a time', async () => {
  const { sql, places, nowUs } = await stage([3_000_000, 2_000_000, 1_000_000])
  expect(await places()).toEqual(['1.1', '2.1', '3.1'])
  const beforeUs = nowUs - 1_500_000
  expect(await pruneTraces(sql, { beforeUs, limit: 1 })).toBe(1)
  expect(await places()).toEqual(['2.1', '3.1'])
  expect(await pruneTraces(sql, { beforeUs, limit: 10 })).toBe(1)
  expect(await pruneTraces(sql, { beforeUs, limit: 10 })).toBe(0)
  expect(await places()).toEqual(['3.1'])
})

test('a node removes what is older than it has to be, and nothing else', async () => {
  const { url, places } = await stage([TRACES_KEPT_US + 60_000_000, TRACES_KEPT_US - 3_600_000_000])
  const troubles: unknown[] = []
  const pools = createPools(() => url, 'test', 1)
  onTestFinished(() => pools.end())
  const pruning = startTracePruning({
    ...{ shards: () => [0], pools, onTrouble: (error) => troubles.push(error), intervalMs: 20 },
  })
  onTestFinished(() => pruning.stop())
  while ((await places()).length > 1) await sleep(20)
  expect(await places()).toEqual(['2.1'])
  expect(troubles).toEqual([])
})
