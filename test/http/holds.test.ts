import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parseTime } from '../../src/core/time.ts'
import { type Api, type Client, type Entry, type Hold, ID, openApi, TIME, type Transfer } from '../support/api.ts'
import { expectProblem } from './problem.ts'

let api: Api
let client: Client

beforeAll(async () => {
  api = await openApi()
  client = api.alpha
})
afterAll(() => api.close())

const capture = (id: string, body: object = {}, key?: string) =>
  client.call<Hold>('POST', `/v1/holds/${id}/capture`, body, key === undefined ? {} : { key })
const release = (id: string, key?: string) =>
  client.call<Hold>('POST', `/v1/holds/${id}/release`, undefined, key === undefined ? {} : { key })
const money = async (id: string) => {
  const { posted, pendingIn, pendingOut, available } = await client.balance(id)
  return { posted, pendingIn, pendingOut, available }
}

describe('a hold', () => {
  test('reserves money and answers 201 with what it did, where it is, and the same when it is read', async () => {
    const [from, to] = [await client.wallet(100), await client.wallet()]
    const answer = await client.hold(from, to, 60, { expiresInSeconds: 3600 })
    expect(answer.status, answer.text).toBe(201)
    expect(answer.headers['location']).toBe(`/v1/holds/${answer.body.id}`)
    expect(answer.body).toEqual({
      id: expect.stringMatching(ID('hld')),
      ...{ walletId: from, to, amount: '60', currency: 'USD', captured: '0', status: 'held' },
      expiresAt: expect.stringMatching(TIME),
    })
    const read = await client.get<Hold>(answer.headers['location'] ?? '')
    expect({ status: read.status, body: read.body }).toEqual({ status: 200, body: answer.body })
    expect(await money(from)).toEqual({ posted: '100', pendingIn: '0', pendingOut: '60', available: '40' })
    expect(await money(to)).toEqual({ posted: '0', pendingIn: '60', pendingOut: '0', available: '0' })
    const [entry] = await client.all<Entry>(`/v1/wallets/${from}/entries`)
    expect((parseTime(answer.body.expiresAt) ?? 0) - (parseTime(entry?.createdAt ?? '') ?? 0)).toBe(3_600_000_000)
  })

  test('lasts a week unless told otherwise', async () => {
    const [from, to] = [await client.wallet(100), await client.wallet()]
    const { body } = await client.hold(from, to, 1)
    const [entry] = await client.all<Entry>(`/v1/wallets/${from}/entries`)
    expect((parseTime(body.expiresAt) ?? 0) - (parseTime(entry?.createdAt ?? '') ?? 0)).toBe(7 * 86_400_000_000)
  })

  test('keeps the money from being spent or held again', async () => {
    const [from, to] = [await client.wallet(100), await client.wallet()]
    await client.hold(from, to, 60)
    expectProblem(await client.pay(from, to, 41), 'insufficient_funds')
    expectProblem(await client.hold(from, to, 41), 'insufficient_funds')
    expectProblem(await client.pay(to, from, 1), 'insufficient_funds')
    expect((await client.hold(from, to, 40)).status).toBe(201)
    expect(await money(from)).toMatchObject({ pendingOut: '100', available: '0' })
  })

  test('is refused for the reasons that a transfer is', async () => {
    const [from, to] = [await client.wallet(100), await client.wallet()]
    const yen = await client.wallet(0, { currency: 'JPY' })
    const nobody = 'wal_00000000000070008000000000000000'
    expectProblem(await client.hold(from, from, 1), 'same_wallet')
    expectProblem(await client.hold(from, yen, 1), 'currency_mismatch')
    expectProblem(await client.hold(nobody, to, 1), 'from_not_found')
    expectProblem(await client.hold(from, nobody, 1), 'to_not_found')
    await client.call('PATCH', `/v1/wallets/${from}`, { limits: { transferMax: '10' } })
    expectProblem(await client.hold(from, to, 11), 'limit_exceeded')
    await client.call('PATCH', `/v1/wallets/${to}`, { limits: { balanceMax: '10' } })
    await client.hold(from, to, 6)
    expectProblem(await client.hold(from, to, 5), 'limit_exceeded')
    await client.call('PATCH', `/v1/wallets/${to}`, { status: 'frozen' })
    const problem = expectProblem(await client.hold(from, to, 1), 'wallet_frozen')
    expect(problem).not.toHaveProperty('transferId')
  })

  test.each(['hld_00000000000070008000000000000000', 'x', 'trf_00000000000070008000000000000000'])(
    'named %s is not there',
    async (id) => {
      expectProblem(await client.get(`/v1/holds/${id}`), 'not_found')
      expectProblem(await capture(id), 'not_found')
      expectProblem(await release(id), 'not_found')
    },
  )

  test.each([0, -1, 1.5, '60', null, true, 366 * 86_400 + 1, 1e300])(
    'cannot expire in %j seconds',
    async (expiresInSeconds) => {
      const [from, to] = [await client.wallet(10), await client.wallet()]
      expectProblem(await client.hold(from, to, 1, { expiresInSeconds }), 'validation_failed')
    },
  )
})

describe('capturing', () => {
  test('takes all that was reserved', async () => {
    const [from, to] = [await client.wallet(100), await client.wallet()]
    const { body: held } = await client.hold(from, to, 60)
    const answer = await capture(held.id)
    expect({ status: answer.status, body: answer.body }).toEqual({
      status: 200,
      body: { ...held, status: 'captured', captured: '60' },
    })
    expect((await client.get(`/v1/holds/${held.id}`)).body).toEqual(answer.body)
    expect(await money(from)).toEqual({ posted: '40', pendingIn: '0', pendingOut: '0', available: '40' })
    expect(await money(to)).toEqual({ posted: '60', pendingIn: '0', pendingOut: '0', available: '60' })
  })

  test('takes a part, and the rest is free again', async () => {
    const [from, to] = [await client.wallet(100), await client.wallet()]
    const { body: held } = await client.hold(from, to, 60)
    expect((await capture(held.id, { amount: '25' })).body).toMatchObject({ amount: '60', captured: '25' })
    expect(await money(from)).toEqual({ posted: '75', pendingIn: '0', pendingOut: '0', available: '75' })
    expect(await money(to)).toEqual({ posted: '25', pendingIn: '0', pendingOut: '0', available: '25' })
  })

  test('cannot take more than was reserved, nor twice, nor what was let go', async () => {
    const [from, to] = [await client.wallet(100), await client.wallet()]
    const { body: held } = await client.hold(from, to, 60)
    expectProblem(await capture(held.id, { amount: '61' }), 'exceeds_hold')
    await capture(held.id, { amount: '1' })
    expectProblem(await capture(held.id, { amount: '1' }), 'hold_already_captured')
    expectProblem(await release(held.id), 'hold_already_captured')
    const { body: other } = await client.hold(from, to, 60)
    await release(other.id)
    expectProblem(await capture(other.id), 'hold_already_released')
    expectProblem(await release(other.id), 'hold_already_released')
    expect(await client.available(to)).toBe(1n)
  })

  test('waits until frozen wallets are active again; letting go does not', async () => {
    const [from, to] = [await client.wallet(100), await client.wallet()]
    const { body: held } = await client.hold(from, to, 60)
    const { body: other } = await client.hold(from, to, 40)
    await client.call('PATCH', `/v1/wallets/${to}`, { status: 'frozen' })
    expectProblem(await capture(held.id), 'wallet_frozen')
    expect((await release(other.id)).status).toBe(200)
    await client.call('PATCH', `/v1/wallets/${to}`, { status: 'active' })
    expect((await capture(held.id)).status).toBe(200)
  })

  test('and releasing at once: one of the two happens', async () => {
    for (let round = 0; round < 5; round++) {
      const [from, to] = [await client.wallet(100), await client.wallet()]
      const { body: held } = await client.hold(from, to, 60)
      const answers = await Promise.all([capture(held.id), release(held.id), capture(held.id), release(held.id)])
      expect(answers.filter(({ status }) => status === 200)).toHaveLength(1)
      const { body } = await client.get<Hold>(`/v1/holds/${held.id}`)
      expect(await client.available(to)).toBe(BigInt(body.captured))
      expect(await money(from)).toMatchObject({ pendingOut: '0', posted: body.status === 'captured' ? '40' : '100' })
    }
  })
})

test('releasing frees what was reserved', async () => {
  const [from, to] = [await client.wallet(100), await client.wallet()]
  const { body: held } = await client.hold(from, to, 60)
  const answer = await release(held.id)
  expect({ status: answer.status, body: answer.body }).toEqual({ status: 200, body: { ...held, status: 'released' } })
  expect(await money(from)).toEqual({ posted: '100', pendingIn: '0', pendingOut: '0', available: '100' })
  expect(await money(to)).toEqual({ posted: '0', pendingIn: '0', pendingOut: '0', available: '0' })
})

test('releasing refuses fields that it does not know, like every other call', async () => {
  const [from, to] = [await client.wallet(100), await client.wallet()]
  const { body: held } = await client.hold(from, to, 60)
  expectProblem(await client.call('POST', `/v1/holds/${held.id}/release`, { amount: '10' }), 'validation_failed')
  expect((await client.get<Hold>(`/v1/holds/${held.id}`)).body.status).toBe('held')
})

test.each([
  ['without one', {}],
  ['without one, though the header says JSON', { headers: { 'content-type': 'application/json' } }],
])('what needs nothing in its body can be sent %s', async (_, options) => {
  const [from, to] = [await client.wallet(100), await client.wallet()]
  const { body: held } = await client.hold(from, to, 60)
  const { body: other } = await client.hold(from, to, 10)
  const { body: paid } = await client.pay(from, to, 1)
  for (const path of [
    `/v1/holds/${held.id}/release`,
    `/v1/holds/${other.id}/capture`,
    `/v1/transfers/${paid.id}/reverse`,
  ]) {
    const answer = await client.call('POST', path, undefined, options)
    expect.soft(answer.status, answer.text).toBeLessThan(300)
  }
})

test('a hold that nobody captured in time expires by itself, and the money is free', async () => {
  const [from, to] = [await client.wallet(100), await client.wallet()]
  const { body: held } = await client.hold(from, to, 60, { expiresInSeconds: 1 })
  let body = held
  for (let i = 0; i < 1_200 && body.status === 'held'; i++) {
    await sleep(50)
    body = (await client.get<Hold>(`/v1/holds/${held.id}`)).body
  }
  expect(body).toEqual({ ...held, status: 'expired' })
  expect(await money(from)).toEqual({ posted: '100', pendingIn: '0', pendingOut: '0', available: '100' })
  expectProblem(await capture(held.id), 'hold_expired')
  expectProblem(await release(held.id), 'hold_expired')
})

test('replays answer what was answered first, whatever became of the hold since', async () => {
  const [from, to] = [await client.wallet(100), await client.wallet()]
  const ask = () =>
    client.call<Hold>('POST', '/v1/holds', { walletId: from, to, amount: '60', currency: 'USD' }, { key: 'h' })
  const held = await ask()
  const captured = await capture(held.body.id, { amount: '10' }, 'c')
  for (const [again, first] of [
    [await ask(), held],
    [await capture(held.body.id, { amount: '10' }, 'c'), captured],
  ] as const) {
    expect(again.headers['idempotency-replayed']).toBe('true')
    expect({ status: again.status, text: again.text }).toEqual({ status: first.status, text: first.text })
  }
  expectProblem(await capture(held.body.id, { amount: '11' }, 'c'), 'idempotency_key_reused')
  expectProblem(await release(held.body.id, 'c'), 'idempotency_key_reused')
  expect(await client.available(to)).toBe(10n)
})

test('the entries of a capture are a transaction that sums to zero on both layers', async () => {
  const [from, to] = [await client.wallet(100), await client.wallet()]
  const { body: held } = await client.hold(from, to, 60)
  await capture(held.id, { amount: '25' })
  const [entry] = await client.all<Entry>(`/v1/wallets/${from}/entries`)
  const { body } = await client.get<{ entries: { layer: string; amount: string }[] } & Transfer>(
    `/v1/transactions/${entry?.transactionId}`,
  )
  expect(body.kind).toBe('capture')
  for (const layer of ['posted', 'pending']) {
    const amounts = body.entries.filter((line) => line.layer === layer).map(({ amount }) => BigInt(amount))
    expect(amounts).toHaveLength(2)
    expect(amounts.reduce((sum, amount) => sum + amount, 0n)).toBe(0n)
  }
})
