import { fork } from 'node:child_process'
import { once } from 'node:events'
import type { ServerResponse } from 'node:http'
import { createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { Tx } from '../../src/postgres/connect.ts'
import { LEASE_MS } from '../../src/webhooks/dispatcher.ts'
import { KEPT_US, KEYS_KEPT_US, startPruning } from '../../src/webhooks/pruning.ts'
import { sign } from '../../src/webhooks/signature.ts'
import { listDeliveries } from '../../src/webhooks/sql/deliveries.ts'
import { pruneWebhooks } from '../../src/webhooks/sql/prune.ts'
import { FAILING_US_MAX, SLOW_US } from '../../src/webhooks/sql/recordAttempt.ts'
import { type Call, openReceiver } from './receiver.ts'
import { allAre, openStage, type Stage } from './stage.ts'

const HOUR_MS = 3_600_000
/** On a busy machine no call takes longer by itself, and none is slow. */
const PATIENT = { callMsMax: 200_000, slowMs: 100_000 }
const NOT_CALLED = 'not called: its host leads to no address that can be called'
const NO_ANSWER = 'there was no answer in time'

const endpointOf = (stage: Stage, id: string) => stage.endpoints.find(stage.tenantId, id)

/** The signature that a call should have, of those secrets. */
const signatureOf = ({ headers, body }: Call, ...secrets: string[]) =>
  sign(secrets, { id: `${headers['webhook-id']}`, timestamp: Number(headers['webhook-timestamp']), body })

describe('a delivery', () => {
  it('is a POST of type, timestamp and data as JSON, signed as Standard Webhooks says', async () => {
    const stage = await openStage()
    const receiver = await openReceiver()
    const { secret } = await stage.listen(`${receiver.url}?a=b`)
    const timeUs = Date.parse('2126-01-02T03:04:05Z') * 1000 + 678_901
    const data = { text: 'ü "quoted" \u0000 \ud800 \n', amount: '1250' }
    await stage.happen({ timeUs, data })
    stage.dispatch()
    const [call] = await receiver.called(1)
    if (!call) throw new Error('not called')
    expect(call.path).toBe('/hook?a=b')
    expect(JSON.parse(call.body)).toEqual({
      type: 'transaction.posted',
      timestamp: '2126-01-02T03:04:05.678901Z',
      data,
    })
    expect(call.headers).toMatchObject({
      host: `127.0.0.1:${receiver.port}`,
      'content-type': 'application/json',
      'user-agent': 'Zerosum-Webhooks/1',
      'webhook-id': expect.stringMatching(/^msg_[0-9a-f]{32}$/),
      'webhook-timestamp': `${Math.floor(stage.clock.nowMs / 1000)}`,
      'webhook-signature': signatureOf(call, secret),
    })
    const [row] = await stage.deliveries(allAre('delivered'))
    expect(row).toMatchObject({ attempts: 1, is_taken: false })
    expect(await stage.attempts()).toEqual([{ number: 1, status_code: 204, error: null, response: '' }])
  })

  it('has the same id at every attempt and to every endpoint, and a timestamp and a signature of its own', async () => {
    const stage = await openStage()
    const receiver = await openReceiver((answer, _call, number) => answer.writeHead(number === 1 ? 500 : 200).end())
    const other = await openReceiver()
    const { secret } = await stage.listen(receiver.url)
    const { secret: otherSecret } = await stage.listen(other.url)
    await stage.happen({})
    stage.dispatch()
    await receiver.called(1)
    await stage.deliveries((rows) => rows.every(({ is_taken, attempts }) => attempts === 1 && !is_taken))
    stage.clock.nowMs += 60_000
    const [first, second] = await receiver.called(2)
    const [elsewhere] = await other.called(1)
    if (!first || !second || !elsewhere) throw new Error('not called')
    expect(second.headers['webhook-id']).toBe(first.headers['webhook-id'])
    expect(elsewhere.headers['webhook-id']).toBe(first.headers['webhook-id'])
    expect(second.body).toBe(first.body)
    expect(Number(second.headers['webhook-timestamp'])).toBe(Number(first.headers['webhook-timestamp']) + 60)
    expect(first.headers['webhook-signature']).toBe(signatureOf(first, secret))
    expect(second.headers['webhook-signature']).toBe(signatureOf(second, secret))
    expect(elsewhere.headers['webhook-signature']).toBe(signatureOf(elsewhere, otherSecret))
  })

  it('is signed with the old secret and the new one while they overlap, then with the new one', async () => {
    const stage = await openStage()
    const receiver = await openReceiver()
    const { id, secret } = await stage.listen(receiver.url)
    const rotate = async (overlapSeconds: number) => {
      const { secret: made = '' } = await stage.endpoints.change(stage.tenantId, id, {
        rotateSecret: { overlapSeconds },
      })
      return made
    }
    stage.dispatch()
    const next = async () => {
      await stage.happen({})
      const calls = await receiver.called(receiver.calls.length + 1)
      return calls.at(-1) as Call
    }
    const second = await rotate(3_600)
    const both = await next()
    expect(both.headers['webhook-signature']).toBe(signatureOf(both, second, secret))
    const third = await rotate(7_200)
    const all = await next()
    expect(all.headers['webhook-signature'], 'who did not hear of the second goes on with the first').toBe(
      signatureOf(all, third, second, secret),
    )
    stage.clock.nowMs += 5_000_000
    const later = await next()
    expect(later.headers['webhook-signature']).toBe(signatureOf(later, third, second))
    const last = await rotate(0)
    const alone = await next()
    expect(alone.headers['webhook-signature'], 'a leaked secret is done with at once').toBe(signatureOf(alone, last))
  })

  it('is tried ten times over three days, then dead; what went wrong is kept', async () => {
    const stage = await openStage()
    const receiver = await openReceiver((answer, _call, number) =>
      answer.writeHead(500).end(`sorry ${number}\u0000${'x'.repeat(5_000)}`),
    )
    await stage.listen(receiver.url)
    await stage.happen({})
    stage.dispatch()
    const began = stage.clock.nowMs
    for (let attempt = 1; attempt < 10; attempt++) {
      const [row] = await stage.deliveries(([row]) => row?.attempts === attempt && !row.is_taken)
      stage.clock.nowMs = Math.ceil((row?.due_us ?? 0) / 1000)
    }
    const [row] = await stage.deliveries(allAre('dead'))
    expect(row?.attempts).toBe(10)
    expect(stage.clock.nowMs - began).toBeGreaterThan(75 * HOUR_MS)
    const attempts = await stage.attempts()
    expect(attempts.map(({ number }) => number)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    for (const { number, status_code, response } of attempts) {
      expect(status_code).toBe(500)
      expect(response).toHaveLength(1_024)
      expect(response).toMatch(new RegExp(`^sorry ${number}\ufffdxxx`))
    }
    stage.clock.nowMs += 100 * HOUR_MS
    await sleep(200)
    expect(receiver.calls).toHaveLength(10)
  })

  it('is not made along a redirect', async () => {
    const stage = await openStage()
    const secretPlace = await openReceiver()
    const receiver = await openReceiver((answer) => answer.writeHead(307, { location: secretPlace.url }).end())
    await stage.listen(receiver.url)
    await stage.happen({})
    stage.dispatch()
    const [row] = await stage.deliveries(([row]) => row?.attempts === 1 && !row.is_taken)
    expect(row?.status).toBe('pending')
    expect(await stage.attempts()).toMatchObject([{ status_code: 307 }])
    expect(secretPlace.calls).toEqual([])
  })

  it.each([
    ['nobody listens', async () => 'http://127.0.0.1:9/', 'the connection was refused'],
    [
      'the connection is closed',
      async () => (await openReceiver((_answer, _call, _number, request) => request.socket.destroy())).url,
      'the connection failed (ECONNRESET)',
    ],
    ['there is no answer', async () => (await openReceiver(() => {})).url, NO_ANSWER],
    ['the answer is not HTTP', () => rawServer('hello\r\n\r\n'), 'the answer is not HTTP'],
    ['headers do not end', () => rawServer(`HTTP/1.1 200 OK\r\nx: ${'x'.repeat(100_000)}`), 'the answer is not HTTP'],
    ['the name has no address', async () => 'http://nothing.invalid/', NOT_CALLED],
  ])('fails, and says why, when %s', async (_name, url, error) => {
    const stage = await openStage({ allowPrivate: true, resolve: async () => ['127.0.0.1'] })
    await stage.listen(await url())
    await stage.happen({})
    const callMsMax = error === NO_ANSWER ? 500 : PATIENT.callMsMax
    stage.dispatch({ callMsMax, rules: { allowPrivate: true, resolve: async () => [] } })
    await stage.deliveries(([row]) => row?.attempts === 1 && !row.is_taken)
    expect(await stage.attempts()).toEqual([{ number: 1, status_code: null, error, response: null }])
  })

  it('counts by its status, though the body of the answer does not end', async () => {
    const stage = await openStage()
    const receiver = await openReceiver((answer) => answer.writeHead(200).write('thank you'))
    await stage.listen(receiver.url)
    await stage.happen({})
    stage.dispatch({ callMsMax: 3_000 })
    await stage.deliveries(allAre('delivered'))
    expect(await stage.attempts()).toMatchObject([{ status_code: 200, response: 'thank you' }])
  })

  it('is not made before an endpoint that said 429 wants it; nor is any other', async () => {
    const stage = await openStage()
    const receiver = await openReceiver((answer, _call, number) =>
      number === 1 ? answer.writeHead(429, { 'retry-after': '600' }).end() : answer.writeHead(204).end(),
    )
    await stage.listen(receiver.url)
    await stage.happen({})
    stage.dispatch()
    await stage.deliveries(([row]) => row?.attempts === 1 && !row.is_taken)
    await stage.happen({})
    stage.clock.nowMs += 599_000
    await sleep(300)
    expect(receiver.calls).toHaveLength(1)
    stage.clock.nowMs += 1_000
    await stage.deliveries(allAre('delivered'))
    expect(receiver.calls).toHaveLength(3)
  })
})

/** Says this to whoever connects. */
async function rawServer(text: string): Promise<string> {
  const server = createServer((socket) => {
    socket.on('error', () => {})
    socket.end(text)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close())
  return `http://127.0.0.1:${(server.address() as { port: number }).port}/`
}

describe('an endpoint', () => {
  it('that answers 410 is disabled, gets nothing more, and says why', async () => {
    const stage = await openStage()
    const receiver = await openReceiver((answer) => answer.writeHead(410).end())
    const { id } = await stage.listen(receiver.url)
    await stage.happen({})
    stage.dispatch()
    await stage.deliveries(allAre('dead'))
    expect(await endpointOf(stage, id)).toMatchObject({ disabledReason: 'gone', disabledUs: expect.any(Number) })
    expect(await stage.happen({})).toBe(0)
  })

  it('that has failed for five days is disabled with the next failure, and what waits for it goes on when it is enabled', async () => {
    const stage = await openStage()
    let status = 500
    const receiver = await openReceiver((answer) => answer.writeHead(status).end())
    const { id } = await stage.listen(receiver.url)
    await stage.happen({})
    stage.dispatch()
    await stage.deliveries(([row]) => row?.attempts === 1 && !row.is_taken)
    const { failingSinceUs } = await endpointOf(stage, id)
    expect(failingSinceUs).toBe(stage.clock.nowMs * 1000)
    stage.clock.nowMs += FAILING_US_MAX / 1000 - 60_000
    await stage.deliveries(([row]) => row?.attempts === 2 && !row.is_taken)
    expect(await endpointOf(stage, id)).toMatchObject({ disabledReason: null, failingSinceUs })
    stage.clock.nowMs += 400_000
    await stage.deliveries(([row]) => row?.attempts === 3 && !row.is_taken)
    expect(await endpointOf(stage, id)).toMatchObject({ disabledReason: 'failing', disabledUs: expect.any(Number) })
    stage.clock.nowMs += 100 * HOUR_MS
    await sleep(200)
    expect(receiver.calls).toHaveLength(3)
    status = 200
    await stage.endpoints.change(stage.tenantId, id, { disabled: false })
    await stage.deliveries(allAre('delivered'))
    expect(await endpointOf(stage, id)).toMatchObject({ disabledReason: null, disabledUs: null, failingSinceUs: null })
  })

  it('that something goes through to is not failing any more', async () => {
    const stage = await openStage()
    const receiver = await openReceiver((answer, _call, number) => answer.writeHead(number === 1 ? 500 : 200).end())
    const { id } = await stage.listen(receiver.url)
    await stage.happen({})
    stage.dispatch()
    await stage.deliveries(([row]) => row?.attempts === 1 && !row.is_taken)
    expect((await endpointOf(stage, id)).failingSinceUs).not.toBeNull()
    stage.clock.nowMs += 10_000
    await stage.deliveries(allAre('delivered'))
    expect((await endpointOf(stage, id)).failingSinceUs).toBeNull()
  })

  it('that never answers delays no other, however much waits for it, and is called five times at once at most', async () => {
    const stage = await openStage()
    const slow = await openReceiver(() => {})
    const fast = await openReceiver()
    const { id } = await stage.listen(slow.url, ['transaction.posted'])
    await stage.listen(fast.url, ['entry.posted'])
    await stage.haveBeenQuick()
    await stage.happen(...Array.from({ length: 1_000 }, () => ({})))
    stage.dispatch(PATIENT)
    await slow.called(5)
    await stage.happen(...Array.from({ length: 50 }, () => ({ type: 'entry.posted' as const })))
    await fast.called(50)
    expect(slow.calls).toHaveLength(5)
    const rows = await stage.deliveries()
    expect(rows.filter((row) => row.endpoint_id === id && row.is_taken)).toHaveLength(5)
  })

  it('of another tenant gets its own, though one tenant has many that never answer: fifty calls are the most for one', async () => {
    const stage = await openStage()
    const slow = await openReceiver(() => {})
    const fast = await openReceiver()
    for (let i = 0; i < 15; i++) await stage.listen(slow.url)
    const other = await stage.tenant()
    await stage.listen(fast.url, ['*'], other)
    await stage.haveBeenQuick()
    await stage.happen(...Array.from({ length: 10 }, () => ({})))
    stage.dispatch(PATIENT)
    await slow.called(50)
    await stage.happen(...Array.from({ length: 20 }, () => ({ tenantId: other })))
    await fast.called(20)
    expect(slow.calls).toHaveLength(50)
  })

  it('that is quick always finds places left, though many others never answer: 150 calls are the most for these', async () => {
    const stage = await openStage()
    const slow = await openReceiver(() => {})
    const fast = await openReceiver()
    const others = await Promise.all(Array.from({ length: 4 }, () => stage.tenant()))
    for (const other of others) for (let i = 0; i < 55; i++) await stage.listen(slow.url, ['*'], other)
    await stage.happen(...others.map((tenantId) => ({ tenantId })))
    const { id } = await stage.listen(fast.url)
    await stage.sql`UPDATE webhook_endpoints SET slow_until_us = 0 WHERE id = ${id}`
    stage.dispatch(PATIENT)
    await slow.called(150)
    await stage.happen(...Array.from({ length: 20 }, () => ({})))
    await fast.called(20)
    expect(slow.calls).toHaveLength(150)
  })

  it('that is new finds a place, though many have been slow lately: fifty calls are the most for these', async () => {
    const stage = await openStage()
    const slow = await openReceiver(() => {})
    const fresh = await openReceiver()
    const others = await Promise.all([stage.tenant(), stage.tenant(), stage.tenant()])
    for (const other of others) for (let i = 0; i < 50; i++) await stage.listen(slow.url, ['*'], other)
    await stage.sql`UPDATE webhook_endpoints SET slow_until_us = ${(stage.clock.nowMs + HOUR_MS) * 1000}`
    await stage.happen(...others.map((tenantId) => ({ tenantId })))
    await stage.listen(fresh.url)
    stage.dispatch(PATIENT)
    await slow.called(50)
    const each = others.map(async (tenant) => {
      const rows = await stage.sql`SELECT FROM webhook_deliveries d JOIN webhook_endpoints e ON e.id = d.endpoint_id
        WHERE tenant_id = ${tenant} AND is_taken`
      return rows.length
    })
    expect((await Promise.all(each)).sort(), 'shared evenly between tenants').toEqual([16, 17, 17])
    await stage.happen({})
    await fresh.called(1)
    expect(slow.calls).toHaveLength(50)
  })

  it('is called once at a time until it has answered quickly, then five times', async () => {
    const stage = await openStage()
    const answers: ServerResponse[] = []
    const receiver = await openReceiver((answer) => answers.push(answer))
    await stage.listen(receiver.url)
    await stage.happen(...Array.from({ length: 10 }, () => ({})))
    stage.dispatch(PATIENT)
    await receiver.called(1)
    await sleep(200)
    expect(receiver.calls).toHaveLength(1)
    answers[0]?.writeHead(204).end()
    await receiver.called(6)
    await sleep(200)
    expect(receiver.calls).toHaveLength(6)
  })

  it('that keeps a call waiting is slow at once, and for five minutes: one call at a time', async () => {
    const stage = await openStage()
    let isSlow = true
    const answers: ServerResponse[] = []
    const receiver = await openReceiver((answer) => (isSlow ? answers.push(answer) : answer.writeHead(204).end()))
    const { id } = await stage.listen(receiver.url)
    await stage.haveBeenQuick()
    await stage.happen({})
    stage.dispatch({ callMsMax: 200_000, slowMs: 1_000 })
    await receiver.called(1)
    await sleep(1_500)
    await stage.happen(...Array.from({ length: 5 }, () => ({})))
    await sleep(300)
    expect(receiver.calls, 'there would be places for four more').toHaveLength(1)
    answers[0]?.writeHead(204).end()
    await receiver.called(2)
    await sleep(300)
    expect(receiver.calls, 'it was slow when it answered').toHaveLength(2)
    isSlow = false
    answers[1]?.writeHead(204).end()
    await stage.deliveries(allAre('delivered'))
    const slowUntil = async () => {
      const [row] = await stage.sql<
        { us: bigint }[]
      >`SELECT slow_until_us AS us FROM webhook_endpoints WHERE id = ${id}`
      return Number(row?.us)
    }
    expect(await slowUntil(), 'quick answers do not end it').toBe(stage.clock.nowMs * 1000 + SLOW_US)
    // On a busy machine even a quick answer may come late.
    do {
      stage.clock.nowMs += SLOW_US / 1000
      await stage.happen({})
      await stage.deliveries(allAre('delivered'))
    } while ((await slowUntil()) !== 0)
  })

  it('that fails is left alone after each failure for a tenth of the time that it has been failing, a minute at most', async () => {
    const stage = await openStage()
    let status = 500
    const receiver = await openReceiver((answer) => answer.writeHead(status).end())
    await stage.listen(receiver.url)
    await stage.happen(...Array.from({ length: 30 }, () => ({})))
    stage.dispatch()
    await stage.deliveries((rows) => rows.every(({ attempts, is_taken }) => attempts === 1 && !is_taken))
    const madeAfter = async (ms: number) => {
      const before = receiver.calls.length
      stage.clock.nowMs += ms
      await receiver.called(before + 1)
      // From what is written down on, it is left alone.
      await stage.deliveries((rows) => rows.every(({ is_taken }) => !is_taken))
      await sleep(300)
      return receiver.calls.length - before
    }
    expect(await madeAfter(100_000)).toBe(1)
    expect(await madeAfter(10_000)).toBe(1)
    stage.clock.nowMs += 10_000
    await sleep(300)
    expect(receiver.calls, '11 s are a tenth now').toHaveLength(32)
    expect(await madeAfter(HOUR_MS)).toBe(1)
    expect(await madeAfter(60_000)).toBe(1)
    status = 204
    stage.clock.nowMs += 60_000
    await stage.deliveries((rows) => rows.filter((row) => row.status === 'delivered').length > 20)
  })

  it('that was deleted gets nothing more, though it was due', async () => {
    const stage = await openStage()
    const receiver = await openReceiver()
    const { id } = await stage.listen(receiver.url)
    await stage.happen({}, {})
    await stage.endpoints.remove(stage.tenantId, id)
    stage.dispatch()
    await sleep(300)
    expect(receiver.calls).toEqual([])
    expect(await stage.happen({})).toBe(0)
  })
})

describe('the address of an endpoint', () => {
  it('is looked up again at each delivery; one that became private is not called', async () => {
    const receiver = await openReceiver()
    const names = new Map([['hooks.example.com', ['8.8.8.8']]])
    const rules = { allowPrivate: false, resolve: async (name: string) => names.get(name) ?? [] }
    const stage = await openStage(rules)
    await stage.listen('https://hooks.example.com/')
    names.set('hooks.example.com', ['127.0.0.1'])
    await stage.happen({})
    stage.dispatch()
    await stage.deliveries(([row]) => row?.attempts === 1 && !row.is_taken)
    const error = NOT_CALLED
    expect(await stage.attempts()).toEqual([{ number: 1, status_code: null, error, response: null }])
    expect(receiver.calls).toEqual([])
  })

  it('is the one that is connected to: the name is asked for once, and not by the connection', async () => {
    const receiver = await openReceiver()
    let lookUps = 0
    // The second answer would lead elsewhere, as in DNS rebinding.
    const resolve = async () => (++lookUps === 1 ? ['127.0.0.1'] : ['10.255.255.1'])
    const stage = await openStage({ allowPrivate: true, resolve: async () => ['127.0.0.1'] })
    await stage.listen(`http://hooks.example.com:${receiver.port}/`)
    await stage.happen({})
    stage.dispatch({ rules: { allowPrivate: true, resolve } })
    const [call] = await receiver.called(1)
    expect(call?.headers.host).toBe(`hooks.example.com:${receiver.port}`)
    await stage.deliveries(allAre('delivered'))
    expect(lookUps).toBe(1)
  })

  it('may be one of several; the next is tried when the first does not connect', async () => {
    const receiver = await openReceiver()
    const rules = { allowPrivate: true, resolve: async () => ['::1', '127.0.0.1'] }
    const stage = await openStage(rules)
    await stage.listen(`http://hooks.example.com:${receiver.port}/`)
    await stage.happen({})
    stage.dispatch()
    await receiver.called(1)
  })

  it('that the name servers do not tell in time is a failure, and holds up no other endpoint', async () => {
    const receiver = await openReceiver()
    const stage = await openStage({ allowPrivate: true, resolve: async () => ['127.0.0.1'] })
    const { id } = await stage.listen('http://slow.example.com/')
    await stage.listen(receiver.url)
    await stage.happen({})
    stage.dispatch({ callMsMax: 1_000, rules: { allowPrivate: true, resolve: () => new Promise(() => {}) } })
    await receiver.called(1)
    await stage.deliveries((rows) => rows.some((row) => row.endpoint_id === id && row.attempts === 1 && !row.is_taken))
    const [found] = await stage.endpoints.deliveries(stage.tenantId, id, { limit: 1, before: null }, null)
    expect(found?.lastAttempt?.error).toBe(NOT_CALLED)
  })
})

describe('several nodes', () => {
  it('share what is due: each thing is delivered once', async () => {
    const stage = await openStage()
    const receiver = await openReceiver((answer) => setTimeout(() => answer.writeHead(204).end(), 5))
    for (let i = 0; i < 10; i++) await stage.listen(receiver.url)
    await stage.happen(...Array.from({ length: 40 }, () => ({})))
    const dispatchers = Array.from({ length: 4 }, () => stage.dispatch({ intervalMs: 1 }))
    await stage.deliveries(allAre('delivered'))
    expect(receiver.calls).toHaveLength(400)
    expect((await stage.deliveries()).every((row) => row.attempts === 1)).toBe(true)
    expect(dispatchers.flatMap(({ troubles }) => troubles)).toEqual([])
  })

  it('do not take what another one has, until its lease is over', async () => {
    const stage = await openStage()
    let answerAll = () => {}
    const receiver = await openReceiver((answer, _call, number) => {
      if (number > 1) answer.writeHead(204).end()
      else answerAll = () => answer.writeHead(204).end()
    })
    await stage.listen(receiver.url)
    await stage.happen({})
    stage.dispatch(PATIENT)
    await receiver.called(1)
    stage.dispatch()
    stage.clock.nowMs += LEASE_MS - 1
    await sleep(300)
    expect(receiver.calls).toHaveLength(1)
    answerAll()
    await stage.deliveries(allAre('delivered'))
    expect(receiver.calls).toHaveLength(1)
  })

  it('do not believe who comes too late: what counts is said by whoever has it now', async () => {
    const stage = await openStage()
    const answers: ServerResponse[] = []
    const receiver = await openReceiver((answer) => answers.push(answer))
    const { id } = await stage.listen(receiver.url)
    await stage.happen({})
    stage.dispatch(PATIENT)
    await receiver.called(1)
    stage.clock.nowMs += LEASE_MS
    stage.dispatch(PATIENT)
    await receiver.called(2)
    answers[0]?.writeHead(500).end()
    while ((await stage.attempts()).length === 0) await sleep(20)
    expect(await stage.deliveries()).toMatchObject([{ status: 'pending', is_taken: true, attempts: 2 }])
    answers[1]?.writeHead(200).end()
    await stage.deliveries(allAre('delivered'))
    expect(await stage.attempts()).toMatchObject([
      { number: 1, status_code: 500 },
      { number: 2, status_code: 200 },
    ])
    expect((await endpointOf(stage, id)).failingSinceUs).toBeNull()
  })

  it('deliver again what a node had that was killed, when its lease is over', async () => {
    const stage = await openStage()
    const receiver = await openReceiver((answer, _call, number) => number > 1 && answer.writeHead(204).end())
    await stage.listen(receiver.url)
    await stage.happen({})
    const child = fork(fileURLToPath(new URL('node.ts', import.meta.url)), [stage.url], { execArgv: [] })
    onTestFinished(() => void child.kill('SIGKILL'))
    await receiver.called(1)
    const ended = once(child, 'exit')
    child.kill('SIGKILL')
    await ended
    stage.dispatch()
    await sleep(300)
    expect(receiver.calls).toHaveLength(1)
    const [taken] = await stage.deliveries()
    expect(taken).toMatchObject({ status: 'pending', is_taken: true, attempts: 1 })
    stage.clock.nowMs = Math.ceil((taken?.due_us ?? 0) / 1000)
    const [first, second] = await receiver.called(2)
    expect(second?.headers['webhook-id']).toBe(first?.headers['webhook-id'])
    const [row] = await stage.deliveries(allAre('delivered'))
    expect(row?.attempts).toBe(2)
  })

  it('that stop give back what they could not finish; another has it at once', async () => {
    const stage = await openStage()
    const receiver = await openReceiver((answer, _call, number) => number > 1 && answer.writeHead(204).end())
    await stage.listen(receiver.url)
    await stage.happen({})
    const first = stage.dispatch({ callMsMax: 60_000 })
    await receiver.called(1)
    await first.stop()
    expect(first.troubles).toEqual([])
    expect(await stage.deliveries()).toMatchObject([{ status: 'pending', is_taken: false, tries: 0 }])
    stage.dispatch()
    await stage.deliveries(allAre('delivered'))
  })
})

describe('a resend', () => {
  const again = (stage: Stage, id: string, deliveryId: string, key = crypto.randomUUID()) =>
    stage.endpoints.resend(stage.tenantId, key, id, deliveryId)

  it('delivers once more what was delivered, under the same id; a second time with the same key it does nothing', async () => {
    const stage = await openStage()
    const receiver = await openReceiver()
    const { id } = await stage.listen(receiver.url)
    await stage.happen({})
    stage.dispatch()
    const [row] = await stage.deliveries(allAre('delivered'))
    const key = crypto.randomUUID()
    await again(stage, id, row?.id ?? '', key)
    await receiver.called(2)
    await stage.deliveries(allAre('delivered'))
    expect((await again(stage, id, row?.id ?? '', key)).isReplay).toBe(true)
    await sleep(200)
    expect(new Set(receiver.calls.map(({ headers }) => headers['webhook-id'])).size).toBe(1)
    expect(receiver.calls).toHaveLength(2)
  })

  it('gives what is dead its whole schedule again', async () => {
    const stage = await openStage()
    const receiver = await openReceiver((answer) => answer.writeHead(500).end())
    const { id } = await stage.listen(receiver.url)
    await stage.happen({})
    await stage.sql`UPDATE webhook_deliveries SET status = 'dead', attempts = 10, tries = 10`
    const [row] = await stage.deliveries()
    await again(stage, id, row?.id ?? '')
    stage.dispatch()
    const [after] = await stage.deliveries(([row]) => row?.attempts === 11 && !row.is_taken)
    expect(after).toMatchObject({ status: 'pending', tries: 1 })
    expect((after?.due_us ?? 0) / 1000 - stage.clock.nowMs).toBeLessThanOrEqual(6_000)
  })

  it('of what is under way does not make it twice at once', async () => {
    const stage = await openStage()
    const receiver = await openReceiver(() => {})
    const { id } = await stage.listen(receiver.url)
    await stage.happen({})
    stage.dispatch(PATIENT)
    await receiver.called(1)
    const [row] = await stage.deliveries()
    await again(stage, id, row?.id ?? '')
    await sleep(300)
    expect(receiver.calls).toHaveLength(1)
  })

  it('and the record of an attempt do not wait for each other', async () => {
    const stage = await openStage()
    const { id } = await stage.listen('http://127.0.0.1:9/')
    await stage.happen({})
    const [row] = await stage.deliveries()
    let resent: Promise<unknown> | undefined
    // What a record does, in its order: the delivery, then the endpoint.
    await stage.sql.begin(async (sql) => {
      await sql`UPDATE webhook_deliveries SET attempts = 1`
      resent = again(stage, id, row?.id ?? '').catch((error) => error)
      const waiting = () => stage.sql`
        SELECT FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE datname = current_database() AND NOT granted`
      while ((await waiting()).length === 0) await sleep(20)
      await sql`UPDATE webhook_endpoints SET failing_since_us = 1`
    })
    expect(await resent).toMatchObject({ isReplay: false })
  })

  it('to an endpoint that is disabled is refused', async () => {
    const stage = await openStage()
    const { id } = await stage.listen('http://127.0.0.1:9/')
    await stage.happen({})
    const [row] = await stage.deliveries()
    await stage.endpoints.change(stage.tenantId, id, { disabled: true })
    await expect(again(stage, id, row?.id ?? '')).rejects.toMatchObject({ code: 'webhook_endpoint_disabled' })
  })
})

it('what came of each attempt is told, and how much waits can be asked', async () => {
  const stage = await openStage()
  const answers = [500, 200, 410]
  const receiver = await openReceiver((answer, _call, number) => answer.writeHead(answers[number - 1] ?? 500).end())
  await stage.listen(receiver.url)
  const outcomes: string[] = []
  const dispatcher = stage.dispatch({ onDelivered: (outcome) => outcomes.push(outcome) })
  expect(await dispatcher.pending()).toBe(0)
  await stage.happen({})
  while (outcomes.length < 1) await sleep(20)
  expect(await dispatcher.pending()).toBe(1)
  stage.clock.nowMs += 10_000
  while (outcomes.length < 2) await sleep(20)
  await stage.happen({})
  while (outcomes.length < 3) await sleep(20)
  await stage.listen(receiver.url, ['transaction.posted'])
  await stage.sql`UPDATE webhook_deliveries SET status = 'pending', tries = 9, due_us = 0 WHERE status = 'delivered'`
  await stage.sql`UPDATE webhook_endpoints SET disabled_us = NULL, disabled_reason = NULL, resting_until_us = 0`
  while (outcomes.length < 4) await sleep(20)
  expect(outcomes).toEqual(['retry', 'delivered', 'gone', 'dead'])
  expect(await dispatcher.pending()).toBe(0)
})

describe('a list of deliveries', () => {
  const [ENDPOINTS, EACH, LIMIT] = [4, 5_000, 25]
  type Listed = { id: string; status: string }

  it('reads what it shows and little more, by status too, however many deliveries there are', async () => {
    const stage = await openStage()
    for (let i = 0; i < ENDPOINTS; i++) await stage.listen('http://127.0.0.1:9/')
    const [listener] = await stage.endpoints.list(stage.tenantId, { limit: 1, before: null })
    const id = listener?.id ?? ''
    await stage.sql`INSERT INTO webhook_events (id, tenant_id, type, body, created_us)
      SELECT gen_random_uuid(), ${stage.tenantId}, 'entry.posted', '{}', 1 FROM generate_series(1, ${EACH}::int)`
    await stage.sql`INSERT INTO webhook_deliveries (id, endpoint_id, event_id, status, due_us, created_us, touched_us)
      SELECT gen_random_uuid(), p.id, v.id,
             CASE WHEN n <= ${EACH / 20}::int THEN 'dead' WHEN n % 10 = 0 THEN 'pending' ELSE 'delivered' END, 1, 1, 1
      FROM webhook_endpoints p, (SELECT id, row_number() OVER (ORDER BY id) AS n FROM webhook_events) v`
    await stage.sql.unsafe('ANALYZE webhook_deliveries')
    const all = await stage.sql<Listed[]>`
      SELECT id, status FROM webhook_deliveries WHERE endpoint_id = ${id} ORDER BY id DESC`
    for (const status of ['pending', 'delivered', 'dead', null] as const) {
      const wanted = all.filter((one) => status === null || one.status === status).map((one) => one.id)
      for (const before of [null, wanted[0], wanted[Math.floor(wanted.length / 2)], wanted.at(-1)]) {
        const from = before === null ? 0 : wanted.indexOf(before ?? '') + 1
        await stage.sql.begin(async (sql) => {
          const earlier = await readBy(sql)
          const rows = await listDeliveries(sql, id, { limit: LIMIT, before: before ?? null }, status)
          const now = await readBy(sql)
          expect(rows.map((row) => row.id)).toEqual(wanted.slice(from, from + LIMIT))
          expect(now.scanned - earlier.scanned).toBe(0)
          expect(now.fetched - earlier.fetched).toBeLessThanOrEqual(3 * LIMIT)
        })
      }
    }
  })

  /** How many deliveries this connection has read, one after the other and along an index. */
  async function readBy(sql: Tx): Promise<{ scanned: number; fetched: number }> {
    const [row] = await sql<{ scanned: bigint; fetched: bigint }[]>`
      SELECT seq_tup_read AS scanned, idx_tup_fetch AS fetched FROM pg_stat_xact_user_tables
      WHERE relname = 'webhook_deliveries'`
    return { scanned: Number(row?.scanned), fetched: Number(row?.fetched) }
  }
})

describe('pruning', () => {
  const prune = (stage: Stage, limit = 1_000) => {
    const nowUs = stage.clock.nowMs * 1000
    return pruneWebhooks(stage.sql, { before: nowUs - KEPT_US, keysBefore: nowUs - KEYS_KEPT_US, nowUs, limit })
  }
  const counts = async (stage: Stage) => {
    const [row] = await stage.sql`
      SELECT (SELECT count(*)::int FROM webhook_deliveries) AS deliveries, (SELECT count(*)::int FROM webhook_events) AS events,
             (SELECT count(*)::int FROM webhook_attempts) AS attempts, (SELECT count(*)::int FROM webhook_endpoints) AS endpoints,
             (SELECT count(*)::int FROM webhook_requests) AS keys`
    return row
  }

  it('removes deliveries of 30 days ago with their attempts and events, a portion at a time, and nothing younger', async () => {
    const stage = await openStage()
    const receiver = await openReceiver()
    await stage.listen(receiver.url)
    await stage.happen(...Array.from({ length: 25 }, () => ({})))
    stage.dispatch()
    await stage.deliveries(allAre('delivered'))
    stage.clock.nowMs += KEPT_US / 1000
    await stage.happen({})
    await stage.deliveries(allAre('delivered'))
    expect(await prune(stage)).toBeLessThan(2)
    expect(await counts(stage)).toEqual({ deliveries: 26, events: 26, attempts: 26, endpoints: 1, keys: 0 })
    stage.clock.nowMs += 1
    expect(await prune(stage, 10)).toBe(10)
    expect(await counts(stage)).toMatchObject({ deliveries: 16, events: 16, attempts: 16 })
    await prune(stage, 10)
    expect(await prune(stage, 10)).toBe(5)
    expect(await counts(stage)).toEqual({ deliveries: 1, events: 1, attempts: 1, endpoints: 1, keys: 0 })
    expect(await prune(stage, 10)).toBe(0)
  })

  it('goes on by itself', async () => {
    const stage = await openStage()
    await stage.listen('http://127.0.0.1:9/')
    await stage.happen({})
    await stage.sql`UPDATE webhook_deliveries SET touched_us = 0`
    const troubles: unknown[] = []
    const stop = startPruning(stage.url, (error) => troubles.push(error), 20)
    await stage.deliveries((rows) => rows.length === 0)
    await stop()
    expect(troubles).toEqual([])
  })

  it('removes the deliveries of a deleted endpoint at once, itself later, and leaves what is under way', async () => {
    const stage = await openStage()
    const receiver = await openReceiver(() => {})
    const { id } = await stage.listen(receiver.url)
    await stage.haveBeenQuick()
    await stage.happen(...Array.from({ length: 8 }, () => ({})))
    const dispatcher = stage.dispatch(PATIENT)
    await receiver.called(5)
    await stage.endpoints.remove(stage.tenantId, id)
    await prune(stage)
    expect(await counts(stage)).toMatchObject({ deliveries: 5, endpoints: 1 })
    await dispatcher.stop()
    await prune(stage)
    expect(await counts(stage)).toMatchObject({ deliveries: 0, endpoints: 1 })
    stage.clock.nowMs += KEPT_US / 1000 + 60_000
    await prune(stage)
    expect(await counts(stage)).toEqual({ deliveries: 0, events: 0, attempts: 0, endpoints: 0, keys: 0 })
  })
})
