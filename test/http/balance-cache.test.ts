import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Balances, createBalances } from '../../src/cache/balances.ts'
import type { BalanceCache } from '../../src/cache/cache.ts'
import { createMemoryCache } from '../../src/cache/memoryCache.ts'
import { parseId } from '../../src/core/ids.ts'
import { buildApp } from '../../src/http/app.ts'
import type { Balance as LedgerBalance } from '../../src/ledger/sql/balances.ts'
import { createBlockFeed } from '../../src/live/blockFeed.ts'
import { openEndpoints } from '../../src/webhooks/endpoints.ts'
import { until } from '../cache/wait.ts'
import { type Api, type Balance, type Client, clientOf, openApi } from '../support/api.ts'
import { expectProblem } from './problem.ts'

let api: Api
let cache: BalanceCache
let balances: Balances
/** As the app has them, with a cache. */
let client: Client
let stranger: Client
let load: (tenantId: string, walletId: string) => Promise<LedgerBalance | undefined>
let close: () => Promise<void>

beforeAll(async () => {
  api = await openApi()
  const { router, sagas, directory } = api
  const fromShard = (tenantId: string, id: string) => router.read(id, ({ reader }) => reader.balance(tenantId, id))
  load = fromShard
  cache = createMemoryCache()
  balances = createBalances({
    ...{ cache, load: (tenantId, id) => load(tenantId, id), shardOf: (id) => router.shardOf(id) },
    ...{ cacheMsMax: 10_000, loadsMax: 1, loadsWaitingMax: 1 },
  })
  const feed = createBlockFeed({ shards: () => router.shards })
  const webhookEndpoints = openEndpoints(api.url, { allowPrivate: false })
  const app = await buildApp({ router, sagas, directory, webhookEndpoints, feed, balances })
  const over = ({ apiKey }: Client) =>
    clientOf(async ({ method, path, headers }) => {
      const answer = await app.inject({ method, url: path, headers })
      const shown = Object.entries(answer.headers).map(([name, value]) => [name, `${value}`])
      return { status: answer.statusCode, headers: Object.fromEntries(shown), text: answer.payload }
    }, apiKey)
  client = over(api.alpha)
  stranger = over(api.beta)
  close = async () => {
    await app.close()
    await balances.close()
    await feed.close()
    await webhookEndpoints.close()
  }
})
afterAll(async () => {
  await close?.()
  await api?.close()
})

const read = async (wallet: string, query = '') =>
  (await client.get<Balance>(`/v1/wallets/${wallet}/balance${query}`)).body

test('the balance says where it was read; the cache may be behind, strong is not', async () => {
  const wallet = await api.alpha.wallet(500)
  expect(await read(wallet)).toMatchObject({ posted: '500', source: 'database' })
  await until(async () => (await cache.read(parseId('wal', wallet) ?? '')) !== undefined)
  const cached = await read(wallet)
  expect(cached).toEqual({ ...(await api.alpha.balance(wallet)), source: 'cache', asOf: cached.asOf })
  await api.alpha.topUp(wallet, 70)
  expect(await read(wallet, '?consistency=cached')).toEqual(cached)
  const strong = await read(wallet, '?consistency=strong')
  expect(strong).toMatchObject({ posted: '570', source: 'database' })
  expect(strong.version).toBeGreaterThan(cached.version)
  await until(async () => (await read(wallet)).posted === '570')
  expect(await read(wallet)).toMatchObject({ version: strong.version, source: 'cache' })
})

test('a balance of the past comes from the database', async () => {
  const wallet = await api.alpha.wallet(500)
  const { asOf } = await read(wallet)
  await api.alpha.topUp(wallet, 70)
  expect(await read(wallet, `?at=${asOf}`)).toMatchObject({ posted: '500', source: 'database' })
})

test('nobody else finds it, nor does anybody what is not there, asked twice too', async () => {
  const wallet = await api.alpha.wallet(500)
  await read(wallet)
  const none = `wal_${randomUUID().replaceAll('-', '').slice(0, 29)}000`
  for (let i = 0; i < 2; i++) {
    expectProblem(await stranger.get(`/v1/wallets/${wallet}/balance`), 'not_found')
    expectProblem(await client.get(`/v1/wallets/${none}/balance`), 'not_found')
  }
  expect(await read(wallet)).toMatchObject({ posted: '500' })
})

test('what is neither cached nor strong is refused', async () => {
  const wallet = await api.alpha.wallet()
  const answer = await client.get(`/v1/wallets/${wallet}/balance?consistency=weak`)
  expectProblem(answer, 'validation_failed')
})

test('when too many reads wait, one more is told to come again', async () => {
  const wallets = await Promise.all([1, 2, 3].map(() => api.alpha.wallet(500)))
  const fromShard = load
  let goOn = () => {}
  const gate = new Promise<void>((open) => {
    goOn = open
  })
  load = async (tenantId, id) => {
    await gate
    return await fromShard(tenantId, id)
  }
  const answers = wallets.map((wallet) => client.get<Balance>(`/v1/wallets/${wallet}/balance`))
  const first = await Promise.race(answers)
  expectProblem(first, 'saturated')
  expect(first.headers['retry-after']).toBe('1')
  goOn()
  expect((await Promise.all(answers)).map(({ status }) => status).sort()).toEqual([200, 200, 503])
  load = fromShard
})
