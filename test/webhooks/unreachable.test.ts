import { once } from 'node:events'
import { createServer } from 'node:http'
import { type AddressInfo, createServer as createTcpServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { FAILURES_MAX, OPEN_MS, OPEN_MS_MAX, TRIAL_MS } from '../../src/webhooks/hostGuard.ts'
import { FAILING_US_MAX } from '../../src/webhooks/sql/recordAttempt.ts'
import type { TargetRules } from '../../src/webhooks/target.ts'
import { openReceiver } from './receiver.ts'
import { type DeliveryRow, openStage, type Stage } from './stage.ts'

const NOT_CALLED = 'not called: its host could not be reached lately'
const REFUSED = 'the connection was refused'

// Breakers go by this clock, and wait until it is moved; all else in these tests goes by the stage's clock, or by timers.
beforeEach(() => {
  vi.useFakeTimers({ toFake: ['Date'] })
})
afterEach(() => {
  vi.useRealTimers()
})

/** Rules by which every name leads here; how often a name was asked for: once for each call that is made. */
function countingRules() {
  const asked: string[] = []
  const resolve = async (name: string) => {
    asked.push(name)
    return ['127.0.0.1']
  }
  return { asked, rules: { allowPrivate: true, resolve } satisfies TargetRules }
}

/** A port of the loopback where nobody listens. */
async function closedPort(): Promise<number> {
  const server = createTcpServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** All were tried so often, and are in nobody's hands. */
const triedTimes = (tries: number) => (rows: DeliveryRow[]) => rows.every((row) => row.tries === tries && !row.is_taken)

/** The first delivery of an endpoint. */
const firstOf = (rows: DeliveryRow[], endpointId: string) => rows.find((row) => row.endpoint_id === endpointId)

/** Has so many deliveries to one endpoint fail, one after the other. */
async function failOften(stage: Stage, count: number): Promise<void> {
  await stage.happen(...Array.from({ length: count }, () => ({})))
  await stage.deliveries(triedTimes(1))
}

const errors = async (stage: Stage) => (await stage.attempts()).map(({ error }) => error)

describe('a host that refuses connections', () => {
  it('is called five times; then attempts to it are written down as not made, and others go on', async () => {
    const { asked, rules } = countingRules()
    const stage = await openStage(rules)
    const port = await closedPort()
    const other = await openReceiver()
    await stage.listen(`http://down.example.com:${port}/1`, ['transaction.posted'])
    const { id } = await stage.listen(`http://down.example.com:${port}/2`, ['entry.posted'])
    await stage.listen(`http://up.example.com:${other.port}/`, ['entry.posted'])
    asked.length = 0
    const dispatcher = stage.dispatch()
    await failOften(stage, FAILURES_MAX)
    expect(dispatcher.unreachableHosts()).toBe(1)
    expect(asked).toHaveLength(FAILURES_MAX)
    await stage.happen({ type: 'entry.posted' })
    const rows = await stage.deliveries(triedTimes(1))
    expect(other.calls).toHaveLength(1)
    expect(asked.filter((name) => name === 'down.example.com')).toHaveLength(FAILURES_MAX)
    expect(await errors(stage)).toEqual(
      expect.arrayContaining([...Array(FAILURES_MAX).fill(REFUSED), NOT_CALLED, null]),
    )
    // On the schedule as it always is.
    const row = firstOf(rows, id)
    const delayMs = (row?.due_us ?? 0) / 1000 - stage.clock.nowMs
    expect(row?.status).toBe('pending')
    expect(delayMs).toBeGreaterThanOrEqual(5_000)
    expect(delayMs).toBeLessThanOrEqual(6_000)
  })

  it('is called again when it is back: one call is the trial, and all that waits is delivered by itself', async () => {
    const { asked, rules } = countingRules()
    const stage = await openStage(rules)
    const port = await closedPort()
    for (let i = 0; i < 8; i++) await stage.listen(`http://down.example.com:${port}/${i}`)
    asked.length = 0
    const dispatcher = stage.dispatch()
    await stage.happen({})
    await stage.deliveries(triedTimes(1))
    const before = asked.length
    // Still down: the trial fails, and nothing else is called.
    vi.setSystemTime(Date.now() + OPEN_MS)
    stage.clock.nowMs += 10_000
    // Those that come while it is being tried come again a moment later.
    while (!triedTimes(2)(await stage.deliveries())) {
      stage.clock.nowMs += 2_000
      await sleep(50)
    }
    expect(asked.length - before).toBe(1)
    const calls: string[] = []
    const server = createServer((request, answer) => {
      calls.push(request.url ?? '')
      answer.writeHead(204).end()
    })
    server.listen(port, '127.0.0.1')
    await once(server, 'listening')
    onTestFinished(() => void server.close())
    while ((await stage.deliveries()).some(({ status }) => status !== 'delivered')) {
      vi.setSystemTime(Date.now() + OPEN_MS_MAX)
      stage.clock.nowMs += 600_000
      await stage.deliveries((rows) =>
        rows.every((row) => row.status === 'delivered' || row.due_us / 1000 > stage.clock.nowMs),
      )
    }
    expect(calls.sort()).toEqual(Array.from({ length: 8 }, (_, i) => `/${i}`))
    expect(dispatcher.unreachableHosts()).toBe(0)
    expect(dispatcher.troubles).toEqual([])
  })

  it('costs nobody an attempt while somebody else tries whether it is back', async () => {
    let isSlow = false
    const trial = Promise.withResolvers<void>()
    onTestFinished(() => trial.resolve())
    const resolve = async () => {
      if (isSlow) await trial.promise
      return ['127.0.0.1']
    }
    const stage = await openStage({ allowPrivate: true, resolve })
    const port = await closedPort()
    for (let i = 0; i < FAILURES_MAX; i++) await stage.listen(`http://down.example.com:${port}/${i}`)
    stage.dispatch()
    await stage.happen({})
    await stage.deliveries(triedTimes(1))
    vi.setSystemTime(Date.now() + OPEN_MS)
    isSlow = true
    stage.clock.nowMs += 10_000
    const waiting = await stage.deliveries((rows) => rows.filter((row) => row.is_taken).length === 1)
    for (const row of waiting.filter((row) => !row.is_taken)) {
      expect(row.tries).toBe(1)
      expect(row.due_us / 1000 - stage.clock.nowMs).toBeLessThanOrEqual(2 * TRIAL_MS)
    }
    expect(await errors(stage)).toHaveLength(FAILURES_MAX)
    trial.resolve()
    await stage.deliveries((rows) => rows.some((row) => row.tries === 2 && !row.is_taken))
  })

  it('is called for another tenant as if nothing had been', async () => {
    const { asked, rules } = countingRules()
    const stage = await openStage(rules)
    const url = `http://down.example.com:${await closedPort()}/`
    await stage.listen(url)
    const other = await stage.tenant()
    await stage.listen(url, ['*'], other)
    stage.dispatch()
    await failOften(stage, FAILURES_MAX + 1)
    asked.length = 0
    await stage.happen({ tenantId: other })
    await stage.deliveries(triedTimes(1))
    expect(asked).toEqual(['down.example.com'])
    expect((await errors(stage)).filter((error) => error === NOT_CALLED)).toHaveLength(1)
  })

  it('uses up the schedule as ever: a delivery that is never called is dead after ten attempts', async () => {
    const { rules } = countingRules()
    const stage = await openStage(rules)
    const port = await closedPort()
    const { id: first } = await stage.listen(`http://down.example.com:${port}/1`, ['transaction.posted'])
    const { id } = await stage.listen(`http://down.example.com:${port}/2`, ['entry.posted'])
    stage.dispatch()
    await failOften(stage, FAILURES_MAX)
    await stage.endpoints.change(stage.tenantId, first, { disabled: true })
    await stage.happen({ type: 'entry.posted' })
    const rows = await stage.deliveries((rows) => {
      const row = firstOf(rows, id)
      if (row?.status === 'pending' && !row.is_taken) stage.clock.nowMs = Math.ceil(row.due_us / 1000) + 60_000
      return row?.status === 'dead'
    })
    expect(firstOf(rows, id)?.tries).toBe(10)
    expect((await errors(stage)).filter((error) => error === NOT_CALLED)).toHaveLength(10)
  })

  it('does not get an endpoint disabled, nor makes it a quick one, by attempts that were not made', async () => {
    const { rules } = countingRules()
    const stage = await openStage(rules)
    const port = await closedPort()
    const { id: first } = await stage.listen(`http://down.example.com:${port}/1`, ['transaction.posted'])
    const { id } = await stage.listen(`http://down.example.com:${port}/2`, ['entry.posted'])
    const failingUs = stage.clock.nowMs * 1000 - FAILING_US_MAX
    await stage.sql`UPDATE webhook_endpoints SET failing_since_us = ${failingUs} WHERE id = ${id}`
    stage.dispatch()
    await failOften(stage, FAILURES_MAX)
    await stage.happen({ type: 'entry.posted' })
    await stage.deliveries(triedTimes(1))
    const endpoint = async () => {
      const [row] = await stage.sql`SELECT disabled_reason, slow_until_us FROM webhook_endpoints WHERE id = ${id}`
      return row
    }
    expect(await endpoint()).toEqual({ disabled_reason: null, slow_until_us: null })
    await stage.endpoints.change(stage.tenantId, first, { disabled: true })
    vi.setSystemTime(Date.now() + OPEN_MS)
    stage.clock.nowMs += 60_000
    await stage.deliveries((rows) => triedTimes(2)(rows.filter((row) => row.endpoint_id === id)))
    expect(await endpoint(), 'one that was made tells').toMatchObject({ disabled_reason: 'failing' })
  })
})

it('a name that leads nowhere is not looked up any more either', async () => {
  const stage = await openStage({ allowPrivate: true, resolve: async () => ['127.0.0.1'] })
  await stage.listen('http://nothing.invalid/')
  let asked = 0
  const resolve = async () => {
    asked++
    return []
  }
  stage.dispatch({ rules: { allowPrivate: true, resolve } })
  await failOften(stage, FAILURES_MAX + 1)
  expect(asked).toBe(FAILURES_MAX)
})

it('a host that accepts connections and is silent where TLS should begin is not called any more either', async () => {
  let connections = 0
  const server = createTcpServer((socket) => {
    connections++
    socket.on('error', () => {})
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close())
  const stage = await openStage()
  await stage.listen(`https://127.0.0.1:${(server.address() as AddressInfo).port}/`)
  stage.dispatch({ callMsMax: 200 })
  await failOften(stage, FAILURES_MAX + 1)
  expect(connections).toBe(FAILURES_MAX)
  expect((await errors(stage)).filter((error) => error === NOT_CALLED)).toHaveLength(1)
})

it.each([
  ['answers 500', 500],
  ['hangs', undefined],
])('a host with an endpoint that %s is called on, and so are the others behind it', async (_name, status) => {
  const stage = await openStage()
  const receiver = await openReceiver((answer, { path }) => {
    if (path === '/well') answer.writeHead(204).end()
    else if (status) answer.writeHead(status).end()
  })
  const count = 2 * FAILURES_MAX
  await stage.listen(`http://127.0.0.1:${receiver.port}/ill`, ['transaction.posted'])
  const { id } = await stage.listen(`http://127.0.0.1:${receiver.port}/well`, ['entry.posted'])
  const dispatcher = stage.dispatch({ callMsMax: 200 })
  await failOften(stage, count)
  await stage.happen({ type: 'entry.posted' })
  await stage.deliveries((rows) => firstOf(rows, id)?.status === 'delivered')
  expect(receiver.calls).toHaveLength(count + 1)
  expect(dispatcher.unreachableHosts()).toBe(0)
})
