import { expect, onTestFinished, test } from 'vitest'
import type { ConsumerGroup } from '../../src/bus/bus.ts'
import { ENTRIES } from '../../src/bus/events.ts'
import { createPools } from '../../src/bus/pools.ts'
import { HANDLER_CONNECTIONS, startConsumers } from '../../src/consumers/consumers.ts'
import { connect } from '../../src/postgres/connect.ts'
import { until } from '../bus/stage.ts'
import { openApi } from '../support/api.ts'
import { migratedDatabase } from '../support/database.ts'

test('a group whose handlers wait for a lock leaves connections to the others', async () => {
  const moreUrls = [await migratedDatabase(), await migratedDatabase(), await migratedDatabase()]
  const api = await openApi({ moreUrls })
  const urls = [api.url, ...moreUrls]
  const pools = createPools((shard) => urls[shard], 'test', 3)
  const handling = connect(api.url, { max: HANDLER_CONNECTIONS, name: 'test handlers' })
  const owner = connect(api.url, { max: 2, role: null })
  const troubles: unknown[] = []
  const handled = new Set<number>()
  const waiting = new Set<number>()
  const group = (name: string, work: ConsumerGroup['handle']): ConsumerGroup => ({
    name,
    topics: [ENTRIES],
    handle: work,
  })
  const release = Promise.withResolvers<void>()
  const held = owner.begin(async (sql) => {
    await sql`SET LOCAL idle_in_transaction_session_timeout = 0`
    await sql`SELECT pg_advisory_xact_lock(1)`
    await release.promise
  })
  const consumers = startConsumers({
    ...{ brokers: [], partitions: 1, shards: () => [0, 1, 2, 3], urlOf: (shard) => urls[shard], pools },
    worksFor: () => true,
    groups: [
      group('stuck', async ([event]) => {
        await handling.begin(async (sql) => {
          waiting.add(event?.place.shard ?? -1)
          await sql`SELECT pg_advisory_xact_lock_shared(1)`
        })
      }),
      group('quick', async ([event]) => {
        await handling.begin(async (sql) => sql`SELECT 1`)
        handled.add(event?.place.shard ?? -1)
      }),
    ],
    onTrouble: (error) => troubles.push(error),
  })
  onTestFinished(async () => {
    release.resolve()
    await held
    await consumers.stop()
    await Promise.all([pools.end(), handling.end(), owner.end(), api.close()])
  })
  // Enough holders that every shard has one.
  await Promise.all(Array.from({ length: 40 }, (_, i) => api.alpha.wallet(5, { holderId: `holder ${i}` })))
  await until(
    () => handled.size >= 4 && waiting.size >= 2,
    () => `handled on ${[...handled]}, waiting on ${[...waiting]}`,
  )
  expect([...handled].sort()).toEqual([0, 1, 2, 3])
  // Both wait for the lock, and the other two for them.
  expect(waiting.size).toBe(2)
  release.resolve()
  await until(() => waiting.size === 4)
  expect(troubles).toEqual([])
})
