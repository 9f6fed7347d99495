import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { type Answer, type Api, type Client, openApi, type Transfer } from '../support/api.ts'
import { migratedDatabase } from '../support/database.ts'
import { expectProblem } from './problem.ts'

const ASYNC = { prefer: 'respond-async' }

/** A node that takes requests in, on two shards. */
let taking: Api
let urls: string[]
/** Another one that posts them, while one is there. */
let posting: Api | undefined

beforeAll(async () => {
  urls = [await migratedDatabase(), await migratedDatabase()]
  taking = await openApi({ url: urls[0] ?? '', moreUrls: urls.slice(1), async: { works: false } })
})
afterAll(async () => {
  await posting?.close()
  await taking.close()
})

async function startPosting(): Promise<void> {
  posting ??= await openApi({ url: urls[0] ?? '', moreUrls: urls.slice(1), async: { works: true } })
}
async function stopPosting(): Promise<void> {
  await posting?.close()
  posting = undefined
}

/** What a transfer comes to once it is posted. */
async function settled(client: Client, id: string): Promise<Answer<Transfer>> {
  for (let i = 0; i < 2_400; i++) {
    const answer = await client.get<Transfer>(`/v1/transfers/${id}`)
    if (answer.status !== 202 && answer.body.status !== 'pending') return answer
    await sleep(25)
  }
  throw new Error(`${id} was not posted within a minute`)
}

const pay = (from: string, to: string, amount: number, key: string = randomUUID()) =>
  taking.alpha.pay(from, to, amount, { key, headers: ASYNC })

describe('a transfer that is asked for with respond-async', () => {
  test('is accepted at once, pending until it is posted, then completed; ten retries get the same answer, and one effect', async () => {
    await stopPosting()
    const { alpha, beta } = taking
    const [from, to] = [await alpha.wallet(100), await alpha.wallet()]
    const key = randomUUID()
    const body = { from, to, amount: '30', currency: 'USD', memo: 'rent', metadata: { b: '2', a: '1' } }
    const ask = () => alpha.call<Transfer>('POST', '/v1/transfers', body, { key, headers: ASYNC })
    const answers = await Promise.all(Array.from({ length: 10 }, ask))
    const [first] = answers
    if (!first) throw new Error('no answer')
    expect(first.status, first.text).toBe(202)
    expect(first.headers).toMatchObject({ 'preference-applied': 'respond-async', vary: 'Prefer' })
    const { id } = first.body
    expect(first.headers['location']).toBe(`/v1/transfers/${id}`)
    expect(first.body).toEqual({
      ...{ id, ...body, status: 'pending', kind: 'transfer', createdAt: null, completedAt: null },
    })
    for (const { status, text, headers } of answers) {
      expect({ status, text, location: headers['location'] }).toEqual({
        status: 202,
        text: first.text,
        location: first.headers['location'],
      })
    }
    const waiting = await alpha.get(`/v1/transfers/${id}`)
    expect(waiting.status).toBe(202)
    expect(waiting.body).toEqual({ id, status: 'pending' })
    expect(waiting.headers['retry-after']).toBe('1')
    expect((await beta.get(`/v1/transfers/${id}`)).status).toBe(404)
    expect(await alpha.available(from)).toBe(100n)

    await startPosting()
    const { status, body: posted } = await settled(alpha, id)
    expect(status).toBe(200)
    expect(posted).toMatchObject({ ...body, id, status: 'completed', kind: 'transfer' })
    // Between shards it is completed a moment later.
    expect(`${posted.completedAt}` >= posted.createdAt).toBe(true)
    expect(await ask()).toMatchObject({ status: 202, text: first.text })
    // Who waits after all gets what is there.
    const waited = await alpha.call<Transfer>('POST', '/v1/transfers', body, { key })
    expect(waited.status).toBe(201)
    expect(waited.headers['idempotency-replayed']).toBe('true')
    expect(waited.body.id).toBe(id)
    expect([await alpha.available(from), await alpha.available(to)]).toEqual([70n, 30n])
    expect((await alpha.get(`/v1/transactions/txn_${id.slice(4)}`)).status).toBe(200)
  })

  test('can be refused later', async () => {
    await startPosting()
    const [from, to] = [await taking.alpha.wallet(10), await taking.alpha.wallet()]
    const { body } = await pay(from, to, 11)
    const { status, body: refused } = await settled(taking.alpha, body.id)
    expect({ status, refused }).toMatchObject({
      status: 200,
      refused: { status: 'refused', refusal: 'insufficient_funds', amount: '11' },
    })
  })

  test('goes between shards', async () => {
    await startPosting()
    const { alpha } = taking
    const wallets: string[] = []
    const of = (shard: number) => wallets.filter((id) => taking.router.shardOf(id.slice(4)) === shard)
    while (of(0).length === 0 || of(1).length === 0) wallets.push(await alpha.wallet(100))
    const [from = '', to = ''] = [of(0)[0], of(1)[0]]
    const { body } = await pay(from, to, 40)
    expect((await settled(alpha, body.id)).body).toMatchObject({ status: 'completed', from, to, amount: '40' })
    expect([await alpha.available(from), await alpha.available(to)]).toEqual([60n, 140n])
  })

  test('whose key was used for the same at once, shows that one', async () => {
    await startPosting()
    const { alpha } = taking
    const [from, to] = [await alpha.wallet(100), await alpha.wallet()]
    const key = randomUUID()
    const { body: posted } = await alpha.pay(from, to, 5, { key })
    const { status, body } = await pay(from, to, 5, key)
    expect(status).toBe(202)
    expect(body.id).not.toBe(posted.id)
    expect((await settled(alpha, body.id)).body).toEqual(posted)
    expect(await alpha.available(to)).toBe(5n)
    expect((await taking.beta.get(`/v1/transfers/${body.id}`)).status).toBe(404)
  })

  test('whose key was used for another, is refused', async () => {
    await startPosting()
    const { alpha } = taking
    const [from, to] = [await alpha.wallet(100), await alpha.wallet()]
    const key = randomUUID()
    const [one, other] = [await pay(from, to, 5, key), await pay(from, to, 6, key)]
    expect([one.status, other.status]).toEqual([202, 202])
    expect(one.body.id).not.toBe(other.body.id)
    const ends = [(await settled(alpha, one.body.id)).body, (await settled(alpha, other.body.id)).body]
    expect(ends.map(({ status }) => status).sort()).toEqual(['completed', 'refused'])
    const refused = ends.find(({ status }) => status === 'refused')
    expect(refused).toMatchObject({ refusal: 'idempotency_key_reused', from, to, completedAt: null, kind: 'transfer' })
    const completed = ends.find(({ status }) => status === 'completed')
    expect(await alpha.available(to)).toBe(BigInt(completed?.amount ?? 0))
    // To reverse it makes no more sense than to reverse any other that was refused.
    const reversed = await alpha.call('POST', `/v1/transfers/${refused?.id}/reverse`, {})
    expectProblem(reversed, 'transfer_not_found')
  })

  test('is told what is wrong with it at once, and is not queued', async () => {
    const queued = () => taking.query('SELECT FROM queued_requests WHERE dead_us IS NULL')
    // What was posted is taken out of the queue a moment later.
    await startPosting()
    await expect.poll(queued).toEqual([])
    await stopPosting()
    const { alpha } = taking
    const wallet = await alpha.wallet()
    const bad = await alpha.call('POST', '/v1/transfers', { from: wallet }, { headers: ASYNC })
    expectProblem(bad, 'validation_failed')
    const keyless = await alpha.call(
      'POST',
      '/v1/top-ups',
      { walletId: wallet, amount: '5', currency: 'USD' },
      { headers: ASYNC, key: null },
    )
    expectProblem(keyless, 'idempotency_key_missing')
    const readOnly = taking.as(await taking.keyWith('wallets:read'))
    expectProblem(await readOnly.pay(wallet, wallet, 5, { headers: ASYNC }), 'forbidden')
    expect(await queued()).toEqual([])
  })
})

test('top-ups, withdrawals, transfers of several legs and reversals can be asked for so too', async () => {
  await startPosting()
  const { alpha } = taking
  const [a, b, c] = [await alpha.wallet(), await alpha.wallet(), await alpha.wallet()]
  const ask = async (path: string, body: object) => {
    const answer = await alpha.call<Transfer>('POST', path, body, { headers: ASYNC })
    expect(answer.status, answer.text).toBe(202)
    const end = await settled(alpha, answer.body.id)
    expect(end.body).toMatchObject({ id: answer.body.id, status: 'completed', kind: answer.body.kind })
    return end.body
  }
  const topUp = await ask('/v1/top-ups', { walletId: a, amount: '100', currency: 'USD', source: 'card' })
  expect(topUp).toMatchObject({ to: a, from: null, amount: '100', reference: 'card' })
  const leg = (to: string) => ({ from: a, to, amount: '20', currency: 'USD' })
  const legs = await ask('/v1/transfers', { legs: [leg(b), leg(c)] })
  expect(legs.legs).toEqual([leg(b), leg(c)])
  await ask('/v1/withdrawals', { walletId: b, amount: '5', currency: 'USD' })
  const paid = await ask('/v1/transfers', leg(b))
  const reversal = await ask(`/v1/transfers/${paid.id}/reverse`, { amount: '7' })
  expect(reversal).toMatchObject({ reverses: paid.id, amount: '7', from: b, to: a })
  expect([await alpha.available(a), await alpha.available(b), await alpha.available(c)]).toEqual([47n, 28n, 20n])
})

test('what waits to be posted can not be reversed yet; what there is not, not at all', async () => {
  await stopPosting()
  const { alpha } = taking
  const [from, to] = [await alpha.wallet(10), await alpha.wallet()]
  const { body } = await pay(from, to, 5)
  expectProblem(await alpha.call('POST', `/v1/transfers/${body.id}/reverse`, {}), 'request_in_flight')
  expectProblem(
    await alpha.call('POST', `/v1/transfers/${body.id}/reverse`, {}, { headers: ASYNC }),
    'request_in_flight',
  )
  const unknown = `trf_${'0197c2a4'.repeat(4)}`
  expectProblem(await alpha.call('POST', `/v1/transfers/${unknown}/reverse`, {}, { headers: ASYNC }), 'not_found')
  expectProblem(await alpha.get(`/v1/transfers/${unknown}`), 'not_found')
})

test('a batch is accepted item by item, in order, and posted', async () => {
  await stopPosting()
  const { alpha } = taking
  const [from, to] = [await alpha.wallet(1_000_000), await alpha.wallet()]
  const transfers = Array.from({ length: 200 }, (_, i) => ({
    ...{ idempotencyKey: `batch-${i % 150}-${from}`, from, to, amount: `${1 + (i % 150)}`, currency: 'USD' },
  }))
  const answer = await alpha.call<{ results: { status: number; replayed: boolean; transfer: Transfer }[] }>(
    'POST',
    '/v1/transfers/batch',
    { transfers },
    { headers: ASYNC, key: null },
  )
  expect(answer.status, answer.text).toBe(202)
  expect(answer.headers['preference-applied']).toBe('respond-async')
  const { results } = answer.body
  expect(results.map(({ status, transfer }) => [status, transfer.status, transfer.amount])).toEqual(
    transfers.map(({ amount }) => [202, 'pending', amount]),
  )
  expect(new Set(results.map(({ transfer }) => transfer.id)).size).toBe(150)
  await startPosting()
  for (const { transfer } of results) expect((await settled(alpha, transfer.id)).body.status).toBe('completed')
  expect(await alpha.available(to)).toBe(BigInt((150 * 151) / 2))
})

describe('the preference', () => {
  test.each([
    ['respond-async', 202],
    ['Respond-Async', 202],
    ['wait=10, respond-async', 202],
    ['respond-async; foo="a, b", handling=lenient', 202],
    ['foo="x, respond-async", respond-async=""', 202],
    ['respond-sync', 201],
    ['foo="respond-async"', 201],
    ['foo="a, respond-async"', 201],
    ['x-respond-async, respond-async-later', 201],
    ['return=minimal', 201],
    ['', 201],
  ])('%s is answered with %i', async (prefer, status) => {
    const answer = await taking.alpha.call(
      'POST',
      '/v1/top-ups',
      { walletId: await taking.alpha.wallet(), amount: '5', currency: 'USD' },
      { headers: { prefer } },
    )
    expect(answer.status, answer.text).toBe(status)
    expect(answer.headers['preference-applied']).toBe(status === 202 ? 'respond-async' : undefined)
  })

  test('is ignored where there is nothing to put off, and by a node that has no queue', async () => {
    const { alpha } = taking
    const opened = await alpha.call('POST', '/v1/wallets', { holderId: 'h', currency: 'USD' }, { headers: ASYNC })
    expect(opened.status).toBe(201)
    const [from, to] = [await alpha.wallet(100), await alpha.wallet()]
    const held = await alpha.call(
      'POST',
      '/v1/holds',
      { walletId: from, to, amount: '5', currency: 'USD' },
      { headers: ASYNC },
    )
    expect(held.status).toBe(201)
    expect((await alpha.get(`/v1/wallets/${from}`, ASYNC)).status).toBe(200)
    const queueless = await openApi()
    onTestFinished(() => queueless.close())
    const [payer, payee] = [await queueless.alpha.wallet(100), await queueless.alpha.wallet()]
    expect((await queueless.alpha.pay(payer, payee, 5, { headers: ASYNC })).status).toBe(201)
  })
})
