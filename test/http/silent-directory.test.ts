import { randomUUID } from 'node:crypto'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { connectForCallers } from '../../src/guard/callers.ts'
import { ReadsSaturated } from '../../src/guard/readGuard.ts'
import { buildApp } from '../../src/http/app.ts'
import { createBlockFeed } from '../../src/live/blockFeed.ts'
import { ConnectionLost } from '../../src/postgres/connect.ts'
import { createDirectory, type Directory, newKey, STRANGERS_MAX } from '../../src/tenants/directory.ts'
import { type Endpoints, type NewEndpoint, openEndpoints } from '../../src/webhooks/endpoints.ts'
import { type Api, type Client, clientOf, openApi } from '../support/api.ts'
import { openPassage, type Passage } from './passage.ts'
import { expectProblem } from './problem.ts'

/** Two at once, and 500 wait. */
const ROOM = 502
const HOOK: NewEndpoint = { url: 'https://hooks.example.com/', eventTypes: ['transaction.posted'] }

let api: Api
/** To the database that has keys and webhook endpoints; the way to wallets stays open. */
let passage: Passage
let directory: Directory
let webhookEndpoints: Endpoints
let as: (apiKey: string) => Client
let known: Client
let close: () => Promise<void>

beforeEach(async () => {
  api = await openApi()
  passage = await openPassage(api.url)
  const sql = connectForCallers(passage.urlOf(api.url), 'test callers')
  const { router, sagas } = api
  const feed = createBlockFeed({ shards: () => router.shards })
  directory = createDirectory(sql)
  webhookEndpoints = openEndpoints(sql, { allowPrivate: false, resolve: async () => ['93.184.215.14'] })
  const app = await buildApp({ router, sagas, directory, webhookEndpoints, feed })
  as = (apiKey) =>
    clientOf(async ({ method, path, headers, body }) => {
      const answer = await app.inject({ method, url: path, headers, ...(body === undefined ? {} : { payload: body }) })
      const shown = Object.entries(answer.headers).map(([name, value]) => [name, `${value}`])
      return { status: answer.statusCode, headers: Object.fromEntries(shown), text: answer.payload }
    }, apiKey)
  known = as(api.alpha.apiKey)
  close = async () => {
    await app.close()
    await feed.close()
    await sql.end()
  }
  expect((await lookAround(known)).status).toBe(200)
  // The breaker's clock stands still: how long it is open is up to the test.
  vi.useFakeTimers({ toFake: ['Date'] })
})
afterEach(async () => {
  vi.useRealTimers()
  await close()
  await passage.close()
  await api.close()
})

const later = (ms: number) => vi.advanceTimersByTime(ms)
const lookAround = (client: Client) => client.get('/v1/wallets?holderId=nobody')

test('a flood of made-up keys while keys can not be looked up is told so, and nobody is taken for a stranger', async () => {
  passage.silence()
  const flood = Promise.allSettled(Array.from({ length: STRANGERS_MAX }, () => directory.authenticate(newKey())))
  // For one more there is no room.
  const refused = await lookAround(as(newKey()))
  expectProblem(refused, 'saturated')
  expect(refused.headers['retry-after']).toBe('1')
  later(11_000)
  expect((await lookAround(known)).status).toBe(200)
  for (const answer of await flood) expect(answer).toMatchObject({ reason: expect.any(ConnectionLost) })
  expectProblem(await lookAround(as(newKey())), 'ledger_unavailable')

  passage.mend()
  await expect
    .poll(async () => {
      later(6_000)
      return (await lookAround(as(newKey()))).status
    })
    .toBe(401)
  expect((await lookAround(known)).status).toBe(200)
})

test('once the database was silent, it is not asked for a while: not for keys, nor for webhook endpoints', async () => {
  passage.silence()
  await Promise.allSettled([directory.authenticate(newKey()), directory.authenticate(newKey())])
  passage.mend()
  // It would answer now, but nobody asks before the time.
  expectProblem(await lookAround(as(newKey())), 'ledger_unavailable')
  expectProblem(await known.get('/v1/webhook-endpoints'), 'ledger_unavailable')
  expectProblem(await known.call('POST', '/v1/webhook-endpoints', HOOK), 'ledger_unavailable')
  expect((await lookAround(known)).status).toBe(200)
  later(6_000)
  expect((await known.call('POST', '/v1/webhook-endpoints', HOOK)).status).toBe(201)
  expectProblem(await lookAround(as(newKey())), 'unauthorized')
  expect((await known.get<{ data: unknown[] }>('/v1/webhook-endpoints')).body.data).toHaveLength(1)
})

test('too many calls about webhook endpoints are refused before they have done anything', async () => {
  passage.silence()
  const { alpha } = api.tenantIds
  const calls = Array.from({ length: ROOM + 1 }, () => webhookEndpoints.create(alpha, randomUUID(), HOOK))
  const answers = await Promise.allSettled(calls)
  expect(answers.at(-1)).toMatchObject({ reason: expect.any(ReadsSaturated) })
  for (const answer of answers.slice(0, ROOM)) expect(answer).toMatchObject({ reason: expect.any(ConnectionLost) })
  expect(await api.query('SELECT FROM webhook_endpoints')).toEqual([])
})
