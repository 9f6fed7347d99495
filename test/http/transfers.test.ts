import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { systemAccountId } from '../../src/core/account.ts'
import { formatId } from '../../src/core/ids.ts'
import {
  type Api,
  type BatchResult,
  type Client,
  ID,
  openApi,
  type Problem,
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

const NOBODY = 'wal_00000000000070008000000000000000'
const leg = (from: string, to: string, amount: number | bigint | string, currency = 'USD') => ({
  from,
  to,
  amount: `${amount}`,
  currency,
})
const transfer = (body: object, key?: string) =>
  client.call<Transfer>('POST', '/v1/transfers', body, key === undefined ? {} : { key })
const balances = async (...ids: string[]) => await Promise.all(ids.map((id) => client.available(id)))

describe('a transfer', () => {
  test('moves money and answers 201 with what it did, where it is, and the same when it is read', async () => {
    const [from, to] = [await client.wallet(100), await client.wallet()]
    const remarks = {
      memo: 'for 🍕\n"rent"',
      metadata: { order: '17', 'a/b': '' },
      effectiveAt: '2026-01-31T12:00:00+01:00',
    }
    const answer = await transfer({ ...leg(from, to, 30), ...remarks })
    expect(answer.status, answer.text).toBe(201)
    expect(answer.headers['location']).toBe(`/v1/transfers/${answer.body.id}`)
    expect(answer.headers['idempotency-replayed']).toBeUndefined()
    expect(answer.body).toEqual({
      id: expect.stringMatching(ID('trf')),
      ...leg(from, to, 30),
      ...remarks,
      status: 'completed',
      kind: 'transfer',
      createdAt: expect.stringMatching(TIME),
      completedAt: answer.body.createdAt,
    })
    const read = await client.get<Transfer>(answer.headers['location'] ?? '')
    expect({ status: read.status, body: read.body }).toEqual({ status: 200, body: answer.body })
    expect(await balances(from, to)).toEqual([70n, 30n])
  })

  test('needs no remarks', async () => {
    const { body } = await transfer(leg(await client.wallet(1), await client.wallet(), 1))
    expect(body).toMatchObject({ memo: null, metadata: {} })
    expect(body).not.toHaveProperty('effectiveAt')
  })

  test('takes the whole balance, not a cent more', async () => {
    const [from, to] = [await client.wallet(100), await client.wallet()]
    expectProblem(await client.pay(from, to, 101), 'insufficient_funds')
    expect((await client.pay(from, to, 100)).status).toBe(201)
    expectProblem(await client.pay(from, to, 1), 'insufficient_funds')
    expect(await balances(from, to)).toEqual([0n, 100n])
  })

  test('that was refused can be read, with the reason', async () => {
    const [from, to] = [await client.wallet(5), await client.wallet()]
    const problem = expectProblem(await client.pay(from, to, 6), 'insufficient_funds')
    expect(problem.transferId).toMatch(ID('trf'))
    const { status, body } = await client.get<Transfer>(`/v1/transfers/${problem.transferId}`)
    expect({ status, body }).toEqual({
      status: 200,
      body: {
        id: problem.transferId,
        ...leg(from, to, 6),
        ...{ status: 'refused', refusal: 'insufficient_funds', kind: 'transfer', memo: null, metadata: {} },
        createdAt: expect.stringMatching(TIME),
        completedAt: null,
      },
    })
  })

  test.each(['trf_00000000000070008000000000000000', 'x', 'wal_00000000000070008000000000000000'])(
    'named %s is not there',
    async (id) => {
      expectProblem(await client.get(`/v1/transfers/${id}`), 'not_found')
      expectProblem(await client.call('POST', `/v1/transfers/${id}/reverse`, {}), 'not_found')
    },
  )

  test('cannot be read by the id of a wallet or hold', async () => {
    const [from, to] = [await client.wallet(5), await client.wallet()]
    const { body } = await client.hold(from, to, 1)
    expectProblem(await client.get(`/v1/transfers/trf_${from.slice(4)}`), 'not_found')
    expectProblem(await client.get(`/v1/transfers/trf_${body.id.slice(4)}`), 'not_found')
    expectProblem(await client.call('POST', `/v1/transfers/trf_${body.id.slice(4)}/reverse`, {}), 'not_found')
  })
})

describe('a transfer is refused', () => {
  test('from a wallet to itself', async () => {
    const wallet = await client.wallet(5)
    expectProblem(await client.pay(wallet, wallet, 1), 'same_wallet')
    expectProblem(await client.pay(NOBODY, NOBODY, 1), 'same_wallet')
  })

  test('in another currency than either wallet has', async () => {
    const [dollars, yen] = [await client.wallet(5), await client.wallet(5, { currency: 'JPY' })]
    for (const [from, to, currency] of [
      [dollars, yen, 'USD'],
      [dollars, yen, 'JPY'],
      [yen, dollars, 'EUR'],
      [dollars, NOBODY, 'EUR'],
    ] as const) {
      expectProblem(await transfer(leg(from, to, 1, currency)), 'currency_mismatch')
    }
  })

  test('when a wallet is not there', async () => {
    const wallet = await client.wallet(5)
    expectProblem(await client.pay(NOBODY, wallet, 1), 'from_not_found')
    expectProblem(await client.pay(wallet, NOBODY, 1), 'to_not_found')
    expectProblem(await client.pay(NOBODY, `${NOBODY.slice(0, -1)}1`, 1), 'from_not_found')
  })

  test('from or to a system account, though its id can be worked out', async () => {
    const wallet = await client.wallet(5)
    const place = { tenantId: api.tenantIds.alpha, shard: 0, kind: 'cash', currency: 'USD' } as const
    const cash = formatId('wal', systemAccountId(place))
    expectProblem(await client.pay(cash, wallet, 1), 'from_not_found')
    expectProblem(await client.pay(wallet, cash, 1), 'to_not_found')
    expectProblem(await client.hold(wallet, cash, 1), 'to_not_found')
    expectProblem(await client.get(`/v1/wallets/${cash}/balance`), 'not_found')
    expectProblem(await client.get(`/v1/wallets/${cash}/entries`), 'not_found')
    const topUp = { walletId: cash, amount: '1', currency: 'USD' }
    expectProblem(await client.call('POST', '/v1/top-ups', topUp), 'to_not_found')
    expectProblem(await client.call('POST', '/v1/withdrawals', topUp), 'from_not_found')
    expect(await client.available(wallet)).toBe(5n)
  })

  test('for the reason that comes first, when there are several', async () => {
    const frozen = await client.wallet(0, { limits: { transferMax: '1' } })
    const closed = await client.wallet()
    await client.call('PATCH', `/v1/wallets/${closed}`, { status: 'closed' })
    await client.call('PATCH', `/v1/wallets/${frozen}`, { status: 'frozen' })
    expectProblem(await transfer(leg(frozen, frozen, 9, 'EUR')), 'same_wallet')
    expectProblem(await transfer(leg(frozen, NOBODY, 9, 'EUR')), 'currency_mismatch')
    expectProblem(await client.pay(frozen, NOBODY, 9), 'to_not_found')
    expectProblem(await client.pay(frozen, closed, 9), 'wallet_closed')
    expectProblem(await client.pay(frozen, await client.wallet(), 9), 'wallet_frozen')
    await client.call('PATCH', `/v1/wallets/${frozen}`, { status: 'active' })
    expectProblem(await client.pay(frozen, await client.wallet(), 9), 'limit_exceeded')
    expectProblem(await client.pay(frozen, await client.wallet(), 1), 'insufficient_funds')
  })

  test('when a balance would grow beyond 2^63 - 1', async () => {
    const most = 9_223_372_036_854_775_807n
    const [a, b] = [await client.wallet(most, { currency: 'XOF' }), await client.wallet(0, { currency: 'XOF' })]
    const c = await client.wallet(0, { currency: 'XOF', overdraftLimit: `${most}` })
    expect((await transfer(leg(a, b, most, 'XOF'))).status).toBe(201)
    expectProblem(await transfer(leg(c, b, 1, 'XOF')), 'balance_overflow')
    expectProblem(
      await client.call('POST', '/v1/top-ups', { walletId: c, amount: '1', currency: 'XOF' }),
      'balance_overflow',
    )
    expect(await balances(a, b, c)).toEqual([0n, most, 0n])
    expect((await transfer(leg(b, a, 1, 'XOF'))).status, 'the payee has had 2^63 - 1 already').toBe(422)
    expect((await transfer(leg(b, c, most, 'XOF'))).status).toBe(201)
    expect(await balances(a, b, c)).toEqual([0n, 0n, most])
  })
})

describe('a transfer of several legs', () => {
  test('goes through whole, each leg on what the ones before it made', async () => {
    const [a, b, c] = [await client.wallet(100), await client.wallet(), await client.wallet()]
    const legs = [leg(a, b, 100), leg(b, c, 100), leg(c, a, 40)]
    const answer = await transfer({ legs, memo: 'split' })
    expect(answer.status, answer.text).toBe(201)
    expect(answer.body).toMatchObject({ from: null, to: null, amount: null, currency: null, legs, memo: 'split' })
    expect((await client.get<Transfer>(`/v1/transfers/${answer.body.id}`)).body).toEqual(answer.body)
    expect(await balances(a, b, c)).toEqual([40n, 0n, 60n])
  })

  test('exchanges currencies, each summing to zero', async () => {
    const [a, b] = [await client.wallet(100), await client.wallet()]
    const [c, d] = [await client.wallet(0, { currency: 'JPY' }), await client.wallet(15_000, { currency: 'JPY' })]
    expect((await transfer({ legs: [leg(a, b, 100), leg(d, c, 15_000, 'JPY')] })).status).toBe(201)
    expect(await balances(a, b, c, d)).toEqual([0n, 100n, 15_000n, 0n])
  })

  test('moves nothing when one leg cannot go, and names the leg', async () => {
    const [a, b, c] = [await client.wallet(100), await client.wallet(), await client.wallet()]
    const problem = expectProblem(
      await transfer({ legs: [leg(a, b, 60), leg(b, c, 10), leg(a, c, 41)] }),
      'insufficient_funds',
    )
    expect(problem.leg).toBe(2)
    expect(await balances(a, b, c)).toEqual([100n, 0n, 0n])
    expect(expectProblem(await transfer({ legs: [leg(a, b, 1), leg(a, a, 1)] }), 'same_wallet').leg).toBe(1)
    expect(expectProblem(await transfer({ legs: [leg(a, b, 999), leg(a, NOBODY, 1)] }), 'to_not_found').leg).toBe(1)
    expect(await balances(a, b, c)).toEqual([100n, 0n, 0n])
  })

  test('may have 2 to 100 legs', async () => {
    const [a, b] = [await client.wallet(100), await client.wallet()]
    const legs = (count: number) => Array.from({ length: count }, () => leg(a, b, 1))
    expectProblem(await transfer({ legs: [] }), 'validation_failed')
    expectProblem(await transfer({ legs: legs(1) }), 'validation_failed')
    expectProblem(await transfer({ legs: legs(101) }), 'validation_failed')
    expect(await balances(a, b)).toEqual([100n, 0n])
    expect((await transfer({ legs: legs(100) })).status).toBe(201)
    expect(await balances(a, b)).toEqual([0n, 100n])
  })

  test.each([
    { from: NOBODY, legs: [] },
    { legs: [leg(NOBODY, NOBODY, 1), leg(NOBODY, NOBODY, 1)], amount: '1' },
    { legs: [leg(NOBODY, NOBODY, 1), { ...leg(NOBODY, NOBODY, 1), memo: 'x' }] },
    { legs: [leg(NOBODY, NOBODY, 1), null] },
    { legs: { 0: leg(NOBODY, NOBODY, 1), length: 2 } },
    {},
    { from: NOBODY, to: NOBODY, amount: '1' },
    { memo: 'only' },
  ])('is one thing or the other: %j is refused', async (body) => {
    expectProblem(await transfer(body), 'validation_failed')
  })
})

describe('top-ups and withdrawals', () => {
  test('bring money in and out, as transfers with one end outside', async () => {
    const wallet = await client.wallet()
    const move = { walletId: wallet, amount: '70', currency: 'USD' }
    const topUp = await client.call<Transfer>('POST', '/v1/top-ups', { ...move, source: 'bank 12-34' })
    expect(topUp.status, topUp.text).toBe(201)
    expect(topUp.headers['location']).toBe(`/v1/transfers/${topUp.body.id}`)
    const times = { createdAt: expect.stringMatching(TIME), completedAt: expect.stringMatching(TIME) }
    const common = { ...times, amount: '70', currency: 'USD', status: 'completed', memo: null, metadata: {} }
    const id = expect.stringMatching(ID('trf'))
    expect(topUp.body).toEqual({ id, from: null, to: wallet, kind: 'top-up', reference: 'bank 12-34', ...common })
    const withdrawal = await client.call<Transfer>('POST', '/v1/withdrawals', { ...move, destination: 'IBAN' })
    expect(withdrawal.body).toEqual({ id, from: wallet, to: null, kind: 'withdrawal', reference: 'IBAN', ...common })
    for (const { body } of [topUp, withdrawal]) {
      expect((await client.get(`/v1/transfers/${body.id}`)).body).toEqual(body)
    }
    expect(await client.available(wallet)).toBe(0n)
    expectProblem(await client.call('POST', '/v1/withdrawals', move), 'insufficient_funds')
  })

  test('know wallets and currencies', async () => {
    const wallet = await client.wallet()
    const move = { walletId: wallet, amount: '1', currency: 'EUR' }
    expectProblem(await client.call('POST', '/v1/top-ups', move), 'currency_mismatch')
    expectProblem(await client.call('POST', '/v1/withdrawals', move), 'currency_mismatch')
    expectProblem(await client.call('POST', '/v1/top-ups', { ...move, walletId: NOBODY }), 'to_not_found')
    expectProblem(await client.call('POST', '/v1/withdrawals', { ...move, walletId: NOBODY }), 'from_not_found')
  })
})

describe('a batch', () => {
  const item = (from: string, to: string, amount: number | string, idempotencyKey: string = randomUUID()) => ({
    idempotencyKey,
    ...leg(from, to, amount),
  })
  const batch = (transfers: unknown, caller = client) =>
    caller.call<{ results: BatchResult[] }>('POST', '/v1/transfers/batch', { transfers }, { key: null })
  const statuses = (results: readonly BatchResult[]) => results.map(({ status }) => status)

  test('decides each transfer on its own, in order', async () => {
    const [a, b, c] = [await client.wallet(100), await client.wallet(), await client.wallet()]
    const { status, body } = await batch([
      item(a, b, 60),
      item(a, c, 50),
      item(b, c, 60),
      { idempotencyKey: randomUUID(), legs: [leg(c, a, 10), leg(c, b, 10)], memo: 'back' },
      item(a, a, 1),
    ])
    expect(status).toBe(200)
    expect(statuses(body.results)).toEqual([201, 422, 201, 201, 422])
    const [first, second, , fourth, fifth] = body.results
    expect(first?.transfer).toMatchObject({ ...leg(a, b, 60), status: 'completed' })
    expect(second?.problem).toMatchObject({
      code: 'insufficient_funds',
      status: 422,
      transferId: expect.stringMatching(ID('trf')),
    })
    expect(fourth?.transfer).toMatchObject({ memo: 'back', legs: [leg(c, a, 10), leg(c, b, 10)] })
    expect(fifth?.problem).toMatchObject({ code: 'same_wallet' })
    expect(body.results.every(({ transfer, problem }) => (transfer === undefined) !== (problem === undefined))).toBe(
      true,
    )
    expect(await balances(a, b, c)).toEqual([50n, 10n, 40n])
    const read = await client.get<Transfer>(`/v1/transfers/${first?.transfer?.id}`)
    expect(read.body).toEqual(first?.transfer)
  })

  test('that comes again has no effect and gets the same answers', async () => {
    const [a, b] = [await client.wallet(100), await client.wallet()]
    const items = [item(a, b, 60), item(a, b, 60), item(a, b, 40)]
    const first = await batch(items)
    const again = await batch(items)
    expect(statuses(first.body.results)).toEqual([201, 422, 201])
    expect(first.body.results.map(({ replayed }) => replayed)).toEqual([false, false, false])
    expect(again.body.results.map(({ replayed }) => replayed)).toEqual([true, true, true])
    const lasting = ({ status, transfer, problem }: BatchResult) => ({ status, transfer, code: problem?.code })
    expect(again.body.results.map(lasting)).toEqual(first.body.results.map(lasting))
    expect(await balances(a, b)).toEqual([0n, 100n])
  })

  test('shares its keys with transfers that come alone', async () => {
    const [a, b] = [await client.wallet(100), await client.wallet()]
    const alone = await transfer(leg(a, b, 10), 'shared')
    const { body } = await batch([item(a, b, 10, 'shared'), item(a, b, 11, 'shared')])
    expect(body.results[0]).toMatchObject({ status: 201, replayed: true, transfer: alone.body })
    expect(body.results[1]).toMatchObject({ status: 422, problem: { code: 'idempotency_key_reused' } })
    expect(await client.available(b)).toBe(10n)
  })

  test('with one key twice moves money once: a copy is a replay, another payload is refused', async () => {
    const [a, b] = [await client.wallet(100), await client.wallet()]
    const { body } = await batch([item(a, b, 10, 'twice'), item(a, b, 10, 'twice'), item(a, b, 20, 'twice')])
    expect(statuses(body.results)).toEqual([201, 201, 422])
    expect(body.results.map(({ replayed }) => replayed)).toEqual([false, true, false])
    expect(body.results[1]?.transfer).toEqual(body.results[0]?.transfer)
    expect(body.results[2]?.problem?.code).toBe('idempotency_key_reused')
    expect(await balances(a, b)).toEqual([90n, 10n])
  })

  test('takes a thousand transfers', async () => {
    const [a, b] = [await client.wallet(600), await client.wallet()]
    const { status, body } = await batch(Array.from({ length: 1_000 }, () => item(a, b, 1)))
    expect(status).toBe(200)
    expect(statuses(body.results)).toEqual([...Array(600).fill(201), ...Array(400).fill(422)])
    expect(await balances(a, b)).toEqual([0n, 600n])
  })

  test('takes a thousand transfers with the longest of memos', async () => {
    const [a, b] = [await client.wallet(1_000), await client.wallet()]
    const { body } = await batch(Array.from({ length: 1_000 }, () => ({ ...item(a, b, 1), memo: 'é'.repeat(500) })))
    expect(body.results.every(({ status }) => status === 201)).toBe(true)
  })

  test.each([
    ['no list', undefined],
    ['an empty list', []],
    ['1,001 transfers', Array.from({ length: 1_001 }, (_, i) => item(NOBODY, NOBODY, 1, `${i}`))],
    ['an item without a key', [leg(NOBODY, NOBODY, 1)]],
    ['an empty key', [item(NOBODY, NOBODY, 1, '')]],
    ['a key of 256 characters', [item(NOBODY, NOBODY, 1, 'k'.repeat(256))]],
    ['a key outside of ASCII', [item(NOBODY, NOBODY, 1, 'ключ')]],
    ['a key with a control character', [item(NOBODY, NOBODY, 1, 'a\u0000b')]],
    ['an item that is null', [null]],
    ['an unknown field', [{ ...item(NOBODY, NOBODY, 1), kind: 'top-up' }]],
    ['an item that is neither form', [{ idempotencyKey: 'x' }]],
    ['a list in a list', [[item(NOBODY, NOBODY, 1)]]],
    ['an object', { 0: item(NOBODY, NOBODY, 1) }],
  ])('of %s is refused whole', async (_, transfers) => {
    expectProblem(await batch(transfers), 'validation_failed')
  })

  test('in which one item is not valid is refused whole: nothing moves', async () => {
    const [a, b] = [await client.wallet(100), await client.wallet()]
    for (const bad of [item(a, b, '1.5'), item(a, 'x', 1), { idempotencyKey: 'x', from: a }]) {
      const problem = expectProblem(await batch([item(a, b, 1), bad]), 'validation_failed')
      expect(JSON.stringify(problem.errors)).toContain('body/transfers/1')
    }
    expect(await balances(a, b)).toEqual([100n, 0n])
  })
})

describe('a reversal', () => {
  const reverse = (id: string, body: object = {}) => client.call<Transfer>('POST', `/v1/transfers/${id}/reverse`, body)

  test('takes a transfer back in full, as a transfer of its own', async () => {
    const [a, b] = [await client.wallet(100), await client.wallet()]
    const { body: paid } = await client.pay(a, b, 60)
    const answer = await reverse(paid.id)
    expect(answer.status, answer.text).toBe(201)
    expect(answer.headers['location']).toBe(`/v1/transfers/${answer.body.id}`)
    expect(answer.body).toMatchObject({ ...leg(b, a, 60), kind: 'reversal', status: 'completed', reverses: paid.id })
    expect((await client.get(`/v1/transfers/${answer.body.id}`)).body).toEqual(answer.body)
    expect((await client.get(`/v1/transfers/${paid.id}`)).body).toEqual({ ...paid, reversedBy: answer.body.id })
    expect(await balances(a, b)).toEqual([100n, 0n])
    expectProblem(await reverse(paid.id), 'already_reversed')
    expectProblem(await reverse(paid.id, { amount: '1' }), 'already_reversed')
  })

  test('takes it back in parts, never more than was moved', async () => {
    const [a, b] = [await client.wallet(100), await client.wallet(500)]
    const { body: paid } = await client.pay(a, b, 60)
    expectProblem(await reverse(paid.id, { amount: '61' }), 'exceeds_reversible')
    expect((await reverse(paid.id, { amount: '20' })).body.amount).toBe('20')
    expectProblem(await reverse(paid.id, { amount: '41' }), 'exceeds_reversible')
    const last = await reverse(paid.id)
    expect(last.body.amount).toBe('40')
    expectProblem(await reverse(paid.id, { amount: '1' }), 'already_reversed')
    expect(await balances(a, b)).toEqual([100n, 500n])
    expect((await client.get<Transfer>(`/v1/transfers/${paid.id}`)).body.reversedBy).toBe(last.body.id)
  })

  test('asked ten times at once for a part gives no more than the whole', async () => {
    const [a, b] = [await client.wallet(100), await client.wallet(500)]
    const { body: paid } = await client.pay(a, b, 100)
    const answers = await Promise.all(Array.from({ length: 10 }, () => reverse(paid.id, { amount: '30' })))
    expect(answers.map(({ status }) => status).sort()).toEqual([...Array(3).fill(201), ...Array(7).fill(422)])
    expect(await balances(a, b)).toEqual([90n, 510n])
  })

  test('needs money where the money went', async () => {
    const [a, b, c] = [await client.wallet(100), await client.wallet(), await client.wallet()]
    const { body: paid } = await client.pay(a, b, 60)
    await client.pay(b, c, 1)
    const problem = expectProblem(await reverse(paid.id), 'insufficient_funds')
    expect((await client.get(`/v1/transfers/${problem.transferId}`)).body).toMatchObject({
      ...{ status: 'refused', kind: 'reversal', reverses: paid.id, refusal: 'insufficient_funds' },
    })
    expect((await client.get(`/v1/transfers/${paid.id}`)).body).toEqual(paid)
    expect((await reverse(paid.id, { amount: '59' })).status).toBe(201)
    expect(await balances(a, b, c)).toEqual([99n, 0n, 1n])
  })

  test('of several legs is in full only, all or nothing', async () => {
    const [a, b, c] = [await client.wallet(100), await client.wallet(), await client.wallet()]
    const { body: paid } = await transfer({ legs: [leg(a, b, 60), leg(b, c, 50)] })
    expectProblem(await reverse(paid.id, { amount: '10' }), 'exceeds_reversible')
    const answer = await reverse(paid.id)
    expect(answer.body).toMatchObject({ amount: null, legs: [leg(c, b, 50), leg(b, a, 60)], reverses: paid.id })
    expect(await balances(a, b, c)).toEqual([100n, 0n, 0n])
    expectProblem(await reverse(paid.id), 'already_reversed')
  })

  test('works for top-ups and withdrawals', async () => {
    const wallet = await client.wallet()
    const topUp = await client.topUp(wallet, 50)
    const move = { walletId: wallet, amount: '20', currency: 'USD' }
    const { body: withdrawal } = await client.call<Transfer>('POST', '/v1/withdrawals', move)
    expect((await reverse(withdrawal.id)).body).toMatchObject({ from: null, to: wallet, amount: '20' })
    expect((await reverse(topUp)).body).toMatchObject({ from: wallet, to: null, amount: '50' })
    expect(await client.available(wallet)).toBe(0n)
  })

  test('of a reversal, or of what was refused, is refused', async () => {
    const [a, b] = [await client.wallet(100), await client.wallet()]
    const { body: paid } = await client.pay(a, b, 60)
    const { body: reversal } = await reverse(paid.id)
    expectProblem(await reverse(reversal.id), 'transfer_not_found')
    const refused = expectProblem(await client.pay(a, b, 500), 'insufficient_funds')
    expectProblem(await reverse(refused.transferId ?? ''), 'transfer_not_found')
  })
})

test('text is kept and given back to the letter, SQL and all', async () => {
  const nasty = `'; DROP TABLE wallets; -- \\' \\\\ "q" {a,NULL} $1 %s \${x} <script>\n\t\u2028\u200f𝄞 é e\u0301`
  const holderId = `holder ${nasty}`.slice(0, 128)
  const wallet = await client.call<Wallet>('POST', '/v1/wallets', {
    ...{ holderId, currency: 'USD', name: nasty, metadata: { 'k\'"\\{},': nasty } },
  })
  expect(wallet.body, wallet.text).toMatchObject({ holderId, name: nasty, metadata: { 'k\'"\\{},': nasty } })
  const read = await client.get<Wallet>(`/v1/wallets/${wallet.body.id}`)
  expect(read.body).toEqual(wallet.body)
  expect((await client.all<Wallet>(`/v1/wallets?holderId=${encodeURIComponent(holderId)}`)).length).toBe(1)
  const from = await client.wallet(5)
  const key = `'; DROP TABLE requests; -- \\ "{},NULL`
  const paid = await transfer({ ...leg(from, wallet.body.id, 1), memo: nasty, metadata: { NULL: nasty } }, key)
  expect(paid.body, paid.text).toMatchObject({ memo: nasty, metadata: { NULL: nasty } })
  expect(
    (await transfer({ ...leg(from, wallet.body.id, 1), memo: nasty, metadata: { NULL: nasty } }, key)).body,
  ).toEqual(paid.body)
  const [entry] = await client.all<{ memo: string }>(`/v1/wallets/${from}/entries`)
  expect(entry?.memo).toBe(nasty)
  const problem: Problem = expectProblem(await client.pay(from, wallet.body.id, 99, { key: `${key} 2` }))
  expect(problem.code).toBe('insufficient_funds')
})
