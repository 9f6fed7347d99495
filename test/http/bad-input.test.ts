import { once } from 'node:events'
import { Agent } from 'node:http'
import { connect, type Socket } from 'node:net'
import fc from 'fast-check'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { seedFor } from '../ledger/seed.ts'
import { type Answer, type Api, type Client, clientOf, type Method, openApi, type Problem } from '../support/api.ts'
import { sendTo } from '../support/node.ts'
import { expectProblem } from './problem.ts'

type World = { from: string; to: string; transfer: string; hold: string }

let api: Api
let spare: Api
let client: Client
/** The wallets and other things that the routes act on; none of it may change. */
let world: World
let untouched: unknown

beforeAll(async () => {
  api = await openApi()
  spare = await openApi()
  client = api.alpha
  world = await worldOf(client)
})
beforeEach(async () => {
  untouched = await state()
})
afterAll(() => Promise.all([api.close(), spare.close()]))

async function worldOf({ wallet, pay, hold }: Client): Promise<World> {
  const [from, to] = [await wallet(1_000), await wallet(500)]
  const [paid, held] = [await pay(from, to, 10), await hold(from, to, 10)]
  return { from, to, transfer: paid.body.id, hold: held.body.id }
}

/** Does what is right, in a world of its own where that may have its effect. */
async function inSpareWorld<T>(work: () => Promise<T>): Promise<T> {
  const before = world
  world = await worldOf(spare.alpha)
  try {
    return await work()
  } finally {
    world = before
  }
}

/** Where the app listens, once a test has asked it to. */
let url = ''

async function listen(): Promise<void> {
  if (url === '') url = await api.app.listen({ host: '127.0.0.1', port: 0 })
}

function connectTo(place: string): Socket {
  const { port, hostname } = new URL(place)
  return connect(Number(port), hostname).on('error', () => {})
}

/** Everything that a request could have moved: the chain grows with whatever is decided. */
async function state(): Promise<unknown> {
  const [sums] = await api.query<object>(`
    SELECT (SELECT number FROM chain_head)::text AS block, (SELECT count(*) FROM accounts)::text AS accounts,
           (SELECT json_agg(a ORDER BY id)::text FROM accounts a) AS balances,
           (SELECT json_agg(w ORDER BY id)::text FROM wallets w) AS wallets`)
  return sums
}

type Kind = 'amount' | 'amountOrZero' | 'text' | 'currency' | 'wallet' | 'time' | 'seconds' | 'status' | 'key'
type Route = {
  name: string
  method: Method
  path: () => string
  body: () => object
  /** What stands where in the body: dots between names. */
  fields: Record<string, Kind>
  /** Fields that may be left out. */
  optional?: string[]
  /** Objects in the body that take texts under any name, and objects that take known names only. */
  metadata?: string[]
  objects: string[]
}

const leg = () => ({ from: world.from, to: world.to, amount: '1', currency: 'USD' })
const LEG = { from: 'wallet', to: 'wallet', amount: 'amount', currency: 'currency' } as const
const remarks = { memo: 'memo', metadata: { a: 'b' }, effectiveAt: '2026-01-31T12:00:00Z' }
const REMARKS = { memo: 'text', 'metadata.a': 'text', effectiveAt: 'time' } as const

const ROUTES: Route[] = [
  {
    name: 'POST /v1/wallets',
    method: 'POST',
    path: () => '/v1/wallets',
    body: () => ({
      ...{ holderId: 'h', currency: 'USD', name: 'n', metadata: { a: 'b' }, overdraftLimit: '0' },
      limits: { transferMax: '1', balanceMax: '1' },
    }),
    fields: {
      ...{ holderId: 'text', currency: 'currency', name: 'text', 'metadata.a': 'text', overdraftLimit: 'amountOrZero' },
      ...{ 'limits.transferMax': 'amount', 'limits.balanceMax': 'amount' },
    },
    optional: ['name', 'metadata', 'overdraftLimit', 'limits', 'limits.transferMax', 'limits.balanceMax'],
    metadata: ['metadata'],
    objects: ['', 'limits'],
  },
  {
    name: 'PATCH /v1/wallets/{id}',
    method: 'PATCH',
    path: () => `/v1/wallets/${world.from}`,
    body: () => ({ name: 'n', metadata: { a: 'b' }, status: 'active', limits: { transferMax: '1', balanceMax: '1' } }),
    fields: {
      ...{ name: 'text', 'metadata.a': 'text', status: 'status' },
      ...{ 'limits.transferMax': 'amount', 'limits.balanceMax': 'amount' },
    },
    optional: ['name', 'metadata', 'status', 'limits', 'limits.transferMax', 'limits.balanceMax'],
    metadata: ['metadata'],
    objects: ['', 'limits'],
  },
  {
    name: 'POST /v1/top-ups',
    method: 'POST',
    path: () => '/v1/top-ups',
    body: () => ({ walletId: world.from, amount: '1', currency: 'USD', source: 's' }),
    fields: { walletId: 'wallet', amount: 'amount', currency: 'currency', source: 'text' },
    optional: ['source'],
    objects: [''],
  },
  {
    name: 'POST /v1/withdrawals',
    method: 'POST',
    path: () => '/v1/withdrawals',
    body: () => ({ walletId: world.from, amount: '1', currency: 'USD', destination: 'd' }),
    fields: { walletId: 'wallet', amount: 'amount', currency: 'currency', destination: 'text' },
    optional: ['destination'],
    objects: [''],
  },
  {
    name: 'POST /v1/transfers',
    method: 'POST',
    path: () => '/v1/transfers',
    body: () => ({ ...leg(), ...remarks }),
    fields: { ...LEG, ...REMARKS },
    optional: Object.keys(remarks),
    metadata: ['metadata'],
    objects: [''],
  },
  {
    name: 'POST /v1/transfers with legs',
    method: 'POST',
    path: () => '/v1/transfers',
    body: () => ({ legs: [leg(), leg()], ...remarks }),
    fields: {
      ...Object.fromEntries(Object.entries(LEG).map(([name, kind]) => [`legs.1.${name}`, kind])),
      ...REMARKS,
    },
    optional: Object.keys(remarks),
    metadata: ['metadata'],
    objects: ['', 'legs', 'legs.0'],
  },
  {
    name: 'POST /v1/transfers/batch',
    method: 'POST',
    path: () => '/v1/transfers/batch',
    body: () => ({
      transfers: [
        { idempotencyKey: 'k0', ...leg() },
        { idempotencyKey: 'k1', ...leg(), ...remarks },
      ],
    }),
    fields: {
      ...Object.fromEntries(
        Object.entries({ ...LEG, ...REMARKS }).map(([name, kind]) => [`transfers.1.${name}`, kind]),
      ),
      'transfers.1.idempotencyKey': 'key',
    },
    optional: Object.keys(remarks).map((name) => `transfers.1.${name}`),
    metadata: ['transfers.1.metadata'],
    objects: ['', 'transfers', 'transfers.0'],
  },
  {
    name: 'POST /v1/transfers/{id}/reverse',
    method: 'POST',
    path: () => `/v1/transfers/${world.transfer}/reverse`,
    body: () => ({ amount: '1' }),
    fields: { amount: 'amount' },
    optional: ['amount'],
    objects: [''],
  },
  {
    name: 'POST /v1/holds',
    method: 'POST',
    path: () => '/v1/holds',
    body: () => ({ walletId: world.from, to: world.to, amount: '1', currency: 'USD', expiresInSeconds: 60 }),
    fields: { walletId: 'wallet', to: 'wallet', amount: 'amount', currency: 'currency', expiresInSeconds: 'seconds' },
    optional: ['expiresInSeconds'],
    objects: [''],
  },
  {
    name: 'POST /v1/holds/{id}/capture',
    method: 'POST',
    path: () => `/v1/holds/${world.hold}/capture`,
    body: () => ({ amount: '1' }),
    fields: { amount: 'amount' },
    optional: ['amount'],
    objects: [''],
  },
]
const NO_BODY = {
  name: 'POST /v1/holds/{id}/release',
  method: 'POST',
  path: () => `/v1/holds/${world.hold}/release`,
} as const

/** A value as JSON text, so that what JavaScript cannot write can be sent: `1e400`, a lone surrogate, a name twice. */
type Json = string
const json = (...values: unknown[]): Json[] => values.map((value) => JSON.stringify(value))

const NOT_TEXT = [...json(1, 0, -1, 1.5, true, false, null, [], ['a'], {}, { a: 'b' }), '1e400', '-0']
const BROKEN_TEXT: Json[] = [
  ...['"\\u0000"', '"a\\u0000b"', '"\\u0001"', '"\\u001b[31m"', '"\\u007f"', '"\\u0085"', '"\\r\\n"'],
  ...['"\\ud800"', '"\\udc00"', '"a\\udfff"', '"\\ud83d"', '"\\ude00\\ud83d"', '"\\uD800\\uD800"'],
]
const BAD_AMOUNTS = [
  ...json(
    '1.5',
    '-1',
    '1e3',
    '9223372036854775808',
    '9'.repeat(40),
    '00',
    '01',
    ' 1',
    '1 ',
    '+1',
    '0x10',
    '0b1',
    '1_000',
  ),
  ...json(
    '1,000',
    '١',
    '１',
    '一',
    '',
    ' ',
    'NaN',
    'Infinity',
    'null',
    '1n',
    '1.0',
    '1\n',
    '½',
    '1;--',
    '−1',
    '\u200b1',
  ),
]
const BAD: Record<Kind, Json[]> = {
  amount: [...NOT_TEXT, ...BAD_AMOUNTS, ...BROKEN_TEXT, '"0"', '"-0"', '100', '9223372036854775808'],
  amountOrZero: [...NOT_TEXT, ...BAD_AMOUNTS, ...BROKEN_TEXT, '"-0"', '"0.0"'],
  text: [...NOT_TEXT, ...BROKEN_TEXT, JSON.stringify('x'.repeat(501))],
  currency: [
    ...NOT_TEXT,
    ...json('XXX', 'usd', 'Usd', 'US', 'USDX', '', ' USD', 'USD ', '840', 'ＵＳＤ', 'BTC', 'USD\n'),
  ],
  wallet: [
    ...NOT_TEXT,
    ...BROKEN_TEXT,
    ...json('', 'wal_', 'wal_1', 'x', `wal_${'0'.repeat(31)}`, `wal_${'0'.repeat(33)}`, `WAL_${'0'.repeat(32)}`),
    ...json(`wal_${'g'.repeat(32)}`, `wal_${'A'.repeat(32)}`, `trf_${'0'.repeat(32)}`, `wal_${'0'.repeat(32)}\n`),
    ...json('00000000-0000-7000-8000-000000000000', `wal_${'٠'.repeat(32)}`, "wal_' OR 1=1"),
  ],
  time: [
    ...NOT_TEXT,
    ...BROKEN_TEXT,
    ...json(
      '',
      'now',
      '2026-01-31',
      '2026-01-31T12:00:00',
      '2026-01-31 12:00:00Z',
      '2026-13-01T00:00:00Z',
      '1764000000',
    ),
    ...json('2026-02-30T00:00:00Z', '2026-01-31T25:00:00Z', '2026-01-31T12:00:00+25:00', 'x2026-01-31T12:00:00Z'),
    ...json('2026-01-31T12:00:00Z\n', '٢٠٢٦-01-31T12:00:00Z', '10000-01-01T00:00:00Z', '-2026-01-31T12:00:00Z'),
  ],
  seconds: [
    ...json('60', 0, -1, 1.5, true, false, null, [], [60], {}, '', 1e15, 31_622_401),
    '1e400',
    '9223372036854775808',
  ],
  status: [...NOT_TEXT, ...json('', 'Active', 'ACTIVE', 'open', 'active ', 'deleted')],
  key: [...NOT_TEXT, ...BROKEN_TEXT, ...json('', 'k'.repeat(256), 'ключ', 'a\nb', 'a\tb')],
}

/** The route's right body as JSON text, with something else at one place. */
function bodyWith(route: Route, place: string, value: Json): Json {
  const MARK = '\u{1f4cd}'
  const body = structuredClone(route.body()) as Record<string, unknown>
  const steps = place.split('.')
  const last = steps.pop() ?? ''
  let parent = body
  for (const step of steps) parent = parent[step] as Record<string, unknown>
  parent[last] = MARK
  return JSON.stringify(body).replace(`"${MARK}"`, () => value)
}

/** The route's right body as JSON text, with more members, written as they stand, in one of its objects. */
function bodyWithMore(route: Route, place: string, members: Json): Json {
  const target = valueAt(route, place)
  const text = JSON.stringify(target)
  const more = Array.isArray(target)
    ? `[${members}]`
    : text === '{}'
      ? `{${members}}`
      : `${text.slice(0, -1)},${members}}`
  return place === '' ? more : bodyWith(route, place, more)
}

function valueAt(route: Route, place: string): unknown {
  return place
    .split('.')
    .filter(Boolean)
    .reduce<unknown>((value, step) => (value as Record<string, unknown>)[step], route.body())
}

/** An empty body is as good as `{}` where nothing is required. */
const needsNothing = ({ name, fields, optional = [] }: Route) =>
  name.startsWith('POST') && Object.keys(fields).every((field) => optional.includes(field))

const sendRaw = (route: Pick<Route, 'method' | 'path'>, raw: string | Buffer, headers: Record<string, string> = {}) =>
  client.call<Problem>(route.method, route.path(), undefined, { raw, headers })

async function expectRefused(answer: Answer<Problem>, label: string, ...codes: Problem['code'][]): Promise<Problem> {
  expect(answer.status, `${label}\n${answer.text}`).toBeGreaterThanOrEqual(400)
  expect(answer.status, `${label}\n${answer.text}`).toBeLessThan(500)
  return expectProblem(answer, ...codes)
}

describe.each(ROUTES)('$name', (route) => {
  test('is right as this test has it: what is refused below is refused for one reason', async () => {
    const answer = await inSpareWorld(() => spare.alpha.call(route.method, route.path(), route.body()))
    expect(answer.status, answer.text).toBeLessThan(300)
  })

  test.each(Object.entries(route.fields))('refuses whatever %s (%s) may not be', async (place, kind) => {
    for (const value of BAD[kind]) {
      const answer = await sendRaw(route, bodyWith(route, place, value))
      const problem = await expectRefused(answer, `${place}: ${value}`, 'validation_failed')
      const field = `body/${place.replaceAll('.', '/')}`
      expect(JSON.stringify(problem.errors), value).toContain(field)
    }
    expect(await state()).toEqual(untouched)
  })

  test('refuses to go without what is required', async () => {
    const required = Object.keys(route.fields).filter(
      (place) => !route.optional?.some((name) => place.startsWith(name)),
    )
    for (const place of required) {
      const body = JSON.parse(bodyWith(route, place, '"gone"'), (_, value) => (value === 'gone' ? undefined : value))
      await expectRefused(await sendRaw(route, JSON.stringify(body)), `without ${place}`, 'validation_failed')
    }
    expect(await state()).toEqual(untouched)
  })

  test('refuses fields that it does not know, names of JavaScript included', async () => {
    const names = [
      'unknown',
      'Amount',
      'amount ',
      'constructor',
      'toString',
      'hasOwnProperty',
      'prototype',
      '',
      '0',
      'tenantId',
    ]
    for (const place of route.objects) {
      for (const name of names) {
        const answer = await sendRaw(route, bodyWithMore(route, place, `${JSON.stringify(name)}:"1"`))
        await expectRefused(answer, `${place}.${name}`, 'validation_failed', 'invalid_json')
      }
    }
    expect(await state()).toEqual(untouched)
  })

  test('refuses __proto__ and constructor.prototype, however they are written', async () => {
    const members = [
      '"__proto__":{"amount":"1"}',
      '"\\u005f_proto__":{}',
      '"__proto__":null',
      '"constructor":{"prototype":{"isAdmin":true}}',
    ]
    for (const place of [...route.objects, ...(route.metadata ?? [])]) {
      for (const member of members)
        await expectRefused(await sendRaw(route, bodyWithMore(route, place, member)), member)
    }
    expect(({} as Record<string, unknown>)['isAdmin']).toBeUndefined()
    expect(await state()).toEqual(untouched)
  })

  test('refuses metadata that is not texts under names, whatever the names are', async () => {
    const bad = [
      ...['""', `"${'k'.repeat(41)}"`, '"\\u0000"', '"a\\u0000"', '"\\ud800"', '"\\u007f"', '"\\r"'].map(
        (name) => `${name}:"v"`,
      ),
      // A name may have a line break in it; then, too, only text may stand under it.
      ...['"a\\nb"', '"\\n"', '"a\\u2028b"', '"\\u2029"', '"a\\tb"', '" "', '"1"'].flatMap((name) =>
        [...NOT_TEXT, '"\\u0000"', '"\\ud800"', `"${'x'.repeat(501)}"`, '{"a":{"b":[1]}}'].map(
          (value) => `${name}:${value}`,
        ),
      ),
      Array.from({ length: 51 }, (_, i) => `"k${i}":"v"`).join(','),
    ]
    for (const place of route.metadata ?? []) {
      for (const member of bad) {
        const answer = await sendRaw(route, bodyWithMore(route, place, member))
        await expectRefused(answer, member, 'validation_failed')
      }
      for (const value of json(null, [], ['a'], 'a', 1, true)) {
        await expectRefused(await sendRaw(route, bodyWith(route, place, value)), value, 'validation_failed')
      }
    }
    expect(await state()).toEqual(untouched)
  })

  test('refuses a body that is no object', async () => {
    for (const body of json(null, [], [route.body()], 'a', 1, true, JSON.stringify(route.body()))) {
      await expectRefused(await sendRaw(route, body), body, 'validation_failed')
    }
    expect(await state()).toEqual(untouched)
  })

  test('refuses what is no JSON', async () => {
    const right = JSON.stringify(route.body())
    const broken = [
      ...(needsNothing(route) ? [] : ['', ' ']),
      ...[
        '{',
        '}',
        '{"amount":}',
        '{amount:"1"}',
        "{'amount':'1'}",
        '[',
        'undefined',
        'NaN',
        '"\\x00"',
        '{,}',
        '{"a":.5}',
      ],
      ...[right.slice(0, -1), `${right}}`, `${right}${right}`, `${right},`, `[${right}`, `/**/${right}`],
      ...['{"amount":01}', '{"a":"\n"}', '{"a":"\u0000"}', '{"a":1e}', `${right}\u0000`, `\u0000${right}`, 'amount=1'],
    ]
    for (const body of broken) {
      await expectRefused(await sendRaw(route, body), body, 'invalid_json', 'validation_failed')
    }
    expect(await state()).toEqual(untouched)
  })

  test('refuses bytes that are not UTF-8, instead of keeping something else', async () => {
    const [place] = Object.entries(route.fields).find(([, kind]) => kind === 'text') ?? []
    const right = place === undefined ? bodyWithMore(route, '', '"unknown":"HERE"') : bodyWith(route, place, '"HERE"')
    const [before = '', after = ''] = right.split('HERE')
    for (const bytes of [
      [0xff],
      [0xc3, 0x28],
      [0xed, 0xa0, 0x80],
      [0xf8, 0x88, 0x80, 0x80, 0x80],
      [0xc0, 0x80],
      [0xe9],
    ]) {
      const answer = await sendRaw(route, Buffer.concat([Buffer.from(before), Buffer.from(bytes), Buffer.from(after)]))
      await expectRefused(answer, JSON.stringify(bytes))
    }
    expect(await state()).toEqual(untouched)
  })

  test('refuses other content types', async () => {
    const right = JSON.stringify(route.body())
    const types = [
      ...[
        'text/plain',
        'application/x-www-form-urlencoded',
        'multipart/form-data; boundary=x',
        'application/xml',
        'text/json',
      ],
      ...[
        '',
        'json',
        ';',
        'application/jsonx',
        '*/*',
        'application/octet-stream',
        'application/json/x',
        'a'.repeat(1_000),
      ],
    ]
    for (const type of types) {
      const answer = await sendRaw(route, right, { 'content-type': type })
      await expectRefused(answer, type, 'unsupported_media_type', 'validation_failed', 'bad_request')
    }
    expect(await state()).toEqual(untouched)
  })

  test('refuses a body of a megabyte, or of many', async () => {
    const big = 'x'.repeat(1_000_000)
    const bodies = [
      `{"a":"${big}"}`,
      bodyWithMore(route, '', `"${big}":"1"`),
      `[${'1,'.repeat(500_000)}1]`,
      big,
      ' '.repeat(5_000_000) + JSON.stringify(route.body()),
    ]
    for (const body of bodies) await expectRefused(await sendRaw(route, body), `${body.slice(0, 20)}…`)
    expect(await state()).toEqual(untouched)
  })

  test('refuses JSON that is nested deep', async () => {
    for (const depth of [100, 5_000, 30_000]) {
      const deep = '['.repeat(depth) + ']'.repeat(depth)
      const object = `${'{"a":'.repeat(depth / 5)}1${'}'.repeat(depth / 5)}`
      const places = [...Object.keys(route.fields), ...(route.metadata ?? [])]
      const bodies = [deep, object, bodyWithMore(route, '', `"x":${deep}`)]
      for (const place of places) bodies.push(bodyWith(route, place, deep))
      for (const body of bodies) await expectRefused(await sendRaw(route, body), `${depth} deep`)
    }
    expect(await state()).toEqual(untouched)
  })

  test('refuses thousands of mistakes at once, naming no more than some', async () => {
    const members = Array.from({ length: 3_000 }, (_, i) => `"u${i}":0`).join(',')
    for (const place of [...route.objects, ...(route.metadata ?? [])]) {
      const problem = await expectRefused(await sendRaw(route, bodyWithMore(route, place, members)), place)
      expect(problem.errors?.length ?? 0).toBeLessThanOrEqual(100)
    }
    expect(await state()).toEqual(untouched)
  })

  test('takes keys in the header that are text only', async () => {
    if (route.method !== 'POST' || route.path().endsWith('/batch')) return
    for (const key of ['', 'é', '🔑', 'k'.repeat(256), '\u007f', 'a\tb']) {
      const answer = await sendRaw(route, JSON.stringify(route.body()), { 'idempotency-key': key })
      await expectRefused(answer, key)
    }
    expect(await state()).toEqual(untouched)
  })
})

test(`${NO_BODY.name} refuses a body that it cannot use`, async () => {
  for (const [raw, type] of [
    ['{', 'application/json'],
    ['{"amount":"1"}', 'application/json'],
    ['[]', 'application/json'],
    ['{"__proto__":1}', 'application/json'],
    ['x', 'text/plain'],
    ['<a/>', 'application/xml'],
    ['x'.repeat(1_000_000), 'application/json'],
  ] as const) {
    const answer = await sendRaw(NO_BODY, raw, { 'content-type': type })
    expect.soft(answer.status, `${raw.slice(0, 20)} as ${type}`).toBeGreaterThanOrEqual(400)
    expect.soft(answer.status, `${raw.slice(0, 20)} as ${type}`).toBeLessThan(500)
  }
  expect.soft(await state()).toEqual(untouched)
})

test('of a name that comes twice the last value counts, in the answer and in the money alike', async () => {
  const own = await openApi()
  try {
    const [from, to] = [await own.alpha.wallet(100), await own.alpha.wallet()]
    const raw = `{"from":"${from}","to":"${to}","amount":"1","currency":"EUR","amount":"2","currency":"USD"}`
    const answer = await own.alpha.call<{ amount: string }>('POST', '/v1/transfers', undefined, { raw })
    const moved = await own.alpha.available(to)
    if (answer.status === 201) expect({ amount: answer.body.amount, moved }).toEqual({ amount: '2', moved: 2n })
    else expectProblem(answer, 'invalid_json', 'validation_failed')
  } finally {
    await own.close()
  }
})

describe('query strings', () => {
  const lists = () => [
    `/v1/wallets?holderId=h`,
    `/v1/wallets/${world.from}/balance?consistency=strong`,
    `/v1/wallets/${world.from}/entries?limit=1`,
    '/v1/ledger/blocks?shard=0',
  ]
  test.each([
    ...[
      'unknown=1',
      '__proto__=1',
      '__proto__[x]=1',
      'constructor=1',
      'toString=1',
      'limit[]=1',
      'cursor[a]=1',
      'LIMIT=1',
    ],
    ...[
      'limit=1.5',
      'limit=-1',
      'limit=0',
      'limit=1e9',
      'limit=٣',
      'limit=',
      'limit=0x',
      'limit=1&limit=1',
      'limit=%00',
    ],
    ...['cursor=%00', 'cursor=%ff', 'cursor=%', 'cursor=%zz', 'cursor=a&cursor=b', `cursor=${'x'.repeat(3_000)}`],
  ])('with %s are refused by every list', async (query) => {
    for (const list of lists()) {
      await expectRefused(await client.get(`${list}&${query}`), list, 'validation_failed', 'bad_request')
    }
  })

  test.each(['%00', 'a%00b', '%0d', '%1b', '%7f', '', 'x'.repeat(129), 'a&holderId=b'])(
    'for a holder that is no text (%j) are refused',
    async (holderId) => {
      await expectRefused(await client.get(`/v1/wallets?holderId=${holderId}`), holderId, 'validation_failed')
    },
  )

  test.each(['%ff', '%', '%zz', '%ed%a0%80', '%c3%28', "';--", '%27%20OR%201%3D1', '\\', '{}', '$1'])(
    'for a holder of a strange name (%s) find nobody, or are refused',
    async (holderId) => {
      const answer = await client.get<{ data: unknown[] }>(`/v1/wallets?holderId=${holderId}`)
      if (answer.status === 200) expect(answer.body.data).toEqual([])
      else expectProblem(answer, 'validation_failed', 'bad_request')
    },
  )
})

describe('paths', () => {
  let wire: Client
  const agent = new Agent({ keepAlive: true })
  beforeAll(async () => {
    await listen()
    wire = clientOf(sendTo(url, agent), client.apiKey)
  })
  afterAll(() => agent.destroy())

  const parts = [
    ...[
      '%',
      '%zz',
      '%00',
      '%ff',
      '%c0%80',
      '%ed%a0%80',
      '%2f',
      '..',
      '%2e%2e',
      '..%2f..%2fetc%2fpasswd',
      '\\',
      ';',
      "'",
    ],
    ...['"', 'wal_%00', ':id', '*', 'null', '__proto__', 'constructor', encodeURIComponent('💶'), '\u00e9', '<script>'],
    ...[
      'x'.repeat(201),
      'x'.repeat(8_000),
      `wal_${'0'.repeat(32)}%00`,
      `wal_${'0'.repeat(32)}%0a`,
      `wal_${'0'.repeat(32)}?`,
    ],
  ]
  test.each(parts.map((part) => [part.slice(0, 45), part]))('with %s in them lead nowhere', async (_, part) => {
    const calls: [Method, string][] = [
      ['GET', `/v1/wallets/${part}`],
      ['GET', `/v1/wallets/${part}/balance`],
      ['GET', `/v1/wallets/${part}/entries`],
      ['PATCH', `/v1/wallets/${part}`],
      ['GET', `/v1/transfers/${part}`],
      ['POST', `/v1/transfers/${part}/reverse`],
      ['GET', `/v1/holds/${part}`],
      ['POST', `/v1/holds/${part}/capture`],
      ['GET', `/v1/ledger/blocks/${part}/1`],
      ['GET', `/v1/ledger/blocks/0/${part}`],
      ['GET', `/v1/transactions/${part}`],
      ['GET', `/v1/${part}`],
      ['GET', `/${part}`],
    ]
    for (const [method, path] of calls) {
      const body = method === 'GET' ? undefined : path.includes('wallets') ? { name: 'x' } : {}
      const answer = await wire.call<Problem>(method, path, body)
      await expectRefused(answer, `${method} ${path}`, 'not_found', 'bad_request')
    }
    expect(await state()).toEqual(untouched)
  })
})

describe('on the wire', () => {
  beforeAll(listen)

  /** Sends bytes as they are; what comes back until the server, or half a second of silence after so many answers, ends it. */
  async function exchange(bytes: string | Buffer, answers = 1): Promise<string> {
    const socket = connectTo(url)
    await once(socket, 'connect')
    // A server that has answered does not read the rest: what counts is what it said.
    socket.on('error', () => {})
    const closed = new Promise<void>((done) => void socket.once('close', () => done()))
    let text = ''
    socket.on('data', (chunk) => {
      text += chunk.toString('latin1')
      if (text.split('HTTP/1.1 ').length > answers) socket.setTimeout(500)
    })
    socket.on('timeout', () => socket.destroy())
    socket.setTimeout(60_000)
    socket.write(bytes)
    await closed
    return text
  }

  const transfer = () => JSON.stringify({ from: world.from, to: world.to, amount: '1', currency: 'USD' })
  const head = (more: string) =>
    `POST /v1/transfers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${client.apiKey}\r\nIdempotency-Key: k\r\n` +
    `Content-Type: application/json\r\n${more}\r\n`

  const garbage: [string, () => string | Buffer][] = [
    ['a bad request line', () => 'HELLO\r\n\r\n'],
    ['an unknown method', () => 'TRANSFER /v1/transfers HTTP/1.1\r\nHost: x\r\n\r\n'],
    ['a bad version', () => 'GET /livez HTTP/9.9\r\nHost: x\r\n\r\n'],
    ['TLS on a plain port', () => Buffer.from('16030100fe010000fa0303', 'hex')],
    ['random bytes', () => Buffer.from(Array.from({ length: 300 }, (_, i) => (i * 7919) % 256))],
    ['NUL in the path', () => 'GET /v1/wallets/\u0000 HTTP/1.1\r\nHost: x\r\n\r\n'],
    ['a space in the path', () => 'GET /v1/wallets/a b HTTP/1.1\r\nHost: x\r\n\r\n'],
    ['NUL in a header', () => head(`X-A: a\u0000b\r\nContent-Length: 0\r\n`)],
    ['a header without a name', () => head(': x\r\nContent-Length: 0\r\n')],
    ['a header with a space in its name', () => head('X A: x\r\nContent-Length: 0\r\n')],
    ['a header of 100 kB', () => head(`X-A: ${'a'.repeat(100_000)}\r\n`)],
    ['ten thousand headers', () => head(Array.from({ length: 10_000 }, (_, i) => `X-${i}: ${i}\r\n`).join(''))],
    ['an idempotency key of 100 kB', () => head(`Idempotency-Key: ${'k'.repeat(100_000)}\r\n`)],
    ['a path of 100 kB', () => `GET /${'a'.repeat(100_000)} HTTP/1.1\r\nHost: x\r\n\r\n`],
    [
      'two content lengths',
      () => `${head(`Content-Length: 5\r\nContent-Length: ${transfer().length}\r\n`)}${transfer()}`,
    ],
    ['a content length that is no number', () => `${head('Content-Length: 1e2\r\n')}${transfer()}`],
    ['a negative content length', () => `${head('Content-Length: -1\r\n')}${transfer()}`],
    [
      'a content length beside chunks',
      () => `${head('Content-Length: 5\r\nTransfer-Encoding: chunked\r\n')}0\r\n\r\n${transfer()}`,
    ],
    ['an unknown transfer encoding', () => `${head('Transfer-Encoding: gzip\r\n')}${transfer()}`],
    ['a bad chunk size', () => `${head('Transfer-Encoding: chunked\r\n')}zz\r\n${transfer()}\r\n0\r\n\r\n`],
    ['a content length that ends in the middle', () => `${head('Content-Length: 20\r\n')}${transfer()}`],
    ['a folded header', () => `${head('X-A: a\r\n b\r\nContent-Length: 3\r\n')}{"a`],
  ]

  test.each(garbage)('%s is refused: a problem, and nothing moves', async (_, bytes) => {
    const text = await exchange(bytes())
    const [answer = ''] = text.split('\r\n\r\nHTTP/')
    const [, status = ''] = /^HTTP\/1\.1 (\d{3}) /.exec(answer) ?? []
    expect(status, text).toMatch(/^4\d\d$/)
    expect.soft(answer.toLowerCase()).toContain('content-type: application/problem+json')
    const problem = JSON.parse(/\{.*\}/s.exec(answer)?.[0] ?? '{}')
    expect.soft(problem).toMatchObject({
      type: expect.stringMatching(/^urn:zerosum:problem:/),
      title: expect.any(String),
      status: Number(status),
      detail: expect.any(String),
      code: expect.any(String),
      correlationId: expect.any(String),
    })
    expect(await state()).toEqual(untouched)
  })

  test('a request without a host is refused', async () => {
    expect(await exchange('GET /livez HTTP/1.1\r\n\r\n')).toMatch(/^HTTP\/1\.1 400 /)
  })

  test('a connection that says nothing, or half a request, does not keep others from being answered', async () => {
    const idle = ['', 'POST', head('Content-Length: 1000\r\n'), `${head('Content-Length: 1000\r\n')}{"from":`].map(
      (start) => {
        const socket = connectTo(url)
        socket.write(start)
        return socket
      },
    )
    expect(await exchange('GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')).toContain(
      '{"status":"alive"}',
    )
    for (const socket of idle) socket.destroy()
    expect(await state()).toEqual(untouched)
  })

  test('requests sent in one go are answered in order, and each counts', async () => {
    const requests = ['/livez', '/v1/wallets/x', '/nowhere'].map((path) => `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`)
    const statuses = [...(await exchange(requests.join(''), requests.length)).matchAll(/HTTP\/1\.1 (\d{3})/g)].map(
      ([, status]) => status,
    )
    expect(statuses).toEqual(['200', '401', '404'])
  })
})

describe('whatever JSON is sent', () => {
  const name = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 5 }),
    fc.constantFrom('a\nb', 'a\u2028b', '1', 'constructor', 'toString', ' '),
  )
  const text = fc.oneof(fc.string({ unit: 'grapheme', maxLength: 40 }), fc.string({ unit: 'binary', maxLength: 9 }))
  const texts = fc.dictionary(name, text, { maxKeys: 4 })
  /** Values that are right somewhere, almost right, and nowhere near. */
  const value = fc.oneof(
    {
      weight: 4,
      arbitrary: fc.constantFrom('1', '5', '9223372036854775807', 'USD', 'JPY', 'active', 'closed', 'h', ''),
    },
    {
      weight: 4,
      arbitrary: fc.constantFrom('FROM', 'TO', 'wal_00000000000070008000000000000000', '2026-01-31T12:00:00Z'),
    },
    { weight: 4, arbitrary: fc.oneof(text, texts) },
    { weight: 2, arbitrary: fc.jsonValue({ maxDepth: 4 }) },
    { weight: 1, arbitrary: fc.dictionary(name, fc.jsonValue({ maxDepth: 1 })) },
  )
  const bodyOf = (...names: string[]) =>
    fc.record(Object.fromEntries(names.map((each) => [each, value])), { requiredKeys: [] })
  /** Right, but for one or two members: so that what is odd about those gets as far as it can. */
  const almost = (right: object, odd: Record<string, fc.Arbitrary<unknown>>) =>
    fc
      .oneof(...Object.entries(odd).map(([each, arbitrary]) => fc.record({ [each]: arbitrary })))
      .chain((one) =>
        fc.constantFrom({}, ...Object.keys(odd).map((key) => ({ [key]: 'h' }))).map((two) => ({ ...two, ...one })),
      )
      .map((more) => ({ ...right, ...more }))
  const transfer = { from: 'FROM', to: 'TO', amount: '1', currency: 'USD' }
  const targets: [string, Method, () => string, fc.Arbitrary<unknown>][] = [
    [
      'POST /v1/wallets',
      'POST',
      () => '/v1/wallets',
      fc.oneof(
        almost({ holderId: 'h', currency: 'USD' }, { holderId: text, name: text, metadata: texts, limits: value }),
        bodyOf('holderId', 'currency', 'name', 'metadata', 'limits', 'overdraftLimit'),
        fc.jsonValue(),
      ),
    ],
    [
      'POST /v1/transfers',
      'POST',
      () => '/v1/transfers',
      fc.oneof(
        { weight: 4, arbitrary: almost(transfer, { memo: text, metadata: texts, effectiveAt: value, extra: value }) },
        { weight: 2, arbitrary: bodyOf('from', 'to', 'amount', 'currency', 'memo', 'metadata', 'effectiveAt') },
        { weight: 2, arbitrary: fc.array(bodyOf('from', 'to', 'amount', 'currency')).map((legs) => ({ legs })) },
        { weight: 1, arbitrary: fc.jsonValue() },
      ),
    ],
    [
      'PATCH /v1/wallets/{id}',
      'PATCH',
      () => `/v1/wallets/${world.to}`,
      fc.oneof(
        almost({}, { name: text, metadata: texts, limits: value }),
        bodyOf('name', 'metadata', 'limits'),
        fc.jsonValue(),
      ),
    ],
  ]

  test.each(targets)(
    'to %s, the answer is never 5xx, and what can be read stays readable',
    async (_, method, path, body) => {
      const fill = (json: string) => json.replaceAll('"FROM"', `"${world.from}"`).replaceAll('"TO"', `"${world.to}"`)
      let accepted = 0
      await fc.assert(
        fc.asyncProperty(body, async (sent) => {
          const raw = fill(JSON.stringify(sent))
          const answer = await client.call<{ metadata?: object }>(method, path(), undefined, { raw })
          expect(answer.status, answer.text).toBeLessThan(500)
          if (answer.status >= 400) {
            expectProblem(answer)
            return
          }
          accepted += 1
          const { metadata } = sent as { metadata?: object }
          if (metadata) expect(answer.body.metadata, 'what was taken is what is given back').toEqual(metadata)
          const places = [`/v1/wallets/${world.from}/entries?limit=5`, answer.headers['location'] ?? path()]
          for (const place of places) expect((await client.get(place)).status, place).toBe(200)
        }),
        { numRuns: 300, seed: seedFor(`whatever JSON is sent to ${method} ${path()}`) },
      )
      expect(accepted, 'some of it was right').toBeGreaterThan(0)
      const entries = await client.get(`/v1/wallets/${world.from}/entries?limit=100`)
      expect(entries.status, entries.text).toBe(200)
    },
  )
})
