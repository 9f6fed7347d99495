import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { Answer, BatchResult, Client, Entry, Hold, Transfer } from '../support/api.ts'
import { createGate, type Trouble } from './gate.ts'
import { openPassage, type Passage } from './passage.ts'
import { expectProblem } from './problem.ts'
import { leg, openShards, type Shards, Story } from './story.ts'

/** How long the app waits for the other shard while that is silent; 8 s where nobody is testing. */
const WAIT_MS = 400
/** How long it waits for what will be over soon, however busy the machine is. It answers nothing by itself for longer than 10 s. */
const PATIENT_WAIT_MS = 9_000
const GIVE_UP_MS = 200
/** Nothing is given up, however long a test takes. */
const NEVER_MS = 3_600_000

const gate = createGate(1)
let patient: Shards
let impatient: Shards

beforeAll(async () => {
  const options = { wrapRouter: gate.wrap, sagaWaitMs: () => (gate.isShut ? WAIT_MS : PATIENT_WAIT_MS) }
  ;[patient, impatient] = await Promise.all([
    openShards(2, { ...options, sagaOptions: { giveUpMs: NEVER_MS } }),
    openShards(2, { ...options, sagaOptions: { giveUpMs: GIVE_UP_MS } }),
  ])
})
afterEach(() => gate.open())
afterAll(() => Promise.all([patient.close(), impatient.close()]))

/** A payer here, a payee on the shard that won't answer. */
async function parties(shards: Shards) {
  const story = await Story.begin(shards, { a: 0, b: 1, c: 0 })
  const [a, b] = [await story.wallet('a', 100), await story.wallet('b')]
  return { story, client: story.client, a, b }
}

const money = async (client: Client, wallet: string) => {
  const { posted, pendingIn, pendingOut } = await client.balance(wallet)
  return { posted, pendingIn, pendingOut }
}
const moved = (posted: number, pendingIn = 0, pendingOut = 0) => ({
  ...{ posted: `${posted}`, pendingIn: `${pendingIn}`, pendingOut: `${pendingOut}` },
})

async function reads<T extends { status: string }>(client: Client, path: string, status: string): Promise<T> {
  let answer = await client.get<T>(path)
  for (let i = 0; i < 2_400 && answer.body.status !== status; i++) {
    await sleep(25)
    answer = await client.get<T>(path)
  }
  expect(answer.body, `${path} within a minute`).toMatchObject({ status })
  return answer.body
}

/** The end of the saga is also known to whoever asks for the same again. */
async function replays<T>(ask: () => Promise<Answer<T>>, status: number): Promise<Answer<T>> {
  const answer = await ask()
  expect({ status: answer.status, replayed: answer.headers['idempotency-replayed'] }, answer.text).toEqual({
    ...{ status, replayed: 'true' },
  })
  return answer
}

describe('while the shard of the payee does not answer', () => {
  test.each<Trouble>(['silent', 'unavailable', 'lost answers'])(
    'a transfer is pending, and completed when it answers again (%s)',
    async (trouble) => {
      const { story, client, a, b } = await parties(patient)
      const c = await story.wallet('c')
      const ask = () => client.pay(a, b, 30, { key: 'k' })
      gate.shut(trouble)
      const answer = await ask()
      expect(answer.status, answer.text).toBe(202)
      const path = `/v1/transfers/${answer.body.id}`
      expect(answer.headers['location']).toBe(path)
      expect(answer.body).toMatchObject({ ...leg(a, b, 30), status: 'pending', kind: 'transfer', completedAt: null })
      expect((await client.get(path)).body).toEqual(answer.body)
      const again = await replays(ask, 202)
      expect(again.body).toEqual(answer.body)
      expectProblem(await client.pay(a, b, 31, { key: 'k' }), 'idempotency_key_reused')
      expect(await money(client, a)).toEqual(moved(100, 0, 30))
      expectProblem(await client.pay(a, c, 71), 'insufficient_funds')
      const entries = await client.all<Entry>(`/v1/wallets/${a}/entries`)
      expect(entries.map(({ kind }) => kind)).toEqual(['top-up'])

      gate.open()
      const done = await reads<Transfer>(client, path, 'completed')
      expect(done).toEqual({ ...answer.body, status: 'completed', completedAt: expect.any(String) })
      const replay = await replays(ask, 201)
      expect({ body: replay.body, location: replay.headers['location'] }).toEqual({ body: done, location: path })
      expect([await money(client, a), await money(client, b)]).toEqual([moved(70), moved(30)])
      await story.end()
    },
  )

  test('a transfer of several legs and an item of a batch are pending too, what stays on one shard is not', async () => {
    const { story, client, a, b } = await parties(patient)
    const c = await story.wallet('c', 10)
    const split = () =>
      client.call<Transfer>('POST', '/v1/transfers', { legs: [leg(a, b, 5), leg(c, b, 5)] }, { key: 's' })
    const transfers = [
      { ...leg(a, b, 10), idempotencyKey: '1' },
      { ...leg(a, c, 10), idempotencyKey: '2' },
      { ...leg(a, c, 1_000), idempotencyKey: '3' },
    ]
    const batch = () =>
      client.call<{ results: BatchResult[] }>('POST', '/v1/transfers/batch', { transfers }, { key: null })
    const shown = ({ body }: Answer<{ results: BatchResult[] }>) =>
      body.results.map(({ status, replayed, transfer, problem }) => [
        status,
        replayed,
        transfer?.status ?? problem?.code,
      ])
    gate.shut('silent')
    const [answer, first] = await Promise.all([split(), batch()])
    expect([answer.status, answer.body.status]).toEqual([202, 'pending'])
    expect(shown(first)).toEqual([
      [202, false, 'pending'],
      [201, false, 'completed'],
      [422, false, 'insufficient_funds'],
    ])
    gate.open()
    await reads(client, `/v1/transfers/${answer.body.id}`, 'completed')
    await reads(client, `/v1/transfers/${first.body.results[0]?.transfer?.id}`, 'completed')
    expect(shown(await batch())).toEqual([
      [201, true, 'completed'],
      [201, true, 'completed'],
      [422, true, 'insufficient_funds'],
    ])
    await replays(split, 201)
    expect([await money(client, a), await money(client, b)]).toEqual([moved(75), moved(20)])
    await story.end()
  })

  test('a hold, its capture and its release are under way, and done when it answers again', async () => {
    const { story, client, a, b } = await parties(patient)
    const place = () =>
      client.call<Hold>('POST', '/v1/holds', { walletId: a, to: b, amount: '60', currency: 'USD' }, { key: 'h' })
    gate.shut('silent')
    const held = await place()
    const path = `/v1/holds/${held.body.id}`
    expect([held.status, held.headers['location'], held.body.status]).toEqual([202, path, 'pending'])
    expect((await client.get(path)).body).toEqual(held.body)
    expectProblem(await client.call('POST', `${path}/capture`, {}), 'request_in_flight')
    expect((await replays(place, 202)).body).toEqual(held.body)
    gate.open()
    await reads(client, path, 'held')
    expect((await replays(place, 201)).body).toEqual({ ...held.body, status: 'held' })
    expect([await money(client, a), await money(client, b)]).toEqual([moved(100, 0, 60), moved(0, 60)])

    gate.shut('silent')
    const take = () => client.call<Hold>('POST', `${path}/capture`, { amount: '25' }, { key: 'c' })
    const captured = await take()
    expect([captured.status, captured.headers['location'], captured.body.status]).toEqual([202, path, 'held'])
    expectProblem(await client.call('POST', `${path}/release`, {}), 'request_in_flight')
    gate.open()
    const done = await reads<Hold>(client, path, 'captured')
    expect((await replays(take, 200)).body).toEqual(done)
    expect([await money(client, a), await money(client, b)]).toEqual([moved(75), moved(25)])

    const { body: other } = await client.hold(a, b, 50)
    gate.shut('silent')
    const drop = () => client.call<Hold>('POST', `/v1/holds/${other.id}/release`, {}, { key: 'r' })
    const released = await drop()
    expect([released.status, released.body.status]).toEqual([202, 'released'])
    expect([await money(client, a), await money(client, b)]).toEqual([moved(75), moved(25, 50)])
    gate.open()
    await expect.poll(() => money(client, b), { timeout: 60_000 }).toEqual(moved(25))
    await expect.poll(async () => (await drop()).status, { timeout: 60_000 }).toBe(200)
    expect((await replays(drop, 200)).body).toEqual({ ...other, status: 'released' })
    await story.end()
  })

  test('a reversal is pending, and another has to wait for it', async () => {
    const { story, client, a, b } = await parties(patient)
    const { body: paid } = await client.pay(a, b, 60)
    const reverse = (body: object, key: string) =>
      client.call<Transfer>('POST', `/v1/transfers/${paid.id}/reverse`, body, { key })
    gate.shut('silent')
    const answer = await reverse({ amount: '40' }, 'r')
    expect([answer.status, answer.body.status, answer.body.reverses]).toEqual([202, 'pending', paid.id])
    expectProblem(await reverse({ amount: '21' }, 'more'), 'exceeds_reversible')
    gate.open()
    await reads(client, `/v1/transfers/${answer.body.id}`, 'completed')
    await replays(() => reverse({ amount: '40' }, 'r'), 201)
    expect([await money(client, a), await money(client, b)]).toEqual([moved(80), moved(20)])
    const { body: pending } = await inSilence(() => client.pay(a, b, 1))
    expectProblem(
      await inSilence(() => client.call('POST', `/v1/transfers/${pending.id}/reverse`, {})),
      'request_in_flight',
    )
    gate.open()
    await reads(client, `/v1/transfers/${pending.id}`, 'completed')
    await story.end()
  })
})

test('when all tries were in vain, pending transfers, captures and reversals are taken up again later', async () => {
  const { story, client, a, b } = await parties(patient)
  const { body: held } = await client.hold(a, b, 20)
  const { body: paid } = await client.pay(a, b, 10)
  gate.shut('unavailable')
  const asks = [
    () => client.pay(a, b, 30, { key: 'k' }),
    () => client.call<Hold>('POST', `/v1/holds/${held.id}/capture`, {}, { key: 'c' }),
    () => client.call<Transfer>('POST', `/v1/transfers/${paid.id}/reverse`, {}, { key: 'r' }),
  ]
  for (const { status } of await Promise.all(asks.map((ask) => ask()))) expect(status).toBe(202)
  // The first of them has been left for the recovery.
  await expect.poll(() => patient.api.sagas.inFlight, { timeout: 60_000, interval: 10 }).toBeLessThan(asks.length)
  gate.open()
  await expect.poll(() => money(client, b), { timeout: 60_000 }).toEqual(moved(50))
  await expect.poll(() => money(client, a), { timeout: 60_000 }).toEqual(moved(50))
  const statuses = await Promise.all(asks.map(async (ask) => (await ask()).status))
  expect(statuses).toEqual([201, 200, 201])
  await story.end()
})

test('a transfer to a database that cannot be reached is pending, and completed when it can', async () => {
  const passages: Passage[] = []
  let isCut = false
  const options = { sagaWaitMs: () => (isCut ? WAIT_MS : PATIENT_WAIT_MS), sagaOptions: { giveUpMs: NEVER_MS } }
  const own = await openShards(2, options, async (url, shard) => {
    if (shard === 0) return url
    const passage = await openPassage(url)
    passages.push(passage)
    return passage.urlOf(url)
  })
  try {
    const { story, client, a, b } = await parties(own)
    expect((await client.pay(a, b, 1)).status).toBe(201)
    for (const passage of passages) passage.cut()
    isCut = true
    const { status, body } = await client.pay(a, b, 30)
    expect([status, body.status]).toEqual([202, 'pending'])
    for (const passage of passages) passage.reopen()
    isCut = false
    await reads(client, `/v1/transfers/${body.id}`, 'completed')
    expect([await money(client, a), await money(client, b)]).toEqual([moved(69), moved(31)])
    await story.end()
  } finally {
    await own.close()
    for (const passage of passages) await passage.close()
  }
})

describe('when the shard of the payee has not answered for too long', () => {
  /** The money is on its way, and does not arrive; what it then is told is `cancel`. */
  const late = ['saga-commit', 'saga-reserve'] as const

  test('a transfer is compensated: nothing moved, and its key says so from then on', async () => {
    const { story, client, a, b } = await parties(impatient)
    const ask = () => client.pay(a, b, 30, { key: 'k' })
    gate.shut('silent')
    const { status, body } = await ask()
    expect([status, body.status]).toEqual([202, 'pending'])
    await untilGivenUp()
    gate.open() // what came last goes first: the cancel
    const path = `/v1/transfers/${body.id}`
    const compensated = { ...body, status: 'compensated', refusal: 'shard_unavailable' }
    expect(await reads(client, path, 'compensated')).toEqual(compensated)
    const problem = expectProblem(await replays<unknown>(ask, 422), 'shard_unavailable')
    expect(problem.transferId).toBe(body.id)
    expect([await money(client, a), await money(client, b)]).toEqual([moved(100), moved(0)])
    expectProblem(await client.call('POST', `${path}/reverse`, {}), 'transfer_not_found')
    expect((await client.pay(a, b, 30)).status).toBe(201)
    await story.end()
  })

  test('the caller who still waits is told so, alone or in a batch', async () => {
    const { story, client, a, b } = await parties(impatient)
    gate.shut('silent', late)
    const item = () =>
      client.call(
        'POST',
        '/v1/transfers/batch',
        { transfers: [{ ...leg(a, b, 1), idempotencyKey: 'i' }] },
        { key: null },
      )
    const legs = { legs: [leg(a, b, 1), leg(b, a, 1)] }
    const [alone, split, batch] = await Promise.all([
      client.pay(a, b, 1),
      client.call('POST', '/v1/transfers', legs),
      item(),
    ])
    expectProblem(alone, 'shard_unavailable')
    expectProblem(split, 'shard_unavailable')
    const problem = { status: 422, problem: { code: 'shard_unavailable', transferId: expect.any(String) } }
    expect(batch.body).toMatchObject({ results: [{ ...problem, replayed: false }] })
    expect((await item()).body).toMatchObject({ results: [{ ...problem, replayed: true }] })
    gate.open() // the money arrives after all, too late
    await sleep(100)
    expect([await money(client, a), await money(client, b)]).toEqual([moved(100), moved(0)])
    await story.end()
  })

  test('a hold comes to nothing; a capture leaves the hold as it was; a release is never given up', async () => {
    const { story, client, a, b } = await parties(impatient)
    const { body: held } = await client.hold(a, b, 60)
    gate.shut('silent', late)
    expectProblem(await client.hold(a, b, 10), 'shard_unavailable')
    const take = () => client.call<Hold>('POST', `/v1/holds/${held.id}/capture`, {}, { key: 'c' })
    expectProblem(await take(), 'shard_unavailable')
    expect((await client.get(`/v1/holds/${held.id}`)).body).toEqual(held)
    expect([await money(client, a), await money(client, b)]).toEqual([moved(100, 0, 60), moved(0, 60)])
    gate.open()
    expectProblem(await replays<unknown>(take, 422), 'shard_unavailable')
    expect((await client.call('POST', `/v1/holds/${held.id}/capture`, { amount: '20' })).status).toBe(200)
    expect([await money(client, a), await money(client, b)]).toEqual([moved(80), moved(20)])

    const { body: other } = await client.hold(a, b, 50)
    const released = await inSilence(() => client.call('POST', `/v1/holds/${other.id}/release`, {}))
    expect(released.status).toBe(202)
    await sleep(2 * GIVE_UP_MS)
    gate.open()
    await expect.poll(() => money(client, b), { timeout: 60_000 }).toEqual(moved(20))
    expect(await money(client, a)).toEqual(moved(80))
    await story.untilAtRest()
    await story.end()
  })

  test('a hold that was answered with 202 then reads `refused`, and cannot be ended', async () => {
    const { story, client, a, b } = await parties(impatient)
    const ask = () =>
      client.call<Hold>('POST', '/v1/holds', { walletId: a, to: b, amount: '60', currency: 'USD' }, { key: 'h' })
    const { status, body } = await inSilence(ask)
    expect([status, body.status]).toEqual([202, 'pending'])
    await untilGivenUp()
    gate.open()
    const path = `/v1/holds/${body.id}`
    expect(await reads(client, path, 'refused')).toEqual({ ...body, status: 'refused' })
    expectProblem(await replays<unknown>(ask, 422), 'shard_unavailable')
    for (const what of ['capture', 'release']) {
      expectProblem(await client.call('POST', `${path}/${what}`, {}), 'hold_not_found')
    }
    expect((await client.all<Entry>(`/v1/wallets/${a}/entries`)).map(({ kind }) => kind)).toEqual(['top-up'])
    expect([await money(client, a), await money(client, b)]).toEqual([moved(100), moved(0)])
    await story.end()
  })

  test('a reversal is compensated, and may be asked again', async () => {
    const { story, client, a, b } = await parties(impatient)
    const { body: paid } = await client.pay(a, b, 60)
    const reverse = (key: string) => client.call<Transfer>('POST', `/v1/transfers/${paid.id}/reverse`, {}, { key })
    gate.shut('silent', late)
    expectProblem(await reverse('r'), 'shard_unavailable')
    expect((await client.get(`/v1/transfers/${paid.id}`)).body).toEqual(paid)
    gate.open()
    expectProblem(await replays<unknown>(() => reverse('r'), 422), 'shard_unavailable')
    expect((await reverse('again')).status).toBe(201)
    expect([await money(client, a), await money(client, b)]).toEqual([moved(100), moved(0)])
    await story.end()
  })
})

/** The caller may have been told that it is pending before that. */
async function untilGivenUp(): Promise<void> {
  await expect.poll(() => gate.kept).toContain('saga-cancel')
}

async function inSilence<T>(ask: () => Promise<T>): Promise<T> {
  gate.shut('silent')
  return await ask()
}
