import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { newKey, SCOPES, type Scope } from '../../src/tenants/directory.ts'
import {
  type Answer,
  type Api,
  type BatchResult,
  type Client,
  documentedRoutes,
  type Entry,
  type Method,
  openApi,
  type PageOf,
  type Wallet,
} from '../support/api.ts'
import { happen } from '../webhooks/happen.ts'
import { expectProblem } from './problem.ts'

let api: Api
/** What a tenant has, of everything one thing. */
type Things = {
  from: string
  to: string
  transfer: string
  hold: string
  transaction: string
  holderId: string
  webhook: string
  delivery: string
}
let mine: Things
let theirs: Things

beforeAll(async () => {
  const nothing = async () => ({ rows: [], asOfUs: 1 })
  api = await openApi({ projections: { activity: nothing, totals: nothing } })
  mine = await thingsOf(api.alpha)
  theirs = await thingsOf(api.beta)
})
afterAll(() => api.close())

async function thingsOf(client: Client): Promise<Things> {
  const holderId = 'customer 1'
  const [from, to] = [await client.wallet(1_000, { holderId }), await client.wallet(500, { holderId })]
  const { body: paid } = await client.pay(from, to, 10)
  const { body: held } = await client.hold(from, to, 10)
  const { body: endpoint } = await client.call<{ id: string }>('POST', '/v1/webhook-endpoints', hook())
  const webhook = endpoint.id
  const tenantId = client === api.beta ? api.tenantIds.beta : api.tenantIds.alpha
  await happen(api.url, { tenantId })
  const { body: delivered } = await client.get<PageOf<{ id: string }>>(`/v1/webhook-endpoints/${webhook}/deliveries`)
  const delivery = delivered.data[0]?.id ?? ''
  const transaction = `txn_${paid.id.slice(4)}`
  return { from, to, transfer: paid.id, hold: held.id, transaction, holderId, webhook, delivery }
}

/** Every route under /v1, the scope it needs, and a body that is right. */
const ROUTES: { method: Method; path: (things: Things) => string; scope: Scope; body?: (things: Things) => object }[] =
  [
    {
      method: 'POST',
      path: () => '/v1/wallets',
      scope: 'wallets:write',
      body: () => ({ holderId: 'x', currency: 'USD' }),
    },
    { method: 'GET', path: ({ holderId }) => `/v1/wallets?holderId=${holderId}`, scope: 'wallets:read' },
    { method: 'GET', path: ({ from }) => `/v1/wallets/${from}`, scope: 'wallets:read' },
    { method: 'PATCH', path: ({ from }) => `/v1/wallets/${from}`, scope: 'wallets:write', body: () => ({ name: 'x' }) },
    { method: 'GET', path: ({ from }) => `/v1/wallets/${from}/balance`, scope: 'wallets:read' },
    { method: 'GET', path: ({ from }) => `/v1/wallets/${from}/entries`, scope: 'wallets:read' },
    { method: 'GET', path: ({ from }) => `/v1/wallets/${from}/events`, scope: 'wallets:read' },
    { method: 'GET', path: ({ from }) => `/v1/wallets/${from}/activity`, scope: 'wallets:read' },
    { method: 'POST', path: () => '/v1/top-ups', scope: 'transfers:write', body: ({ from }) => move(from) },
    { method: 'POST', path: () => '/v1/withdrawals', scope: 'transfers:write', body: ({ from }) => move(from) },
    { method: 'POST', path: () => '/v1/transfers', scope: 'transfers:write', body: ({ from, to }) => leg(from, to) },
    {
      method: 'POST',
      path: () => '/v1/transfers/batch',
      scope: 'transfers:write',
      body: ({ from, to }) => ({ transfers: [{ idempotencyKey: 'x', ...leg(from, to) }] }),
    },
    { method: 'GET', path: ({ transfer }) => `/v1/transfers/${transfer}`, scope: 'wallets:read' },
    {
      method: 'POST',
      path: ({ transfer }) => `/v1/transfers/${transfer}/reverse`,
      scope: 'transfers:write',
      body: () => ({ amount: '1' }),
    },
    {
      method: 'POST',
      path: () => '/v1/holds',
      scope: 'transfers:write',
      body: ({ from, to }) => ({ walletId: from, to, amount: '1', currency: 'USD' }),
    },
    { method: 'GET', path: ({ hold }) => `/v1/holds/${hold}`, scope: 'wallets:read' },
    {
      method: 'POST',
      path: ({ hold }) => `/v1/holds/${hold}/capture`,
      scope: 'transfers:write',
      body: () => ({ amount: '1' }),
    },
    { method: 'POST', path: ({ hold }) => `/v1/holds/${hold}/release`, scope: 'transfers:write' },
    { method: 'GET', path: () => '/v1/ledger/blocks', scope: 'ledger:read' },
    { method: 'GET', path: () => '/v1/ledger/blocks/0/1', scope: 'ledger:read' },
    { method: 'GET', path: () => '/v1/ledger/verification', scope: 'ledger:read' },
    { method: 'GET', path: () => '/v1/totals?from=2026-01-01&to=2026-01-31', scope: 'ledger:read' },
    { method: 'GET', path: ({ transaction }) => `/v1/transactions/${transaction}`, scope: 'ledger:read' },
    { method: 'POST', path: () => '/v1/webhook-endpoints', scope: 'webhooks:manage', body: hook },
    { method: 'GET', path: () => '/v1/webhook-endpoints', scope: 'webhooks:manage' },
    { method: 'GET', path: ({ webhook }) => `/v1/webhook-endpoints/${webhook}`, scope: 'webhooks:manage' },
    {
      method: 'PATCH',
      path: ({ webhook }) => `/v1/webhook-endpoints/${webhook}`,
      scope: 'webhooks:manage',
      body: () => ({ disabled: true }),
    },
    { method: 'DELETE', path: ({ webhook }) => `/v1/webhook-endpoints/${webhook}`, scope: 'webhooks:manage' },
    { method: 'GET', path: ({ webhook }) => `/v1/webhook-endpoints/${webhook}/deliveries`, scope: 'webhooks:manage' },
    {
      method: 'GET',
      path: ({ webhook, delivery }) => `/v1/webhook-endpoints/${webhook}/deliveries/${delivery}`,
      scope: 'webhooks:manage',
    },
    {
      method: 'POST',
      path: ({ webhook, delivery }) => `/v1/webhook-endpoints/${webhook}/deliveries/${delivery}/resend`,
      scope: 'webhooks:manage',
    },
  ]

function hook(): object {
  return { url: 'https://hooks.example.com/' }
}

function move(walletId: string): object {
  return { walletId, amount: '1', currency: 'USD' }
}

function leg(from: string, to: string): object {
  return { from, to, amount: '1', currency: 'USD' }
}

const NAMES = {
  from: '{id}',
  to: '{id}',
  transfer: '{id}',
  hold: '{id}',
  transaction: '{id}',
  holderId: '',
  webhook: '{id}',
  delivery: '{deliveryId}',
}
const routes = ROUTES.map((route) => {
  const [path = ''] = route.path(NAMES).replace('/0/1', '/{shard}/{number}').split('?')
  return { ...route, name: `${route.method} ${path}` }
})

test('the table of this test has every route under /v1', async () => {
  const { body } = await api.alpha.get<{ paths: Record<string, Record<string, unknown>> }>('/openapi.json')
  const documented = documentedRoutes(body)
    .filter(({ path }) => path.startsWith('/v1/'))
    .map(({ method, path }) => `${method} ${path}`)
  expect(routes.map(({ name }) => name).sort()).toEqual(documented.sort())
})

describe.each(routes)('$name', ({ method, path, scope, body }) => {
  const ask = (client: Client, things: Things, headers: Record<string, string> = {}): Promise<Answer<unknown>> =>
    client.call(method, path(things), body?.(things), { headers })

  test('without a valid key answers 401, says how to do better, and does nothing', async () => {
    const before = await api.blockCount()
    const authorizations = [
      '',
      'Bearer',
      'Bearer ',
      `Basic ${Buffer.from('a:b').toString('base64')}`,
      api.alpha.apiKey,
      `Bearer${api.alpha.apiKey}`,
      `Token ${api.alpha.apiKey}`,
      `Bearer ${api.alpha.apiKey}x`,
      `Bearer ${api.alpha.apiKey.slice(0, -1)}`,
      `Bearer ${api.alpha.apiKey.toUpperCase()}`,
      `Bearer ${api.alpha.apiKey} ${api.alpha.apiKey}`,
      `Bearer ${api.alpha.apiKey}, Bearer ${api.alpha.apiKey}`,
      `Bearer ${newKey()}`,
      `Bearer ' OR 1=1 --`,
      `Bearer ${'x'.repeat(5_000)}`,
      'Bearer é',
    ]
    for (const authorization of authorizations) {
      const answer = await ask(api.alpha, mine, { authorization })
      expectProblem(answer, 'unauthorized')
      expect(answer.headers['www-authenticate']).toMatch(/^Bearer realm="/)
    }
    expect(await api.blockCount()).toBe(before)
  })

  test('with a key that lacks the scope answers 403, names the scope, and does nothing', async () => {
    const before = await api.blockCount()
    for (const other of SCOPES.filter((one) => one !== scope && one !== 'admin')) {
      const answer = await ask(api.as(await api.keyWith(other)), mine)
      expect(expectProblem(answer, 'forbidden').detail).toContain(scope)
      expect(answer.headers['www-authenticate']).toBeUndefined()
    }
    expect(await api.blockCount()).toBe(before)
  })

  test.each([[[scope]], [['admin']]] as [Scope[]][])('with a key for %j is answered', async (scopes) => {
    const own = await thingsOf(api.alpha)
    const { status, text } = await ask(api.as(await api.keyWith(...scopes)), own)
    expect(status, text).toBeLessThan(300)
  })
})

describe("another tenant's", () => {
  const gets = routes.filter(({ method, path }) => method === 'GET' && path(NAMES).includes('{id}'))
  test.each(gets)('$name answers 404, to the letter as for what nobody has', async ({ path }) => {
    const nothing = (id: string) => `${id.slice(0, 4)}${'0'.repeat(29)}${id.slice(-3)}`
    const [own, there, nowhere] = [path(mine), path(theirs), path(theirs).replace(/\w{3}_[0-9a-f]{32}/, nothing)]
    expect((await api.alpha.get(own)).status).toBe(200)
    const answers = [await api.alpha.get(there), await api.alpha.get(nowhere)]
    const [foreign, unknown] = answers.map((answer) => {
      const { correlationId: _, instance: __, ...problem } = expectProblem(answer, 'not_found')
      return problem
    })
    expect(foreign).toEqual(unknown)
  })

  test('wallet, transfer, hold and webhook endpoint cannot be acted on: 404, and nothing happens', async () => {
    const before = [await api.beta.balance(theirs.from), await api.beta.balance(theirs.to), await api.blockCount()]
    const calls: [Method, string, object?][] = [
      ['PATCH', `/v1/wallets/${theirs.from}`, { status: 'frozen' }],
      ['POST', `/v1/transfers/${theirs.transfer}/reverse`, {}],
      ['POST', `/v1/holds/${theirs.hold}/capture`, {}],
      ['POST', `/v1/holds/${theirs.hold}/release`],
      ['PATCH', `/v1/webhook-endpoints/${theirs.webhook}`, { rotateSecret: {} }],
      ['DELETE', `/v1/webhook-endpoints/${theirs.webhook}`],
      ['POST', `/v1/webhook-endpoints/${theirs.webhook}/deliveries/${theirs.delivery}/resend`],
      ['POST', `/v1/webhook-endpoints/${mine.webhook}/deliveries/${theirs.delivery}/resend`],
      ['GET', `/v1/webhook-endpoints/${mine.webhook}/deliveries/${theirs.delivery}`],
    ]
    for (const [method, path, body] of calls) expectProblem(await api.alpha.call(method, path, body), 'not_found')
    const after = [await api.beta.balance(theirs.from), await api.beta.balance(theirs.to), await api.blockCount()]
    expect(after).toEqual(before)
  })

  test('wallet in a body is one that is not there', async () => {
    const pay = (from: string, to: string) => api.alpha.pay(from, to, 1)
    expectProblem(await pay(theirs.from, mine.to), 'from_not_found')
    expectProblem(await pay(mine.from, theirs.to), 'to_not_found')
    expectProblem(await pay(theirs.from, theirs.to), 'from_not_found')
    expectProblem(await api.alpha.hold(theirs.from, mine.to, 1), 'from_not_found')
    expectProblem(await api.alpha.hold(mine.from, theirs.to, 1), 'to_not_found')
    expectProblem(await api.alpha.call('POST', '/v1/top-ups', move(theirs.from)), 'to_not_found')
    expectProblem(await api.alpha.call('POST', '/v1/withdrawals', move(theirs.from)), 'from_not_found')
    const legs = [leg(mine.from, mine.to), leg(theirs.from, mine.to)]
    const problem = expectProblem(await api.alpha.call('POST', '/v1/transfers', { legs }), 'from_not_found')
    expect(problem.leg).toBe(1)
    const transfers = [
      { idempotencyKey: 'a', ...leg(theirs.from, mine.to) },
      { idempotencyKey: 'b', ...leg(mine.from, theirs.to) },
    ]
    const { body } = await api.alpha.call<{ results: BatchResult[] }>('POST', '/v1/transfers/batch', { transfers })
    expect(body.results.map((result) => result.problem?.code)).toEqual(['from_not_found', 'to_not_found'])
  })

  test('currency cannot be found out: a wallet of theirs is not there in any currency', async () => {
    const yen = await api.beta.wallet(5, { currency: 'JPY' })
    for (const currency of ['USD', 'JPY']) {
      const body = { ...leg(yen, mine.to), currency }
      expectProblem(
        await api.alpha.call('POST', '/v1/transfers', body),
        currency === 'USD' ? 'from_not_found' : 'currency_mismatch',
      )
      expectProblem(await api.alpha.call('POST', '/v1/top-ups', { ...move(yen), currency }), 'to_not_found')
    }
  })

  test('holder of the same name is another holder', async () => {
    const ids = (wallets: Wallet[]) => wallets.map(({ id }) => id)
    const list = `/v1/wallets?holderId=${mine.holderId}`
    const [ours, others] = [ids(await api.alpha.all<Wallet>(list)), ids(await api.beta.all<Wallet>(list))]
    expect(ours).toContain(mine.from)
    expect(others).toContain(theirs.from)
    expect(ours.filter((id) => others.includes(id))).toEqual([])
  })

  test('keys are their own: the same key on the same wallet id is no replay', async () => {
    const first = await api.beta.pay(theirs.from, theirs.to, 1, { key: 'shared between tenants' })
    expect(first.status).toBe(201)
    const answer = await api.alpha.pay(theirs.from, theirs.to, 1, { key: 'shared between tenants' })
    expectProblem(answer, 'from_not_found')
    expect(answer.headers['idempotency-replayed']).toBeUndefined()
    expect(answer.text).not.toContain(first.body.id)
  })

  test('ids appear nowhere in what a tenant can list', async () => {
    const foreign = Object.values(theirs).filter((id) => /_[0-9a-f]{32}$/.test(id))
    const entries = await api.alpha.all<Entry>(`/v1/wallets/${mine.from}/entries`)
    const blocks = await Promise.all(
      Array.from({ length: await api.blockCount() }, (_, i) => api.alpha.get(`/v1/ledger/blocks/0/${i + 1}`)),
    )
    const seen = JSON.stringify([entries, blocks.map(({ text }) => text)])
    expect(seen).toContain(mine.transfer.slice(4))
    for (const id of foreign) expect(seen).not.toContain(id.slice(4))
  })
})

describe('a key', () => {
  test('may be announced in any case, with any number of spaces', async () => {
    for (const authorization of [`bearer ${api.alpha.apiKey}`, `BEARER    ${api.alpha.apiKey}`]) {
      const { status } = await api.alpha.get(`/v1/wallets/${mine.from}`, { authorization })
      expect(status).toBe(200)
    }
  })

  test('that was revoked is unknown', async () => {
    const key = await api.keyWith('wallets:read')
    await api.query(`UPDATE api_keys SET revoked_at = now() WHERE hint = '${key.slice(-4)}'`)
    expectProblem(await api.as(key).get(`/v1/wallets/${mine.from}`), 'unauthorized')
  })

  test('that was in use when it was revoked is unknown to every node that has not met it yet', async () => {
    const key = await api.keyWith('wallets:read')
    expect((await api.as(key).get(`/v1/wallets/${mine.from}`)).status).toBe(200)
    await api.query(`UPDATE api_keys SET revoked_at = now() WHERE hint = '${key.slice(-4)}'`)
    const other = await openApi({ url: api.url })
    try {
      expectProblem(await other.as(key).get(`/v1/wallets/${mine.from}`), 'unauthorized')
    } finally {
      await other.close()
    }
  })

  test('is not kept: the database has its hash and last four characters alone', async () => {
    const rows = await api.query<{ row: string }>('SELECT k::text AS row FROM api_keys k')
    expect(rows.length).toBeGreaterThan(1)
    for (const { row } of rows) expect(row).not.toContain(api.alpha.apiKey.slice(0, -4))
  })

  test('is asked for before anything else is looked at: body, path and idempotency key may be anything', async () => {
    const nobody = api.as('nope')
    for (const path of ['/v1/transfers', '/v1/wallets/x', `/v1/holds/${theirs.hold}/capture`]) {
      const raw = { raw: '{"not": json', headers: { 'idempotency-key': 'é' } }
      expectProblem(await nobody.call(path.includes('x') ? 'PATCH' : 'POST', path, undefined, raw), 'unauthorized')
    }
  })
})
