import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parseTime } from '../../src/core/time.ts'
import { requestFor } from '../../src/http/routes/transfers.ts'
import { createPoster } from '../../src/ledger/poster.ts'
import {
  type Api,
  type Balance,
  type Client,
  type Entry,
  ID,
  openApi,
  type PageOf,
  TIME,
  type Transfer,
  type Wallet,
} from '../support/api.ts'
import { expectProblem } from './problem.ts'

let api: Api
let client: Client

beforeAll(async () => {
  api = await openApi()
  client = api.alpha
})
afterAll(() => api.close())

const holder = () => `holder-${randomUUID()}`
const patch = (id: string, body: object, key: string | null = null) =>
  client.call<Wallet>('PATCH', `/v1/wallets/${id}`, body, { key })
/** Wallet ids carry milliseconds; "newest first" is only promised for different ones. */
const nextMillisecond = () => sleep(2)

describe('opening', () => {
  test('answers 201 with the wallet as it was asked for, where it is, and the same when it is read', async () => {
    const holderId = holder()
    const asked = {
      holderId,
      currency: 'JPY',
      name: "Carol's yen",
      metadata: { colour: 'blue', '': undefined, 'ключ 🔑': 'значение\n\t"quoted" \\ 👛' },
      overdraftLimit: '500',
      limits: { transferMax: '9223372036854775807', balanceMax: '1' },
    }
    const answer = await client.call<Wallet>('POST', '/v1/wallets', asked)
    expect(answer.status, answer.text).toBe(201)
    expect(answer.headers['content-type']).toMatch(/^application\/json/)
    expect(answer.headers['location']).toBe(`/v1/wallets/${answer.body.id}`)
    expect(answer.body).toEqual({
      ...asked,
      metadata: { colour: 'blue', 'ключ 🔑': 'значение\n\t"quoted" \\ 👛' },
      id: expect.stringMatching(ID('wal')),
      status: 'active',
      createdAt: expect.stringMatching(TIME),
    })
    const read = await client.get<Wallet>(answer.headers['location'] ?? '')
    expect(read.status).toBe(200)
    expect(read.body).toEqual(answer.body)
  })

  test('needs a holder and a currency only', async () => {
    const holderId = holder()
    const { body } = await client.call<Wallet>('POST', '/v1/wallets', { holderId, currency: 'USD' })
    expect(body).toMatchObject({ holderId, name: null, metadata: {}, overdraftLimit: '0', limits: {} })
  })

  test('gives a holder as many wallets as are asked for, of one currency too', async () => {
    const holderId = holder()
    const ids = [await client.wallet(0, { holderId }), await client.wallet(0, { holderId })]
    expect(new Set(ids).size).toBe(2)
    expect(await client.all<Wallet>(`/v1/wallets?holderId=${holderId}`)).toHaveLength(2)
  })

  test.each([1, 128])('takes a holder id of %d characters', async (length) => {
    const holderId = 'é'.repeat(length)
    const { status } = await client.call('POST', '/v1/wallets', { holderId, currency: 'USD' })
    expect(status).toBe(201)
    const found = await client.all<Wallet>(`/v1/wallets?holderId=${encodeURIComponent(holderId)}`)
    expect(found.map((wallet) => wallet.holderId)).toEqual([holderId])
  })

  test('takes all the text that the contract allows, in any script', async () => {
    const metadata = Object.fromEntries(
      Array.from({ length: 50 }, (_, i) => [`${i}`.padEnd(40, '鍵'), '値'.repeat(500)]),
    )
    const body = { holderId: '客'.repeat(128), currency: 'JPY', name: '名'.repeat(200), metadata }
    const opened = await client.call<Wallet>('POST', '/v1/wallets', body)
    expect(opened.status, opened.text).toBe(201)
    expect(opened.body).toMatchObject(body)
  })

  test('keeps every metadata key that it takes, names of JavaScript included', async () => {
    const metadata = {
      constructor: 'a',
      toString: 'b',
      hasOwnProperty: 'c',
      '10': 'd',
      '9': 'e',
      prototype: 'f',
      ' ': 'g',
    }
    const opened = await client.call<Wallet>('POST', '/v1/wallets', { holderId: holder(), currency: 'USD', metadata })
    expect(opened.status, opened.text).toBe(201)
    expect(opened.body.metadata).toEqual(metadata)
    expect((await client.get<Wallet>(`/v1/wallets/${opened.body.id}`)).body.metadata).toEqual(metadata)
  })
})

describe('reading', () => {
  test.each([
    'wal_00000000000070008000000000000000',
    'wal_0',
    'trf_00000000000070008000000000000000',
    '00000000-0000-7000-8000-000000000000',
    'WAL_00000000000070008000000000000000',
    "wal_' OR 1=1 --",
    'wal_0000000000007000800000000000000g',
  ])('answers 404 for %s, which is no wallet', async (id) => {
    for (const path of ['', '/balance', '/entries']) {
      expectProblem(await client.get(`/v1/wallets/${encodeURIComponent(id)}${path}`), 'not_found')
    }
  })

  test('takes an id as it was given only, not in capitals', async () => {
    const id = await client.wallet()
    expectProblem(await client.get(`/v1/wallets/wal_${id.slice(4).toUpperCase()}`), 'not_found')
  })

  test('answers a HEAD like a GET, without the body', async () => {
    const { status, text } = await client.call('HEAD', `/v1/wallets/${await client.wallet()}`)
    expect({ status, text }).toEqual({ status: 200, text: '' })
  })
})

describe("a holder's list", () => {
  test("has the holder's wallets alone, newest first, as they are", async () => {
    const holderId = holder()
    const ids: string[] = []
    for (let i = 0; i < 3; i++) {
      ids.unshift(await client.wallet(0, { holderId }))
      await nextMillisecond()
    }
    await client.wallet(0, { holderId: `${holderId}x` })
    const [middle = ''] = ids.slice(1)
    await patch(middle, { status: 'frozen' })
    const { body } = await client.get<PageOf<Wallet>>(`/v1/wallets?holderId=${holderId}`)
    expect(body.data.map(({ id }) => id)).toEqual(ids)
    expect(body.data.map(({ status }) => status)).toEqual(['active', 'frozen', 'active'])
    expect(body.nextCursor).toBeNull()
  })

  test('is empty for a holder that nobody knows', async () => {
    const { status, body } = await client.get(`/v1/wallets?holderId=${holder()}`)
    expect({ status, body }).toEqual({ status: 200, body: { data: [], nextCursor: null } })
  })

  test('can be walked page by page while wallets are opened, without missing or repeating one', async () => {
    const holderId = holder()
    const before: string[] = []
    for (let i = 0; i < 7; i++) {
      before.unshift(await client.wallet(0, { holderId }))
      await nextMillisecond()
    }
    const seen: string[] = []
    let cursor = ''
    do {
      const path = `/v1/wallets?holderId=${holderId}&limit=3${cursor && `&cursor=${cursor}`}`
      const { body } = await client.get<PageOf<Wallet>>(path)
      expect(body.data.length).toBeLessThanOrEqual(3)
      seen.push(...body.data.map(({ id }) => id))
      cursor = body.nextCursor ?? ''
      await client.wallet(0, { holderId })
    } while (cursor)
    expect(seen).toEqual(before)
  })

  test('has 25 on a page unless another limit is asked', async () => {
    const holderId = holder()
    await Promise.all(Array.from({ length: 30 }, () => client.wallet(0, { holderId })))
    const page = async (query: string) =>
      (await client.get<PageOf<Wallet>>(`/v1/wallets?holderId=${holderId}${query}`)).body.data.length
    expect([await page(''), await page('&limit=1'), await page('&limit=100')]).toEqual([25, 1, 30])
  })

  test('needs to know the holder', async () => {
    const problem = expectProblem(await client.get('/v1/wallets'), 'validation_failed')
    expect(JSON.stringify(problem.errors)).toContain('holderId')
  })
})

test.each([
  '',
  '!!!',
  'AAAA',
  'MA',
  'LTE',
  'MS41',
  'TmFO',
  'A'.repeat(201),
  '%00',
  "' OR 1=1--",
  'wal_x',
  'eyJhIjoxfQ',
])('a cursor that is none of ours (%j) is refused by every list', async (cursor) => {
  const wallet = await client.wallet(1)
  const lists = [`/v1/wallets?holderId=x`, `/v1/wallets/${wallet}/entries?limit=1`, '/v1/ledger/blocks?shard=0']
  for (const list of lists) {
    const problem = expectProblem(
      await client.get(`${list}&cursor=${cursor.startsWith('%') ? cursor : encodeURIComponent(cursor)}`),
      'validation_failed',
    )
    expect(problem.detail).toContain('cursor')
  }
})

test.each(['0', '101', '-1', '1.5', 'x', '', 'null', '9'.repeat(30), '1&limit=2'])(
  'a limit of %j is refused by every list',
  async (limit) => {
    const wallet = await client.wallet()
    for (const list of ['/v1/wallets?holderId=x&', `/v1/wallets/${wallet}/entries?`, '/v1/ledger/blocks?']) {
      expectProblem(await client.get(`${list}limit=${limit}`), 'validation_failed')
    }
  },
)

describe('changing', () => {
  test('renames and replaces the metadata, and leaves the rest', async () => {
    const id = await client.wallet(0, { name: 'old', metadata: { a: '1', b: '2' }, limits: { transferMax: '5' } })
    const answer = await patch(id, { name: 'new' })
    expect(answer.status, answer.text).toBe(200)
    expect(answer.body).toMatchObject({ id, name: 'new', metadata: { a: '1', b: '2' }, limits: { transferMax: '5' } })
    expect((await patch(id, { metadata: { c: '3' } })).body).toMatchObject({ name: 'new', metadata: { c: '3' } })
    expect((await client.get<Wallet>(`/v1/wallets/${id}`)).body).toMatchObject({ name: 'new', metadata: { c: '3' } })
  })

  test('freezes: nothing goes out or comes in until the wallet is active again', async () => {
    const [from, to] = [await client.wallet(10), await client.wallet(10)]
    expect((await patch(from, { status: 'frozen' })).body.status).toBe('frozen')
    expectProblem(await client.pay(from, to, 1), 'wallet_frozen')
    expectProblem(await client.pay(to, from, 1), 'wallet_frozen')
    const topUp = { walletId: from, amount: '1', currency: 'USD' }
    expectProblem(await client.call('POST', '/v1/top-ups', topUp), 'wallet_frozen')
    expectProblem(await client.call('POST', '/v1/withdrawals', topUp), 'wallet_frozen')
    expect((await patch(from, { status: 'active' })).body.status).toBe('active')
    expect((await client.pay(from, to, 1)).status).toBe(201)
  })

  test('closes an empty wallet only, and for ever', async () => {
    const [wallet, other] = [await client.wallet(10), await client.wallet()]
    expectProblem(await patch(wallet, { status: 'closed' }), 'wallet_not_empty')
    const hold = await client.hold(wallet, other, 10)
    expectProblem(await patch(other, { status: 'closed' }), 'wallet_not_empty')
    await client.call('POST', `/v1/holds/${hold.body.id}/capture`, {})
    expect((await patch(wallet, { status: 'closed' })).body).toMatchObject({ status: 'closed' })
    for (const change of [{ status: 'active' }, { status: 'closed' }, { name: 'x' }, { limits: {} }]) {
      expectProblem(await patch(wallet, change), 'wallet_closed')
    }
    expectProblem(await client.pay(other, wallet, 1), 'wallet_closed')
    expect((await client.get<Wallet>(`/v1/wallets/${wallet}`)).body.status).toBe('closed')
  })

  test('sets limits, replaces them whole, and takes them away', async () => {
    const [wallet, other] = [await client.wallet(100), await client.wallet(100)]
    expect((await patch(wallet, { limits: { transferMax: '5', balanceMax: '120' } })).body.limits).toEqual({
      transferMax: '5',
      balanceMax: '120',
    })
    expectProblem(await client.pay(wallet, other, 6), 'limit_exceeded')
    expectProblem(await client.pay(other, wallet, 21), 'limit_exceeded')
    expect((await client.pay(other, wallet, 20)).status).toBe(201)
    expect((await client.pay(wallet, other, 5)).status).toBe(201)
    expect((await patch(wallet, { limits: { transferMax: '6' } })).body.limits).toEqual({ transferMax: '6' })
    expect((await client.pay(other, wallet, 21)).status).toBe(201)
    expect((await patch(wallet, { limits: {} })).body.limits).toEqual({})
    expect((await client.pay(wallet, other, 100)).status).toBe(201)
  })

  test('without a key happens each time; with one it happens once', async () => {
    const id = await client.wallet()
    await patch(id, { name: 'a' }, 'rename')
    await patch(id, { name: 'b' })
    const replay = await patch(id, { name: 'a' }, 'rename')
    expect(replay.headers['idempotency-replayed']).toBe('true')
    expect(replay.status).toBe(200)
    expect((await client.get<Wallet>(`/v1/wallets/${id}`)).body.name).toBe('b')
    expectProblem(await patch(id, { name: 'c' }, 'rename'), 'idempotency_key_reused')
  })

  test('of what nobody has is 404', async () => {
    expectProblem(await patch('wal_00000000000070008000000000000000', { name: 'x' }), 'not_found')
    expectProblem(await patch('x', { name: 'x' }), 'not_found')
  })

  test.each([
    {},
    { name: null },
    { status: 'Active' },
    { status: 'deleted' },
    { overdraftLimit: '5' },
    { currency: 'EUR' },
  ])('by %j is refused', async (body) => {
    const id = await client.wallet()
    const before = (await client.get(`/v1/wallets/${id}`)).text
    expectProblem(await patch(id, body), 'validation_failed')
    expect((await client.get(`/v1/wallets/${id}`)).text).toBe(before)
  })
})

describe('an overdraft', () => {
  test('lets a wallet go below zero as far as it says, not a cent further', async () => {
    const [wallet, other] = [await client.wallet(0, { overdraftLimit: '30' }), await client.wallet()]
    expectProblem(await client.pay(wallet, other, 31), 'insufficient_funds')
    expect((await client.pay(wallet, other, 30)).status).toBe(201)
    expectProblem(await client.pay(wallet, other, 1), 'insufficient_funds')
    expect(await client.balance(wallet)).toMatchObject({ posted: '-30', available: '-30' })
  })
})

describe('the balance', () => {
  test('says what is posted, what is on its way in and out, and what can be spent', async () => {
    const [wallet, other] = [await client.wallet(100), await client.wallet(7)]
    await client.hold(wallet, other, 30)
    await client.hold(other, wallet, 5)
    expect(await client.balance(wallet)).toEqual({
      walletId: wallet,
      currency: 'USD',
      posted: '100',
      pendingIn: '5',
      pendingOut: '30',
      available: '70',
      version: 3,
      source: 'database',
      asOf: expect.stringMatching(TIME),
    })
  })

  test('holds amounts that no double could', async () => {
    const wallet = await client.wallet(9_007_199_254_740_993n, { currency: 'BHD' })
    expect((await client.balance(wallet)).posted).toBe('9007199254740993')
  })

  test('can be asked for strongly consistent', async () => {
    const wallet = await client.wallet(5)
    const { body } = await client.get<Balance>(`/v1/wallets/${wallet}/balance?consistency=strong`)
    expect(body).toMatchObject({ posted: '5', source: 'database' })
    expectProblem(await client.get(`/v1/wallets/${wallet}/balance?consistency=weak`), 'validation_failed')
  })

  test('at a time in the past is what it was then, to the microsecond', async () => {
    const [wallet, other] = [await client.wallet(100), await client.wallet()]
    const paid = await client.pay(wallet, other, 30)
    const hold = await client.hold(wallet, other, 20)
    await client.call('POST', `/v1/holds/${hold.body.id}/release`)
    const entries = await client.all<Entry>(`/v1/wallets/${wallet}/entries`)
    const [released = '', held = '', posted = '', toppedUp = ''] = entries.map(({ createdAt }) => createdAt)
    expect(posted).toBe(paid.body.createdAt)

    const at = async (time: string) => {
      const { body } = await client.get<Balance>(`/v1/wallets/${wallet}/balance?at=${encodeURIComponent(time)}`)
      const { posted, pendingOut, available, version } = body
      return { posted, pendingOut, available, version }
    }
    expect(await at(justBefore(toppedUp))).toEqual({ posted: '0', pendingOut: '0', available: '0', version: 0 })
    expect(await at(toppedUp)).toEqual({ posted: '100', pendingOut: '0', available: '100', version: 1 })
    expect(await at(justBefore(posted))).toEqual(await at(toppedUp))
    expect(await at(posted)).toEqual({ posted: '70', pendingOut: '0', available: '70', version: 2 })
    expect(await at(held)).toEqual({ posted: '70', pendingOut: '20', available: '50', version: 3 })
    expect(await at(released)).toEqual({ posted: '70', pendingOut: '0', available: '70', version: 4 })
    await client.pay(wallet, other, 1)
    expect(await at(posted)).toEqual({ posted: '70', pendingOut: '0', available: '70', version: 2 })
  })

  test.each([
    '2001-02-03T04:05:06Z',
    '2001-02-03T04:05:06.123456Z',
    '2001-02-03T06:05:06.5+02:00',
    '1970-01-01T00:00:00Z',
  ])('at %s says that time in UTC', async (time) => {
    const wallet = await client.wallet(5)
    const { body } = await client.get<Balance>(`/v1/wallets/${wallet}/balance?at=${encodeURIComponent(time)}`)
    expect(body).toMatchObject({ posted: '0', version: 0, asOf: expect.stringMatching(TIME) })
    expect(parseTime(body.asOf)).toBe(parseTime(time))
  })

  test.each(['1969-12-31T23:59:59.999999Z', '1969-12-31T23:59:59.5Z', '0001-01-01T00:00:00Z', '0000-01-01T00:00:00Z'])(
    'before 1970 (%s) is nothing, at that time',
    async (time) => {
      const wallet = await client.wallet(5)
      const { status, body } = await client.get<Balance>(`/v1/wallets/${wallet}/balance?at=${time}`)
      expect(status).toBe(200)
      expect(body).toMatchObject({ posted: '0', version: 0, asOf: expect.stringMatching(TIME) })
      expect(parseTime(body.asOf)).toBe(parseTime(time))
    },
  )

  test.each([
    '9999-12-31T23:59:59Z',
    'yesterday',
    '2026-01-01',
    '2026-01-01T00:00:00',
    '2026-01-01 00:00:00Z',
    '2026-13-01T00:00:00Z',
    '2026-02-30T00:00:00Z',
    '2025-02-29T00:00:00Z',
    '2026-04-31T00:00:00Z',
    '2026-01-01T24:00:00Z',
    '2026-01-01T00:60:00Z',
    '2026-01-01T00:00:00+24:00',
    '+002026-01-01T00:00:00Z',
    '1764000000',
    '0000-01-01T00:00:00+14:00',
    '',
    '٢٠٢٦-01-01T00:00:00Z',
  ])('at %j, which is no time in the past, is refused', async (time) => {
    const wallet = await client.wallet()
    const answer = await client.get(`/v1/wallets/${wallet}/balance?at=${encodeURIComponent(time)}`)
    expect(expectProblem(answer, 'validation_failed').detail).toContain('at')
  })

  test('can be asked at the very time that an answer gave, though the clock of another node is ahead', async () => {
    const own = await openApi()
    try {
      const wallet = await own.alpha.wallet(10)
      const clockUs = () => (Date.now() + 60_000) * 1000
      const ahead = createPoster({ url: own.url, shard: 0, writer: 'ahead', clockUs })
      await ahead.post([requestFor(own.tenantIds.alpha, 'ahead', { kind: 'release', holdId: randomUUID() })])
      await ahead.close()
      const paid = await own.alpha.pay(wallet, await own.alpha.wallet(), 4)
      const { status, body } = await own.alpha.get<Balance>(
        `/v1/wallets/${wallet}/balance?at=${encodeURIComponent(paid.body.createdAt)}`,
      )
      expect({ status, body }).toMatchObject({ status: 200, body: { posted: '6' } })
    } finally {
      await own.close()
    }
  })
})

/** The time a microsecond earlier. */
function justBefore(time: string): string {
  const us = (parseTime(time) ?? 0) - 1
  return `${new Date(Math.floor(us / 1000)).toISOString().slice(0, -1)}${`${us % 1000}`.padStart(3, '0')}Z`
}

describe('the entries', () => {
  test('are the lines of the ledger, newest first, each with the balance after it', async () => {
    const [wallet, other] = [await client.wallet(100), await client.wallet()]
    const paid = await client.call<Transfer>('POST', '/v1/transfers', {
      ...{ from: wallet, to: other, amount: '30', currency: 'USD', memo: 'rent' },
    })
    const hold = await client.hold(wallet, other, 20)
    await client.call('POST', `/v1/holds/${hold.body.id}/capture`, { amount: '15' })
    const entries = await client.all<Entry>(`/v1/wallets/${wallet}/entries`)
    const holdTransaction = `txn_${hold.body.id.slice(4)}`
    const common = { counterparty: other, memo: null, transferId: null }
    expect(entries).toMatchObject([
      { ...common, kind: 'capture', amount: '-15', layer: 'posted', balanceAfter: '55', sequence: 5 },
      { ...common, kind: 'capture', amount: '20', layer: 'pending', balanceAfter: '0', sequence: 4 },
      { ...common, kind: 'hold', amount: '-20', layer: 'pending', balanceAfter: '-20', transactionId: holdTransaction },
      { ...common, kind: 'transfer', amount: '-30', balanceAfter: '70', transferId: paid.body.id, memo: 'rent' },
      { kind: 'top-up', amount: '100', balanceAfter: '100', counterparty: null, sequence: 1 },
    ])
    for (const entry of entries) {
      expect(entry.id).toMatch(/^ent_[0-9a-f]{32}_\d+$/)
      expect(entry.transactionId).toMatch(ID('txn'))
      expect(entry.createdAt).toMatch(TIME)
    }
    expect(new Set(entries.map(({ id }) => id)).size).toBe(entries.length)
  })

  test('can be walked page by page while money moves, without missing or repeating one', async () => {
    const [wallet, other] = [await client.wallet(100), await client.wallet()]
    for (let i = 0; i < 9; i++) await client.pay(wallet, other, 1)
    const seen: number[] = []
    let cursor = ''
    do {
      const path = `/v1/wallets/${wallet}/entries?limit=4${cursor && `&cursor=${cursor}`}`
      const { body } = await client.get<PageOf<Entry>>(path)
      seen.push(...body.data.map(({ sequence }) => sequence))
      cursor = body.nextCursor ?? ''
      await client.pay(wallet, other, 1)
    } while (cursor)
    expect(seen).toEqual([10, 9, 8, 7, 6, 5, 4, 3, 2, 1])
  })

  test('of a new wallet are none', async () => {
    const { body } = await client.get(`/v1/wallets/${await client.wallet()}/entries`)
    expect(body).toEqual({ data: [], nextCursor: null })
  })
})
