import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { newKey } from '../../src/tenants/directory.ts'
import {
  type Answer,
  type Api,
  type BatchResult,
  type Client,
  clientOf,
  openApi,
  type Transfer,
  type Wallet,
} from '../support/api.ts'
import { migratedDatabase } from '../support/database.ts'
import { type NodeProcess, startNode } from '../support/node.ts'
import { expectProblem, lasting } from './problem.ts'
import { decided } from './stage.ts'

let api: Api
let client: Client

beforeAll(async () => {
  api = await openApi()
  client = api.alpha
})
afterAll(() => api.close())

/** Each call that needs a key, on a world of its own: how to ask, and how to ask for something else under that key. */
type Ask = (key: string | null) => Promise<Answer<unknown>>
const calls: [string, () => Promise<{ ask: Ask; other: Ask }>][] = [
  [
    'POST /v1/wallets',
    async () => asking('/v1/wallets', { holderId: `h${Math.random()}`, currency: 'USD' }, { name: 'other' }),
  ],
  [
    'POST /v1/top-ups',
    async () =>
      asking('/v1/top-ups', { walletId: await client.wallet(), amount: '5', currency: 'USD' }, { source: 'x' }),
  ],
  [
    'POST /v1/withdrawals',
    async () =>
      asking('/v1/withdrawals', { walletId: await client.wallet(50), amount: '5', currency: 'USD' }, { amount: '6' }),
  ],
  [
    'POST /v1/transfers',
    async () => {
      const [from, to] = [await client.wallet(50), await client.wallet()]
      return asking(
        '/v1/transfers',
        { from, to, amount: '5', currency: 'USD', metadata: { b: '1', a: '2' } },
        { memo: '' },
      )
    },
  ],
  [
    'POST /v1/transfers with legs',
    async () => {
      const [from, to] = [await client.wallet(50), await client.wallet()]
      const leg = { from, to, amount: '5', currency: 'USD' }
      return asking('/v1/transfers', { legs: [leg, leg] }, { legs: [leg, leg, leg] })
    },
  ],
  [
    'POST /v1/transfers/{id}/reverse',
    async () => {
      const { body } = await client.pay(await client.wallet(50), await client.wallet(), 20)
      return asking(`/v1/transfers/${body.id}/reverse`, { amount: '5' }, { amount: '6' })
    },
  ],
  [
    'POST /v1/holds',
    async () => {
      const [walletId, to] = [await client.wallet(50), await client.wallet()]
      return asking('/v1/holds', { walletId, to, amount: '5', currency: 'USD' }, { expiresInSeconds: 5 })
    },
  ],
  [
    'POST /v1/holds/{id}/capture',
    async () => {
      const { body } = await client.hold(await client.wallet(50), await client.wallet(), 20)
      return asking(`/v1/holds/${body.id}/capture`, { amount: '5' }, { amount: '6' })
    },
  ],
  [
    'POST /v1/holds/{id}/release',
    async () => {
      const { body } = await client.hold(await client.wallet(50), await client.wallet(), 20)
      const post = (what: string, sent?: object) => (key: string | null) =>
        client.call('POST', `/v1/holds/${body.id}/${what}`, sent, { key })
      return { ask: post('release'), other: post('capture', {}) }
    },
  ],
]

function asking(path: string, body: object, change: object): { ask: Ask; other: Ask } {
  return {
    ask: (key) => client.call('POST', path, body, { key }),
    other: (key) => client.call('POST', path, { ...body, ...change }, { key }),
  }
}

describe.each(calls)('%s', (_, world) => {
  test('needs a key', async () => {
    const { ask } = await world()
    const before = await api.blockCount()
    expectProblem(await ask(null), 'idempotency_key_missing')
    expect(await api.blockCount()).toBe(before)
  })

  test('under the same key again has no further effect and gets the same answer', async () => {
    const { ask } = await world()
    const first = await ask('key')
    expect(first.status, first.text).toBeLessThan(300)
    expect(first.headers['idempotency-replayed']).toBeUndefined()
    const before = await api.blockCount()
    const again = await ask('key')
    expect(again.headers['idempotency-replayed']).toBe('true')
    expect(lasting(again)).toEqual(lasting(first))
    expect(again.text).toBe(first.text)
    expect(await api.blockCount(), 'nothing was posted').toBe(before)
  })

  test('for something else under a used key is refused, without an effect', async () => {
    const { ask, other } = await world()
    const first = await ask('key')
    const before = await api.blockCount()
    const answer = await other('key')
    expectProblem(answer, 'idempotency_key_reused')
    expect(answer.headers['idempotency-replayed']).toBeUndefined()
    expect(await api.blockCount()).toBe(before)
    expect(lasting(await ask('key'))).toEqual(lasting(first))
  })

  test('ten times at once has one effect and gets ten equal answers', async () => {
    const { ask } = await world()
    const answers = await Promise.all(Array.from({ length: 10 }, () => ask('key')))
    expect(new Set(answers.map((answer) => JSON.stringify(lasting(answer)))).size).toBe(1)
    expect(answers.filter(({ headers }) => headers['idempotency-replayed'] === undefined)).toHaveLength(1)
  })
})

describe('a refusal', () => {
  test('is replayed as it was, even after what stood against it is gone', async () => {
    const [from, to] = [await client.wallet(5), await client.wallet()]
    const refused = await client.pay(from, to, 10, { key: 'key' })
    expectProblem(refused, 'insufficient_funds')
    await client.topUp(from, 100)
    const again = await client.pay(from, to, 10, { key: 'key' })
    expect(again.headers['idempotency-replayed']).toBe('true')
    expect(lasting(again)).toEqual(lasting(refused))
    expect(expectProblem(again).correlationId).not.toBe(expectProblem(refused).correlationId)
    expect(await client.available(to)).toBe(0n)
    expect((await client.pay(from, to, 10, { key: 'another key' })).status).toBe(201)
  })

  test('of several legs repeats which leg it was', async () => {
    const [a, b] = [await client.wallet(5), await client.wallet()]
    const legs = [5, 1].map((amount) => ({ from: a, to: b, amount: `${amount}`, currency: 'USD' }))
    const ask = () => client.call('POST', '/v1/transfers', { legs }, { key: 'key' })
    const refused = await ask()
    expect(expectProblem(refused, 'insufficient_funds').leg).toBe(1)
    expect(lasting(await ask())).toEqual(lasting(refused))
  })
})

test('what was never decided is not recorded: the key can be used once it is right', async () => {
  const [from, to] = [await client.wallet(5), await client.wallet()]
  const send = (body: object, caller = client) => caller.call('POST', '/v1/transfers', body, { key: 'key' })
  const right = { from, to, amount: '1', currency: 'USD' }
  const before = await api.blockCount()
  expectProblem(await send({ ...right, amount: '1.5' }), 'validation_failed')
  expectProblem(await send({ ...right, tip: '1' }), 'validation_failed')
  expectProblem(await send({ from, to }), 'validation_failed')
  expectProblem(await client.call('POST', '/v1/transfers', undefined, { key: 'key', raw: '{' }), 'invalid_json')
  expectProblem(await send(right, api.as(newKey())), 'unauthorized')
  expectProblem(await send(right, api.as(await api.keyWith('wallets:read'))), 'forbidden')
  expect(await api.blockCount()).toBe(before)
  const answer = await send(right)
  expect({ status: answer.status, replayed: answer.headers['idempotency-replayed'] }).toEqual({ status: 201 })
})

describe('the same request said otherwise is the same request', () => {
  test.each([
    ['the order of fields', { currency: 'USD', amount: '1' }, { metadata: { a: '1', b: '2' } }],
    ['the order of metadata', { amount: '1', currency: 'USD' }, { metadata: { b: '2', a: '1' } }],
  ])('%s does not matter', async (_, first, second) => {
    const [from, to] = [await client.wallet(5), await client.wallet()]
    const send = (body: object) => client.call('POST', '/v1/transfers', body, { key: 'key' })
    expect((await send({ from, to, ...first, metadata: { a: '1', b: '2' } })).status).toBe(201)
    const again = await send({ ...second, from, to, amount: '1', currency: 'USD' })
    expect(again.headers['idempotency-replayed'], again.text).toBe('true')
  })

  test('what is left out and what is its default are the same', async () => {
    const holderId = `h${Math.random()}`
    const open = (more: object) =>
      client.call<Wallet>('POST', '/v1/wallets', { holderId, currency: 'USD', ...more }, { key: 'key' })
    const first = await open({})
    expect((await open({ overdraftLimit: '0', limits: {} })).text).toBe(first.text)
    const [walletId, to] = [await client.wallet(5), await client.wallet()]
    const hold = (more: object) =>
      client.call('POST', '/v1/holds', { walletId, to, amount: '1', currency: 'USD', ...more }, { key: 'key' })
    expect((await hold({})).text).toBe((await hold({ expiresInSeconds: 7 * 86_400 })).text)
  })
})

describe('the reach of a key', () => {
  test('is one wallet: the same key for another one is another request', async () => {
    const [a, b, c] = [await client.wallet(5), await client.wallet(5), await client.wallet()]
    const answers = [await client.pay(a, c, 1, { key: 'key' }), await client.pay(b, c, 1, { key: 'key' })]
    expect(answers.map(({ status }) => status)).toEqual([201, 201])
    expect(answers[0]?.body.id).not.toBe(answers[1]?.body.id)
    expect(await client.available(c)).toBe(2n)
  })

  test('is one holder when wallets are opened', async () => {
    const open = (holderId: string, caller: Client) =>
      caller.call<Wallet>('POST', '/v1/wallets', { holderId, currency: 'USD' }, { key: 'key' })
    const holderId = `h${Math.random()}`
    const ids = [await open(holderId, client), await open(`${holderId}x`, client), await open(holderId, api.beta)]
    expect(ids.map(({ status }) => status)).toEqual([201, 201, 201])
    expect(new Set(ids.map(({ body }) => body.id)).size).toBe(3)
  })

  test('is one hold, and one transfer that is reversed', async () => {
    const [a, b] = [await client.wallet(50), await client.wallet()]
    const holds = [await client.hold(a, b, 1), await client.hold(a, b, 1)]
    const paid = [await client.pay(a, b, 1), await client.pay(a, b, 1)]
    const paths = [
      ...holds.map(({ body }) => `/v1/holds/${body.id}/capture`),
      ...paid.map(({ body }) => `/v1/transfers/${body.id}/reverse`),
    ]
    for (const path of paths) {
      const answer = await client.call('POST', path, {}, { key: 'key' })
      expect(answer.status, answer.text).toBeLessThan(300)
      expect(answer.headers['idempotency-replayed']).toBeUndefined()
    }
  })

  test('is every kind of request on a wallet', async () => {
    const [a, b] = [await client.wallet(50), await client.wallet()]
    expect((await client.pay(a, b, 1, { key: 'key' })).status).toBe(201)
    const move = { walletId: a, amount: '1', currency: 'USD' }
    for (const path of ['/v1/top-ups', '/v1/withdrawals']) {
      expectProblem(await client.call('POST', path, move, { key: 'key' }), 'idempotency_key_reused')
    }
    expectProblem(await client.call('POST', '/v1/holds', { ...move, to: b }, { key: 'key' }), 'idempotency_key_reused')
  })
})

describe('a key', () => {
  test.each(['k', 'k'.repeat(255), ' inner space ok', '"\'\\{},NULL$1`;--', '~!@#$%^&*()_+'])(
    'may be %j',
    async (key) => {
      const [a, b] = [await client.wallet(5), await client.wallet()]
      const first = await client.pay(a, b, 1, { key })
      expect(first.status, first.text).toBe(201)
      expect((await client.pay(a, b, 1, { key })).headers['idempotency-replayed']).toBe('true')
      expectProblem(await client.pay(a, b, 2, { key }), 'idempotency_key_reused')
    },
  )

  test.each(['', 'k'.repeat(256), 'k'.repeat(5_000), 'ключ', 'é', '🔑', 'a\tb', 'a\u007fb'])(
    'may not be %j',
    async (key) => {
      const [a, b] = [await client.wallet(5), await client.wallet()]
      const problem = expectProblem(
        await client.pay(a, b, 1, { key }),
        'validation_failed',
        'bad_request',
        'idempotency_key_missing',
      )
      if (problem.code === 'validation_failed') expect(JSON.stringify(problem.errors)).toContain('idempotency-key')
      expect(await client.available(b)).toBe(0n)
    },
  )

  test('is told apart by every character: case and spaces count', async () => {
    const [a, b] = [await client.wallet(50), await client.wallet()]
    for (const key of ['key', 'KEY', 'k ey', 'k  ey']) await client.pay(a, b, 1, { key })
    expect(await client.available(b)).toBe(4n)
  })
})

test('copies that arrive together are marked as replays by a node that has just started, too', async () => {
  const url = await migratedDatabase()
  const first = await openApi({ url })
  const [from, to] = [await first.alpha.wallet(50), await first.alpha.wallet()]
  await first.close()
  const own = await openApi({ url })
  const { apiKey } = own.alpha
  try {
    await own.as(apiKey).get('/v1/wallets?holderId=x') // the key is known from here on, so that the copies arrive together
    const answers = await Promise.all(Array.from({ length: 5 }, () => own.alpha.pay(from, to, 1, { key: 'key' })))
    expect(answers.map(({ status, headers }) => [status, headers['idempotency-replayed']])).toEqual([
      [201, undefined],
      ...Array(4).fill([201, 'true']),
    ])
    const item = { idempotencyKey: 'item', from, to, amount: '1', currency: 'USD' }
    const batch = { transfers: [item, item, { ...item, amount: '2' }] }
    const { body } = await own.alpha.call<{ results: BatchResult[] }>('POST', '/v1/transfers/batch', batch, {
      key: null,
    })
    expect(body.results.map(({ status, replayed }) => ({ status, replayed }))).toEqual([
      { status: 201, replayed: false },
      { status: 201, replayed: true },
      { status: 422, replayed: false },
    ])
  } finally {
    await own.close()
  }
})

describe('two nodes on one database', () => {
  let nodes: NodeProcess[]
  let clients: Client[]

  beforeAll(async () => {
    const demoKey = newKey()
    const databaseUrl = await migratedDatabase()
    nodes = await Promise.all([startNode({ databaseUrl, demoKey }), startNode({ databaseUrl, demoKey })])
    clients = nodes.map(({ send }) => clientOf(send, demoKey))
  })
  afterAll(() => Promise.all(nodes.map((node) => node.kill())))

  test('asked by ten copies of one request move money once and give ten equal answers', async () => {
    const [first] = clients
    if (!first) throw new Error('no node')
    const [from, to] = [await first.wallet(1_000), await first.wallet()]
    for (let round = 1; round <= 8; round++) {
      const key = `round ${round}`
      const answers = await Promise.all(
        Array.from({ length: 10 }, (_, i) => decided(() => (clients[i % 2] ?? first).pay(from, to, 10, { key }))),
      )
      expect(answers.map(({ status }) => status)).toEqual(Array(10).fill(201))
      expect(new Set(answers.map(({ text }) => text)).size).toBe(1)
      expect(answers.filter(({ headers }) => headers['idempotency-replayed'] === undefined)).toHaveLength(1)
      for (const client of clients) expect(await client.available(to)).toBe(BigInt(round * 10))
    }
    const transfers = await first.all<Transfer>(`/v1/wallets/${to}/entries`)
    expect(transfers).toHaveLength(8)
  })

  test('asked by ten copies of what cannot be paid give ten equal refusals', async () => {
    const [first] = clients
    if (!first) throw new Error('no node')
    const [from, to] = [await first.wallet(5), await first.wallet()]
    const answers = await Promise.all(
      Array.from({ length: 10 }, (_, i) => (clients[i % 2] ?? first).pay(from, to, 10, { key: 'key' })),
    )
    for (const answer of answers) expectProblem(answer, 'insufficient_funds')
    expect(new Set(answers.map((answer) => JSON.stringify(lasting(answer)))).size).toBe(1)
    await first.topUp(from, 100)
    for (const client of clients) expectProblem(await client.pay(from, to, 10, { key: 'key' }), 'insufficient_funds')
  })

  test('spend what is there once, whichever is asked', async () => {
    const [first] = clients
    if (!first) throw new Error('no node')
    const [from, to] = [await first.wallet(50), await first.wallet()]
    const answers = await Promise.all(
      Array.from({ length: 200 }, (_, i) => decided(() => (clients[i % 2] ?? first).pay(from, to, 1, { key: `${i}` }))),
    )
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(50)
    for (const answer of answers) if (answer.status !== 201) expectProblem(answer, 'insufficient_funds')
    for (const client of clients) {
      expect([await client.available(from), await client.available(to)]).toEqual([0n, 50n])
    }
  })
})
