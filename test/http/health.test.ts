import { validate } from '@scalar/openapi-validator'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { QueueFull } from '../../src/ledger/batcher.ts'
import { LedgerUnavailable } from '../../src/ledger/poster.ts'
import type { Router } from '../../src/shards/router.ts'
import { type Api, type Client, type DocumentedRoute, documentedRoutes, openApi } from '../support/api.ts'
import { openPassage, type Passage } from './passage.ts'
import { expectProblem } from './problem.ts'

type Document = { openapi: string; info: object; paths: Record<string, Record<string, unknown>>; security: unknown }
type Operation = {
  summary?: string
  security?: unknown[]
  parameters?: { name: string; in: string; required?: boolean }[]
  requestBody?: { content: Record<string, unknown> }
  responses: Record<string, { content?: Record<string, unknown> }>
}

let api: Api
let client: Client
let anybody: Client
let document: Document
let routes: (DocumentedRoute & { operation: Operation })[]

beforeAll(async () => {
  api = await openApi()
  client = api.alpha
  anybody = api.as('')
  document = (await anybody.get<Document>('/openapi.json')).body
  routes = documentedRoutes(document) as typeof routes
})
afterAll(() => api.close())

describe('health', () => {
  test('/livez and /readyz answer without a key', async () => {
    const bare = { headers: { authorization: '' } }
    const livez = await client.call('GET', '/livez', undefined, bare)
    expect({ status: livez.status, body: livez.body }).toEqual({ status: 200, body: { status: 'alive' } })
    const readyz = await client.call('GET', '/readyz', undefined, bare)
    expect({ status: readyz.status, body: readyz.body }).toEqual({ status: 200, body: { status: 'ready' } })
  })
})

describe('when the database', () => {
  let passage: Passage
  let own: Api
  beforeEach(async () => {
    own = await openApi({
      appUrl: async (url) => {
        passage = await openPassage(url)
        return passage.urlOf(url)
      },
    })
  })
  afterEach(async () => {
    passage.mend()
    await own.close()
    await passage.close()
  })
  /** What reads and writes; the key is known to the app already. */
  const calls = (wallet: string, other: string) => ({
    read: [`/v1/wallets/${wallet}`, `/v1/wallets/${wallet}/balance`, `/v1/wallets/${wallet}/entries`, '/readyz'],
    move: { from: wallet, to: other, amount: '1', currency: 'USD' },
  })

  test('cannot be reached, every call says so with 503 and when to retry, and all is well afterwards', async () => {
    const [wallet, other] = [await own.alpha.wallet(10), await own.alpha.wallet()]
    const { read, move } = calls(wallet, other)
    passage.cut()
    const answers = await Promise.all([
      ...read.map((path) => own.alpha.get(path)),
      own.as('zs_test_keythatnobodyhasseen').get(`/v1/wallets/${wallet}`),
      own.alpha.call('POST', '/v1/transfers', move, { key: 'cut' }),
      own.alpha.call('POST', '/v1/wallets', { holderId: 'x', currency: 'USD' }),
    ])
    for (const answer of answers) {
      expect
        .soft({ status: answer.status, retryAfter: answer.headers['retry-after'], text: answer.text })
        .toMatchObject({
          status: 503,
          retryAfter: expect.stringMatching(/^[1-9]\d*$/),
          text: expect.stringContaining('"ledger_unavailable"'),
        })
    }
    expect((await own.alpha.get('/livez')).status).toBe(200)
    passage.mend()
    // For a moment nothing is tried: the breakers are open.
    await expect.poll(async () => (await own.alpha.get('/readyz')).status, { timeout: 60_000 }).toBe(200)
    const pay = async () => (await own.alpha.call('POST', '/v1/transfers', move, { key: 'cut' })).status
    await expect.poll(pay, { timeout: 60_000 }).toBe(201)
    expect(await own.alpha.available(other)).toBe(1n)
  })

  test('goes silent, every call is answered all the same, and a retry has one effect', async () => {
    const [wallet, other] = [await own.alpha.wallet(10), await own.alpha.wallet()]
    const { read, move } = calls(wallet, other)
    // Connections that are open already are silent in another way than new ones.
    await Promise.all(read.map((path) => own.alpha.get(path)))
    passage.silence()
    const patience = <T>(answer: Promise<T>) =>
      Promise.race([answer, new Promise<'no answer'>((done) => setTimeout(done, 60_000, 'no answer').unref())])
    const [moved, ...others] = await Promise.all([
      patience(own.alpha.call('POST', '/v1/transfers', move, { key: 'silent' })),
      ...read.map((path) => patience(own.alpha.get(path))),
    ])
    if (moved === 'no answer') throw new Error('a transfer got no answer')
    expectProblem(moved, 'request_in_flight', 'ledger_unavailable')
    expect(moved.headers['retry-after']).toMatch(/^[1-9]\d*$/)
    for (const [i, answer] of others.entries()) {
      expect.soft(answer === 'no answer' ? answer : answer.status, read[i]).toBe(503)
    }
    // The database is there again, but the old connections stay silent, as after a failover: they have to be given up.
    passage.reopen()
    const again = async () => (await own.alpha.call('POST', '/v1/transfers', move, { key: 'silent' })).status
    await expect.poll(again).toBe(201)
    await expect.poll(() => own.alpha.available(other)).toBe(1n)
  })
})

describe('when the ledger', () => {
  const withBatcher = (submit: () => Promise<never>) => (router: Router) => {
    const shards = router.shards.map((shard) => ({ ...shard, batcher: { ...shard.batcher, submit } }))
    const [first] = shards
    if (!first) throw new Error('no shard')
    return { ...router, shards, forHolder: () => first, forId: () => first, shard: () => first, shardOf: () => 0 }
  }
  const item = (key: string) => ({ idempotencyKey: key, from: NOBODY, to: NOBODY, amount: '1', currency: 'USD' })
  const NOBODY = 'wal_00000000000070008000000000000000'

  test.each([
    ['is full', new QueueFull('full'), 'saturated'],
    ['cannot be reached', new LedgerUnavailable('gone'), 'ledger_unavailable'],
  ] as const)('%s, a call and each item of a batch say so, and when to retry', async (_, error, code) => {
    const own = await openApi({ wrapRouter: withBatcher(() => Promise.reject(error)) })
    try {
      const answer = await own.alpha.pay(NOBODY, NOBODY, 1)
      expectProblem(answer, code)
      expect(answer.headers['retry-after']).toMatch(/^[1-9]\d*$/)
      const batch = { transfers: [item('a'), item('b')] }
      const { status, body } = await own.alpha.call<object>('POST', '/v1/transfers/batch', batch, { key: null })
      expect(status).toBe(200)
      expect(body).toMatchObject({
        results: [
          { status: 503, problem: { code } },
          { status: 503, problem: { code } },
        ],
      })
    } finally {
      await own.close()
    }
  })

  test('does something that nobody expected, the answer is 500 and says nothing of the inside', async () => {
    const secret = 'password=hunter2 at postgres://'
    const own = await openApi({ wrapRouter: withBatcher(() => Promise.reject(new Error(secret))) })
    try {
      const answer = await own.alpha.pay(NOBODY, NOBODY, 1)
      expectProblem(answer, 'internal_error')
      expect(answer.text).not.toContain('hunter2')
      const batch = { transfers: [item('a')] }
      const { text } = await own.alpha.call('POST', '/v1/transfers/batch', batch, { key: null })
      expect(text).toContain('internal_error')
      expect(text).not.toContain('hunter2')
    } finally {
      await own.close()
    }
  })

  test('takes too long, the caller is told to ask again', async () => {
    const own = await openApi({ wrapRouter: withBatcher(() => new Promise(() => {})) })
    await own.alpha.get('/v1/wallets?holderId=x') // the key is known from here on
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    try {
      const call = own.alpha.pay(NOBODY, NOBODY, 1)
      let answer: Awaited<typeof call> | undefined
      void call.then((done) => {
        answer = done
      })
      for (let turn = 0; turn < 1_000 && !answer; turn++) {
        await new Promise((done) => setImmediate(done))
        await vi.advanceTimersByTimeAsync(100)
      }
      if (!answer) throw new Error('a transfer got no answer within a hundred seconds')
      expectProblem(answer, 'request_in_flight')
      expect(answer.headers['retry-after']).toMatch(/^[1-9]\d*$/)
    } finally {
      vi.useRealTimers()
      await own.close()
    }
  })
})

describe('a correlation id', () => {
  test("is the caller's own, in the header and in a problem", async () => {
    const given = { 'x-correlation-id': 'order-17/retry:2' }
    const found = await client.get('/livez', given)
    expect(found.headers['x-correlation-id']).toBe('order-17/retry:2')
    expect(expectProblem(await client.get('/v1/wallets/x', given), 'not_found').correlationId).toBe('order-17/retry:2')
  })

  test.each(['', 'a b', 'x'.repeat(129), 'é', 'a\tb'])(
    'that is not fit for a log line (%j) is replaced',
    async (id) => {
      const { headers } = await client.get('/livez', { 'x-correlation-id': id })
      expect(headers['x-correlation-id']).toMatch(/^[0-9a-f-]{36}$/)
    },
  )

  test('is made for each call', async () => {
    const ids = await Promise.all(Array.from({ length: 20 }, async () => (await client.get('/livez')).headers))
    expect(new Set(ids.map((headers) => headers['x-correlation-id'])).size).toBe(20)
  })
})

describe('what is not there', () => {
  test.each([
    ['GET', '/'],
    ['GET', '/v1'],
    ['GET', '/v1/'],
    ['GET', '/v2/wallets'],
    ['GET', '/v1//wallets'],
    ['GET', '/V1/wallets'],
    ['GET', '/v1/wallets/'],
    ['POST', '/v1/wallets/x/y/z'],
    ['PUT', '/v1/wallets'],
    ['DELETE', '/v1/wallets/wal_00000000000070008000000000000000'],
    ['GET', '/v1/../livez/x'],
    ['GET', '/docs/../../package.json'],
    ['GET', '/docs/%2e%2e%2fpackage.json'],
    ['GET', '/.env'],
  ] as const)('%s %s is a problem too, with or without a key', async (method, path) => {
    for (const caller of [client, anybody]) {
      expectProblem(await caller.call(method, path), 'not_found', 'unauthorized')
    }
  })
})

describe('the OpenAPI document', () => {
  test('is valid OpenAPI 3.1', () => {
    expect(document.openapi).toMatch(/^3\.1\./)
    const { valid, errors } = validate(document, { checkPathParameters: true }) as ReturnType<typeof validate> & {
      errors?: unknown
    }
    expect({ valid, errors: errors ?? [] }).toEqual({ valid: true, errors: [] })
  })

  test('has every route of the app', () => {
    const documented = routes.map(({ method, path }) => `${method} ${path}`).sort()
    const hidden = ['GET /docs', 'GET /docs/', 'GET /docs/js/scalar.js', 'GET /openapi.json']
    expect(registeredRoutes(api).filter((route) => !hidden.includes(route))).toEqual(documented)
    expect(documented.length).toBeGreaterThan(15)
  })

  test('says of every route what it is for, what it answers, and what can go wrong', () => {
    for (const { method, path, operation } of routes) {
      const name = `${method} ${path}`
      expect(operation.summary, name).toMatch(/\w/)
      const statuses = Object.keys(operation.responses)
      expect(
        statuses.some((status) => /^2\d\d$/.test(status)),
        name,
      ).toBe(true)
      if (path === '/livez') continue
      expect(statuses, name).toEqual(expect.arrayContaining(['4XX', '5XX']))
    }
  })

  test('says of every route under /v1 that it needs a key, of the others that they do not', () => {
    expect(document.security).toEqual([{ key: [] }])
    for (const { path, operation } of routes) {
      expect(operation.security, path).toEqual(path.startsWith('/v1/') ? undefined : [])
    }
  })

  test('says that problems are application/problem+json', () => {
    const types = routes.flatMap(({ operation }) => Object.keys(operation.responses['4XX']?.content ?? {}))
    expect([...new Set(types)]).toEqual(['application/problem+json'])
  })

  test('says that what moves money or opens a wallet needs an idempotency key', () => {
    const posts = routes.filter(({ method, path }) => method === 'POST' && !path.endsWith('/batch'))
    const lacking = posts.filter(({ operation }) =>
      (operation.parameters ?? []).every(({ name, required }) => name.toLowerCase() !== 'idempotency-key' || !required),
    )
    expect(lacking.map(({ path }) => path)).toEqual([])
  })
})

/** What the app's router has, read from its drawing: `GET /v1/wallets/{id}`. HEAD, which comes with GET, left out. */
function registeredRoutes({ app }: Api): string[] {
  const found: string[] = []
  const parents: string[] = []
  for (const line of app.printRoutes({ commonPrefix: false }).split('\n')) {
    const [, indent = '', part = '', methods = ''] = /^([│├└─ ]*)(\/\S*|\S+) \(([A-Z, ]+)\)$/.exec(line) ?? []
    if (methods === '') continue
    const depth = indent.length / 4
    parents.length = depth - 1
    parents.push(part)
    const path = parents.join('').replace(/:(\w+)/g, '{$1}')
    for (const method of methods.split(', ')) if (method !== 'HEAD') found.push(`${method} ${path}`)
  }
  return found.sort()
}

describe('the reference', () => {
  test('is a page of this server alone: it names no other host', async () => {
    const moved = await anybody.get('/docs')
    const { status, headers, text } = await anybody.get(moved.headers['location'] ?? '/docs')
    expect(status).toBe(200)
    expect(headers['content-type']).toMatch(/^text\/html/)
    expect(text).not.toMatch(/(https?:)?\/\/[a-z0-9-]+\.[a-z]/i)
    for (const [, source = ''] of text.matchAll(/(?:src|href)="([^"]+)"/g)) {
      const asset = await anybody.get(new URL(source, 'http://x/docs/').pathname)
      expect(asset.status, source).toBe(200)
    }
    expect(text).toContain('/openapi.json')
  })

  test('is told to fetch no fonts from elsewhere and to report to nobody', async () => {
    const { text } = await anybody.get('/docs/')
    expect.soft(text).toMatch(/"withDefaultFonts": false/)
    expect.soft(text).toMatch(/"telemetry": false/)
  })
})
