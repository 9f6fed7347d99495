import { randomUUID } from 'node:crypto'
import { expect, onTestFinished, test } from 'vitest'
import { verifyAll } from '../../src/audit/verification.ts'
import { canonicalItem } from '../../src/core/block.ts'
import { parseId, slotOfId } from '../../src/core/ids.ts'
import type { MapChange } from '../../src/core/mapChange.ts'
import { leafHash } from '../../src/core/merkle.ts'
import { requestOf } from '../../src/core/request.ts'
import { connect, type Sql } from '../../src/postgres/connect.ts'
import { createMover, type Mover } from '../../src/relocation/mover.ts'
import { newId } from '../../src/shards/newId.ts'
import type { Router } from '../../src/shards/router.ts'
import { type Api, openApi } from '../support/api.ts'
import { migratedDatabase } from '../support/database.ts'

const uuidOf = (wallet: string) => parseId('wal', wallet) ?? ''
const slotOfWallet = (wallet: string) => slotOfId(uuidOf(wallet))

type Town = {
  api: Api
  urls: string[]
  pools: Sql[]
  mover: Mover
  move(slots: number[], from: number, to: number): Promise<boolean>
}

/** Slots are not opened again because a busy machine takes its time for sagas that are about to end. */
const DRAIN_MS_MAX = 60_000

/** Shards, and a mover that makes any change that it is told to. */
async function openTown(count: number, wrapRouter = (router: Router) => router): Promise<Town> {
  const urls = await Promise.all(Array.from({ length: count }, () => migratedDatabase()))
  const api = await openApi({ url: urls[0] ?? '', moreUrls: urls.slice(1) })
  const pools = urls.map((url) => connect(url, { max: 3 }))
  const router = wrapRouter(api.router)
  const mover = createMover({ router, pool: (shard) => pools[shard] as Sql, drainMsMax: DRAIN_MS_MAX })
  onTestFinished(async () => {
    await Promise.all(pools.map((sql) => sql.end()))
    await api.close()
  })
  const move = async (slots: number[], from: number, to: number) => {
    const { epoch, shardCount, drained } = api.router.map
    const change: MapChange = {
      ...{ id: randomUUID(), epoch: epoch + 1, createdUs: Date.now() * 1000 },
      ...{ shardCount, drained, slots, from, to },
    }
    try {
      return await mover.make(change)
    } finally {
      await Promise.all(api.router.shards.map(({ number }) => api.router.look(number)))
    }
  }
  return { api, urls, pools, mover, move }
}

const isOpen = async ({ pools }: Town) =>
  (await Promise.all(pools.map((sql) => sql`SELECT FROM map_change`))).every(({ count }) => count === 0)

test('a plan that was made for another map is not carried out, by nobody, and nothing stays closed', async () => {
  const town = await openTown(3)
  const { api, move, urls } = town
  const [payer, payee] = [await api.alpha.wallet(1_000), await api.alpha.wallet()]
  const from = api.router.shardOf(uuidOf(payer))
  const [to, elsewhere] = [(from + 1) % 3, (from + 2) % 3]
  expect(await move([slotOfWallet(payer)], from, to)).toBe(true)
  const pay = () => api.alpha.pay(payer, payee, 100, { key: 'once' })
  expect((await pay()).status).toBe(201)
  await expect(move([slotOfWallet(payer)], from, elsewhere)).rejects.toThrow('not under way here')
  expect(await isOpen(town)).toBe(true)
  expect(await api.alpha.available(payer)).toBe(900n)
  expect((await pay()).headers['idempotency-replayed']).toBe('true')
  expect(await verifyAll(urls)).toMatchObject({ balanced: true })
})

test('a wallet whose counters would overflow stays where it is, and goes on there', async () => {
  const town = await openTown(2)
  const { api, move, urls } = town
  const rich = await api.alpha.wallet()
  await api.alpha.topUp(rich, 2n ** 63n - 1n)
  const from = api.router.shardOf(uuidOf(rich))
  await expect(move([slotOfWallet(rich)], from, 1 - from)).rejects.toThrow(`${rich} can not be moved`)
  expect(await isOpen(town)).toBe(true)
  expect(await api.alpha.available(rich)).toBe(2n ** 63n - 1n)
  expect(await verifyAll(urls)).toMatchObject({ balanced: true })
})

test('any number of holds move without filling the queue for others', async () => {
  let [waiting, most] = [0, 0]
  const counting = (router: Router): Router => ({
    ...router,
    shards: router.shards,
    map: router.map,
    shard(number) {
      const shard = router.shard(number)
      const submit: typeof shard.batcher.submit = async (request) => {
        most = Math.max(most, ++waiting)
        return await shard.batcher.submit(request).finally(() => waiting--)
      }
      return { ...shard, batcher: { ...shard.batcher, submit } }
    },
  })
  const { api, move, urls } = await openTown(2, counting)
  const [payer, payee] = [await api.alpha.wallet(10_000), await api.alpha.wallet()]
  const leg = { from: uuidOf(payer), to: uuidOf(payee), amount: 1n, currency: 'USD' }
  const holds = Array.from({ length: 1_200 }, () =>
    requestOf(newId(slotOfWallet(payer)), api.tenantIds.alpha, randomUUID(), {
      ...{ kind: 'hold', leg, expiresInSeconds: 1_000, remarks: {} },
    }),
  )
  await Promise.all(holds.map((request) => api.sagas.submit(request, 60_000)))
  const from = api.router.shardOf(uuidOf(payer))
  expect(await move([slotOfWallet(payer)], from, 1 - from)).toBe(true)
  expect(most).toBeLessThanOrEqual(500)
  expect(await api.alpha.balance(payer)).toMatchObject({ pendingOut: '1200', available: '8800' })
  expect(await verifyAll(urls)).toMatchObject({ balanced: true })
})

test('the application can not plant records among the copies', async () => {
  const { api, pools } = await openTown(2)
  const wallet = await api.alpha.wallet(1_000)
  const home = api.router.shardOf(uuidOf(wallet))
  const elsewhere = api.router.map.shards.indexOf(1 - home)
  const leg = { from: uuidOf(wallet), to: uuidOf(await api.alpha.wallet()), amount: 7n, currency: 'USD' }
  const { id, tenantId, scope, key, payload } = requestOf(newId(slotOfWallet(wallet)), api.tenantIds.alpha, 'planted', {
    ...{ kind: 'transfer', legs: [leg], remarks: {} },
  })
  const leaf = leafHash(
    canonicalItem({ id, tenantId, scope, key, kind: 'transfer', payload, refusal: null, result: null, entries: [] }),
  ).toString('hex')
  const row = {
    shard: 9,
    block: '1',
    item: 0,
    time_us: '5',
    id,
    tenant_id: tenantId,
    scope,
    key,
    kind: 'transfer',
    payload,
    leaf,
  }
  const plant = (slots: string, entries: object[] = []) =>
    pools[home]?.unsafe(
      `SELECT copy_history(9, ${slots}, NULL, '${JSON.stringify([row])}'::json, '${JSON.stringify(entries)}'::json)`,
    )
  for (const slots of ["'{}'", 'NULL', `ARRAY[${slotOfWallet(wallet)}]`, `ARRAY[${elsewhere}]`]) {
    await expect(plant(slots), slots).rejects.toThrow('history is copied')
  }
  const entry = {
    shard: 9,
    block: '1',
    item: 1,
    line: 0,
    account_id: newId(elsewhere),
    account_name: 'wallet',
    sequence: '1',
  }
  await expect(plant(`ARRAY[${elsewhere}]`, [entry])).rejects.toThrow('history is copied that does not belong')
})

test('a copy that was changed together with its hash is found by the shard that it came from', async () => {
  const { api, move, urls } = await openTown(2)
  const wallet = await api.alpha.wallet(1_000)
  const from = api.router.shardOf(uuidOf(wallet))
  expect(await move([slotOfWallet(wallet)], from, 1 - from)).toBe(true)
  const sql = connect(urls[1 - from] ?? '', { max: 1, role: null })
  onTestFinished(() => sql.end())
  const [row] = await sql<Parameters<typeof canonicalItem>[0][]>`
    SELECT id, tenant_id AS "tenantId", scope, key, kind, payload::text, refusal, result::text FROM moved_requests WHERE kind = 'wallet-open'`
  if (!row) throw new Error('nothing was copied')
  const payload = row.payload.replace('"holderId":"', '"holderId":"x')
  const leaf = leafHash(canonicalItem({ ...row, payload, entries: [] }))
  await sql.begin(async (sql) => {
    await sql`SET LOCAL session_replication_role = replica`
    await sql`UPDATE moved_requests SET payload = ${payload}::text::json, leaf = ${leaf}::bytea WHERE id = ${row.id}`
  })
  expect(await verifyAll(urls)).toMatchObject({
    ...{ balanced: false, copies: { discrepancy: { request: row.id, shard: 1 - from } } },
  })
})

test('a wallet takes a reversal along whose transfer was made on a shard where it never was: the books agree', async () => {
  const { api, move, urls } = await openTown(3)
  const { alpha, router } = api
  const payer = await alpha.wallet(1_000)
  const from = router.shardOf(uuidOf(payer))
  let payee = await alpha.wallet()
  while (router.shardOf(uuidOf(payee)) === from) payee = await alpha.wallet()
  const to = router.shardOf(uuidOf(payee))
  const paid = await alpha.pay(payer, payee, 10)
  expect(paid.status, paid.text).toBe(201)
  expect(await move([slotOfWallet(payer)], from, to)).toBe(true)
  const back = await alpha.call('POST', `/v1/transfers/${paid.body.id}/reverse`, { amount: '4' })
  expect(back.status, back.text).toBe(201)
  const other = [0, 1, 2].find((shard) => shard !== from && shard !== to) ?? 0
  expect(await move([slotOfWallet(payee)], to, other)).toBe(true)
  expect(await verifyAll(urls)).toMatchObject({ balanced: true })
  // What is left of it is known where the payer lives.
  const more = await alpha.call('POST', `/v1/transfers/${paid.body.id}/reverse`, { amount: '7' })
  expect(more.status, more.text).toBe(422)
})

test('a wallet takes along a reversal that came to nothing, without the transfer: the books agree', async () => {
  const { api, move, urls } = await openTown(3)
  const { alpha, router } = api
  const wallets = new Map<number, string>()
  while (wallets.size < 3) {
    const wallet = await alpha.wallet()
    wallets.set(router.shardOf(uuidOf(wallet)), wallet)
  }
  const [payer = '', payee = '', spender = ''] = [0, 1, 2].map((shard) => wallets.get(shard))
  await alpha.topUp(payer, 1_000)
  const legs = [payee, spender].map((to) => ({ from: payer, to, amount: '10', currency: 'USD' }))
  const paid = await alpha.call<{ id: string }>('POST', '/v1/transfers', { legs })
  expect(paid.status, paid.text).toBe(201)
  expect((await alpha.pay(spender, payer, 10)).status).toBe(201)
  expect(await move([slotOfWallet(payer)], 0, 1)).toBe(true)
  const back = await alpha.call('POST', `/v1/transfers/${paid.body.id}/reverse`, {})
  expect(back.status, back.text).toBe(422)
  expect(await verifyAll(urls)).toMatchObject({ balanced: true })
  expect(await move([slotOfWallet(payee)], 1, 2)).toBe(true)
  expect(await verifyAll(urls)).toMatchObject({ balanced: true })
})
