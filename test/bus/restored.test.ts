import { afterAll, beforeAll, expect, test } from 'vitest'
import type { LedgerEvent } from '../../src/bus/events.ts'
import { createPools, type Pools } from '../../src/bus/pools.ts'
import { alignWithChains, NodesRunning } from '../../src/bus/restored.ts'
import { busOf, consumeOnce, EFFECTS, effectsOf } from './consumer.ts'
import { allEvents, byKey, openLedgerStage, until } from './stage.ts'

let ledger: Awaited<ReturnType<typeof openLedgerStage>>
let pool: Pools
const shards = [0, 1]
beforeAll(async () => {
  ledger = await openLedgerStage()
  pool = createPools((shard) => ledger.urls[shard], 'test', 1)
  await ledger.api.query(EFFECTS)
  await ledger.live(30)
})
afterAll(async () => {
  await pool?.end()
  await ledger?.close()
})

/** Runs the group until all is done. */
async function consumeAll(name: string): Promise<void> {
  const url = ledger.urls[0] ?? ''
  const bus = busOf({ urls: ledger.urls })
  const consumer = consumeOnce(bus, url, name)
  const all = await allEvents(ledger.urls)
  await until(
    async () => (await effectsOf(url, name)).length >= all.length,
    async () => `${(await effectsOf(url, name)).length} of ${all.length}`,
  )
  await consumer.stop()
  await bus.close()
  expect(byKey((await effectsOf(url, name)) as LedgerEvent[])).toEqual(byKey(all))
}

test('marks of blocks that are gone are moved back, and the blocks that come are done', async () => {
  await consumeAll('lost')
  // As a shard leaves them whose last hundred blocks were lost.
  await ledger.api.query(`UPDATE consumer_marks SET block = block + 100 WHERE consumer_group = 'lost' AND shard = 1`)
  expect(await alignWithChains(pool, shards)).toMatchObject({ marks: 1 })
  await ledger.live(20)
  await consumeAll('lost')
})

test('what a restored first shard lacks is done again, the rest is not', async () => {
  await consumeAll('older')
  const marks = await ledger.api.query<{ shard: number; block: bigint; index: number }>(
    `SELECT shard, block, index FROM consumer_marks WHERE consumer_group = 'older' ORDER BY shard`,
  )
  await ledger.live(20)
  await consumeAll('older')
  for (const { shard, block, index } of marks) {
    await ledger.api.query(
      `UPDATE consumer_marks SET block = ${block}, index = ${index} WHERE consumer_group = 'older' AND shard = ${shard}`,
    )
    const later = `split_part(event, '.', 1)::int = ${shard}
      AND (split_part(event, '.', 2)::int, split_part(event, '.', 3)::int) > (${block}, ${index})`
    await ledger.api.query(`DELETE FROM effects WHERE consumer = 'older' AND ${later}`)
  }
  expect((await alignWithChains(pool, shards)).readers).toBeGreaterThanOrEqual(2)
  await consumeAll('older')
})

test('beside a node that runs nothing is touched', async () => {
  const bus = busOf({ urls: ledger.urls })
  const consumer = consumeOnce(bus, ledger.urls[0] ?? '', 'running')
  await until(async () => (await effectsOf(ledger.urls[0] ?? '', 'running')).length > 0)
  await expect(alignWithChains(pool, shards)).rejects.toThrow(NodesRunning)
  await consumer.stop()
  await bus.close()
  await alignWithChains(pool, shards)
})
