import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { slotOfId, uuidv7 } from '../../src/core/ids.ts'
import { connect, type Sql } from '../../src/postgres/connect.ts'
import { createMover, type Mover } from '../../src/relocation/mover.ts'
import { type Api, openApi } from '../support/api.ts'
import { migratedDatabase } from '../support/database.ts'

let api: Api
let pools: Sql[]
let mover: Mover

beforeAll(async () => {
  const urls = [await migratedDatabase(), await migratedDatabase()]
  api = await openApi({ url: urls[0] ?? '', moreUrls: urls.slice(1) })
  pools = urls.map((url) => connect(url, { max: 2 }))
  const pool = (shard: number) => pools[shard] as Sql
  mover = createMover({ router: api.router, pool, drainMsMax: 60_000 })
})
afterAll(async () => {
  await Promise.all((pools ?? []).map((sql) => sql.end()))
  await api?.close()
})

/** Takes slots to a shard that they are not on. */
async function move(slots: readonly number[], to: number): Promise<void> {
  const { router } = api
  await Promise.all(router.shards.map(({ number }) => router.look(number)))
  const { epoch, shardCount, drained } = router.map
  const made = { id: randomUUID(), epoch: epoch + 1, shardCount, createdUs: Date.now() * 1000, drained }
  expect(await mover.make({ ...made, slots, from: 1 - to, to })).toBe(true)
}

/** Ids of which the slots are on a shard now. */
function idsOn(shard: number, count: number): string[] {
  const slots = api.router.map.shards.flatMap((home, slot) => (home === shard ? [slot] : []))
  return slots.slice(0, count).map((slot) => uuidv7(0, '0123456789abcdef', slot))
}

/** Reads an id, while `meanwhile` happens to the first time that it is read. @returns the shards where it was read */
async function read(id: string, meanwhile: () => Promise<void>): Promise<number[]> {
  const shards: number[] = []
  await api.router.read(id, async ({ number }) => {
    shards.push(number)
    if (shards.length === 1) await meanwhile()
  })
  return shards
}

test('a read is not made again because others move', async () => {
  const [id = '', ...others] = idsOn(0, 5)
  expect(await read(id, () => move(others.map(slotOfId), 1))).toEqual([0])
  const shards: number[] = []
  // However long it takes: they move all the time.
  await api.router.read(id, async ({ number }) => {
    shards.push(number)
    await move(others.map(slotOfId), 0)
    await move(others.map(slotOfId), 1)
  })
  expect(shards).toEqual([0])
})

test('it is made again where what is read has gone', async () => {
  const [id = ''] = idsOn(0, 1)
  expect(await read(id, () => move([slotOfId(id)], 1))).toEqual([0, 1])
})

test('it is made again if that went and came back', async () => {
  const [id = ''] = idsOn(0, 1)
  const shards = await read(id, async () => {
    await move([slotOfId(id)], 1)
    await move([slotOfId(id)], 0)
  })
  expect(shards).toEqual([0, 0])
})
