import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import type { Priority } from '../../src/guard/loadLimit.ts'
import { createTenantRate } from '../../src/guard/tenantRate.ts'
import { type Api, openApi } from '../support/api.ts'
import { expectProblem } from './problem.ts'

const PER_SECOND = 20

let api: Api
let isFull = false
let present = 0
let asked: { tenantId: string; priority: Priority; weight: number }[] = []
const clock = { ms: 0 }

beforeAll(async () => {
  api = await openApi({
    guards: {
      shedding: {
        admit(tenantId, priority, weight) {
          asked.push({ tenantId, priority, weight })
          return !isFull
        },
        began() {
          present += 1
          return () => {
            present -= 1
          }
        },
      },
      tenantRate: createTenantRate(PER_SECOND, () => clock.ms),
    },
  })
})
afterAll(() => api.close())
beforeEach(() => {
  isFull = false
  asked = []
  clock.ms += 60_000
})

test('a tenant over its rate gets 429 and is told when to come again; others go on', async () => {
  const path = '/v1/wallets/wal_00000000000070008000000000000000'
  for (let i = 0; i < PER_SECOND; i++) {
    const answer = await api.alpha.get(path)
    expectProblem(answer, 'not_found')
    expect(answer.headers).toMatchObject({
      'ratelimit-policy': `"tenant";q=${PER_SECOND};w=1`,
      ratelimit: `"tenant";r=${PER_SECOND - 1 - i};t=1`,
    })
  }
  const refused = await api.alpha.get(path)
  expectProblem(refused, 'rate_limited')
  expect(refused.status).toBe(429)
  expect(refused.headers).toMatchObject({ 'retry-after': '1', ratelimit: '"tenant";r=0;t=1' })
  expectProblem(await api.beta.get(path), 'not_found')
  clock.ms += 1_000 / PER_SECOND
  expectProblem(await api.alpha.get(path), 'not_found')
})

test('what was refused for the rate left no trace: the same key goes through later', async () => {
  const [from, to] = [await api.alpha.wallet(100), await api.alpha.wallet()]
  clock.ms += 60_000
  for (let i = 0; i < PER_SECOND; i++) await api.alpha.get(`/v1/wallets/${from}`)
  expectProblem(await api.alpha.pay(from, to, 40, { key: 'again' }), 'rate_limited')
  clock.ms += 1_000
  const paid = await api.alpha.pay(from, to, 40, { key: 'again' })
  expect(paid.status).toBe(201)
  expect(paid.headers['idempotency-replayed']).toBeUndefined()
})

test('a full node answers 503 before it reads the body, and posts nothing', async () => {
  const [from, to] = [await api.alpha.wallet(100), await api.alpha.wallet()]
  const blocks = await api.blockCount()
  isFull = true
  const refused = await api.alpha.pay(from, to, 40, { key: 'full' })
  expectProblem(refused, 'overloaded')
  expect(Number(refused.headers['retry-after'])).toBeGreaterThan(0)
  expectProblem(await api.alpha.call('POST', '/v1/transfers', undefined, { raw: '{ this is no JSON' }), 'overloaded')
  expect(await api.blockCount()).toBe(blocks)
  isFull = false
  expect((await api.alpha.pay(from, to, 40, { key: 'full' })).status).toBe(201)
})

test('money movement goes before all else, and a large body weighs more', async () => {
  const [from, to] = [await api.alpha.wallet(100), await api.alpha.wallet()]
  asked = []
  await api.alpha.pay(from, to, 1)
  await api.alpha.get('/v1/ledger/blocks')
  const transfers = Array.from({ length: 100 }, (_, i) => ({
    idempotencyKey: `b${i}`,
    from,
    to,
    amount: '1',
    currency: 'USD',
  }))
  const body = { transfers }
  await api.alpha.call('POST', '/v1/transfers/batch', body, {
    headers: { 'content-length': `${JSON.stringify(body).length}` },
  })
  expect(asked.map(({ priority }) => priority)).toEqual(['money', 'other', 'money'])
  expect(asked.map(({ weight }) => weight)).toEqual([1, 1, 1 + Math.floor(JSON.stringify(body).length / 2_048)])
  expect(new Set(asked.map(({ tenantId }) => tenantId))).toEqual(new Set([api.tenantIds.alpha]))
  expect(present).toBe(0)
})

test('health is asked of a full node too, and whoever has no key is told so', async () => {
  isFull = true
  expect((await api.send({ method: 'GET', path: '/livez', headers: {} })).status).toBe(200)
  expect((await api.send({ method: 'GET', path: '/readyz', headers: {} })).status).toBe(200)
  expect((await api.send({ method: 'GET', path: '/v1/ledger/blocks', headers: {} })).status).toBe(401)
  expect(asked).toEqual([])
})
