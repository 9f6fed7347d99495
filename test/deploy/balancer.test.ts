import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { PROBLEMS } from '../../src/errors.ts'
import { describeWith } from '../services/available.ts'
import { type Haproxy, startHaproxy } from '../services/haproxy.ts'
import { freePorts } from '../services/ports.ts'

/** Stands for a node: what it is asked it holds until it is told to answer. */
type FakeNode = {
  readonly host: string
  /** What it has been asked and has not answered, in the order in which it came. */
  readonly held: { method: string; path: string; key: string; body: string; answer: ServerResponse }[]
  /** Answers the first that is held. */
  answer(): void
  isReady: boolean
  /** Over which calls have come. */
  readonly connections: ReadonlySet<unknown>
}

async function startFakeNode(): Promise<FakeNode> {
  const held: FakeNode['held'] = []
  const connections = new Set<unknown>()
  const server = createServer(async (request: IncomingMessage, answer) => {
    const { method = '', url: path = '', headers } = request
    if (path === '/readyz') {
      answer.writeHead(node.isReady ? 200 : 503).end()
      return
    }
    connections.add(request.socket)
    // Whoever asked may be gone before all of it has come: when a test is over, for one.
    const body = await text(request).catch(() => undefined)
    if (body === undefined) return
    held.push({ method, path, key: `${headers['idempotency-key'] ?? ''}`, body, answer })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  const node: FakeNode = {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    ...{ held, connections },
    answer: () => held.shift()?.answer.writeHead(200, { 'content-type': 'application/json' }).end('{}'),
    isReady: true,
  }
  return node
}

async function startBefore(nodes: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Haproxy> {
  const balancer = await startHaproxy(nodes, env)
  onTestFinished(() => balancer.process.stop())
  return balancer
}

/** Nobody waits too long here, unless that is what a test is about. */
const PATIENT = { ZEROSUM_BALANCER_WAIT: '50s', ZEROSUM_BALANCER_AT_ONCE: '2' }

const ask = (balancer: Haproxy, path: string, key = 'a', init: RequestInit = {}) =>
  fetch(`${balancer.url}${path}`, { ...init, headers: { authorization: `Bearer ${key}`, ...init.headers } })

const pay = (balancer: Haproxy, key = 'a', idempotencyKey = 'k') =>
  ask(balancer, '/v1/transfers', key, {
    method: 'POST',
    body: '{"amount":"1"}',
    headers: { 'content-type': 'application/json', 'idempotency-key': idempotencyKey },
  })

/** Many transfers in one moment, however slow the machine: over connections that are there already. @returns when each is answered */
async function payAtOnce(
  balancer: Haproxy,
  count: number,
  key: string,
  idempotencyKey: string,
): Promise<Promise<unknown>[]> {
  const { hostname, port } = new URL(balancer.url)
  const sockets = Array.from({ length: count }, () => connect(Number(port), hostname))
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
  })
  await Promise.all(sockets.map((socket) => once(socket, 'connect')))
  return sockets.map((socket) => {
    socket.write(
      `POST /v1/transfers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${key}\r\nIdempotency-Key: ${idempotencyKey}\r\n` +
        'Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}',
    )
    return once(socket, 'data')
  })
}

async function until(isSo: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await isSo())) await sleep(10)
}

/** How many calls wait at the balancer, by its own metrics. */
async function waiting(balancer: Haproxy, backend = 'nodes'): Promise<number> {
  const metrics = await (await fetch(balancer.metricsUrl)).text()
  return Number(new RegExp(`^haproxy_backend_current_queue\\{proxy="${backend}"\\} (\\d+)`, 'm').exec(metrics)?.[1])
}

async function expectOverloaded(answer: Response): Promise<void> {
  expect(answer.status).toBe(503)
  expect(answer.headers.get('content-type')).toBe('application/problem+json')
  expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0)
  const { title, status } = PROBLEMS.overloaded
  expect(await answer.json()).toMatchObject({
    type: 'urn:zerosum:problem:overloaded',
    code: 'overloaded',
    title,
    status,
  })
}

describeWith('haproxy', 'the balancer', () => {
  test('gives a node so many calls at a time, and keeps the others until there is room', async () => {
    const node = await startFakeNode()
    const balancer = await startBefore([node.host], PATIENT)
    const answers = Array.from({ length: 5 }, () => pay(balancer))
    await until(async () => (await waiting(balancer)) === 3)
    await until(() => node.held.length >= 2)
    expect(node.held).toHaveLength(2)
    for (let left = 5; left > 0; left--) {
      await until(() => node.held.length === Math.min(2, left))
      node.answer()
    }
    expect((await Promise.all(answers)).map(({ status }) => status)).toEqual([200, 200, 200, 200, 200])
  })

  test('sends money movement first, and keys that ask for much after those that ask for little', async () => {
    const node = await startFakeNode()
    const balancer = await startBefore([node.host], { ...PATIENT, ZEROSUM_BALANCER_AT_ONCE: '1' })
    const order: string[] = []
    const answers: Promise<unknown>[] = [pay(balancer, 'much')]
    await until(() => node.held.length === 1)
    const queue = async (...more: Promise<unknown>[]) => {
      answers.push(...more)
      await until(async () => (await waiting(balancer)) === answers.length - 1)
    }
    await queue(ask(balancer, '/v1/wallets/read'))
    await queue(...(await payAtOnce(balancer, 120, 'much', 'of much')))
    await queue(pay(balancer, 'little', 'of little'))

    for (let i = 0; i < answers.length; i++) {
      await until(() => node.held.length === 1)
      order.push(node.held[0]?.key ?? '')
      node.answer()
    }
    await Promise.all(answers)
    // Those of the first fiftieth of a second's calls had not been much yet.
    const place = order.indexOf('of little')
    expect(place).toBeGreaterThan(0)
    expect(place).toBeLessThan(60)
    expect(order.at(-1)).toBe('')
  })

  test('refuses reads when two hundred calls wait, and keeps money movement', async () => {
    const node = await startFakeNode()
    const balancer = await startBefore([node.host], PATIENT)
    const reads = Array.from({ length: 250 }, () => ask(balancer, '/v1/wallets/read'))
    await expectOverloaded(await Promise.race(reads))
    const before = await waiting(balancer)
    expect(before).toBeGreaterThanOrEqual(200)
    // Each of its threads may have let one in at the same moment.
    expect(before).toBeLessThan(210)
    const paid = pay(balancer)
    await until(async () => (await waiting(balancer)) === before + 1)
    let isPaid = false
    void paid.then(() => {
      isPaid = true
    })
    await until(() => {
      node.answer()
      return isPaid
    })
    expect((await paid).status).toBe(200)
    const interval = setInterval(() => node.answer(), 1)
    await Promise.all(reads)
    clearInterval(interval)
  })

  test('refuses what has waited too long, and what comes while no node is there, with a problem', async () => {
    const node = await startFakeNode()
    const balancer = await startBefore([node.host], { ZEROSUM_BALANCER_WAIT: '100ms', ZEROSUM_BALANCER_AT_ONCE: '1' })
    const first = pay(balancer)
    await until(() => node.held.length === 1)
    await expectOverloaded(await pay(balancer))
    node.answer()
    expect((await first).status).toBe(200)
    const metricsOf = async () => await (await fetch(balancer.metricsUrl)).text()
    // As the alert asks for them. It counts when all of a call is over, which may be after its answer.
    await expect.poll(metricsOf).toContain('haproxy_frontend_http_responses_total{proxy="api",code="5xx"} 1')
    expect(await metricsOf()).toContain(
      'haproxy_server_http_responses_total{proxy="nodes",server="node-1",code="5xx"} 0',
    )
    node.isReady = false
    await until(async () => {
      const refused = ask(balancer, '/v1/wallets/read')
      const interval = setInterval(() => node.answer(), 10)
      const { status } = await refused
      clearInterval(interval)
      return status === 503
    })
    await expectOverloaded(await pay(balancer))
    expect(node.held).toEqual([])
  })

  test('streams take no place of a node', async () => {
    const node = await startFakeNode()
    const balancer = await startBefore([node.host], PATIENT)
    const streams = Array.from({ length: 10 }, (_, i) =>
      ask(balancer, i % 2 === 0 ? '/v1/wallets/wal_1/events' : '/v1/wallets/wal_1/event%73'),
    )
    await until(() => node.held.length === 10)
    const paid = pay(balancer)
    await until(() => node.held.length === 11)
    while (node.held.length > 0) node.answer()
    expect((await paid).status).toBe(200)
    await Promise.all(streams)
  })

  test('a call whose node goes away before it answers is sent to another, the same', async () => {
    const [one, two] = [await startFakeNode(), await startFakeNode()]
    const balancer = await startBefore([one.host, two.host], PATIENT)
    const paid = pay(balancer, 'a', 'once')
    await until(() => one.held.length + two.held.length === 1)
    const [first, second] = one.held.length === 1 ? [one, two] : [two, one]
    const lost = first.held.shift()
    lost?.answer.socket?.destroy()
    await until(() => second.held.length === 1)
    const [again] = second.held
    expect(again).toMatchObject({ method: 'POST', path: '/v1/transfers', key: 'once', body: lost?.body })
    second.answer()
    expect((await paid).status).toBe(200)
  })

  test('a change without a key is not sent again', async () => {
    const [one, two] = [await startFakeNode(), await startFakeNode()]
    const balancer = await startBefore([one.host, two.host], PATIENT)
    const changed = ask(balancer, '/v1/wallets/wal_1', 'a', { method: 'PATCH', body: '{"status":"active"}' })
    await until(() => one.held.length + two.held.length === 1)
    for (const { held } of [one, two]) held.shift()?.answer.socket?.destroy()
    const answer = await changed
    expect(answer.status).toBe(502)
    expect(await answer.json()).toMatchObject({ code: 'internal_error' })
    expect([...one.held, ...two.held]).toEqual([])
  })

  test('large bodies that come slowly take no place of the others', async () => {
    const node = await startFakeNode()
    const balancer = await startBefore([node.host], { ...PATIENT, ZEROSUM_BALANCER_LARGE_AT_ONCE: '1' })
    const { hostname, port } = new URL(balancer.url)
    const slow = Array.from({ length: 5 }, () => {
      const socket = connect(Number(port), hostname)
      onTestFinished(() => void socket.destroy())
      socket.on('error', () => {})
      socket.write(`POST /v1/transfers HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n${'a'.repeat(20_000)}`)
      return socket
    })
    await until(async () => (await waiting(balancer, 'large')) === 4)
    const paid = pay(balancer)
    await until(() => node.held.length === 1)
    node.answer()
    expect((await paid).status).toBe(200)
    slow[0]?.write('a'.repeat(20_000))
    await until(() => node.held.length === 1)
    expect(node.held[0]?.body).toHaveLength(40_000)
  })

  test('what is for those inside is not passed on', async () => {
    const node = await startFakeNode()
    const balancer = await startBefore([node.host], PATIENT)
    for (const path of ['/metrics', '/readyz', '/livez', '/%6detrics']) {
      expect((await ask(balancer, path)).status).toBe(404)
    }
    expect(node.held).toEqual([])
  })

  test('strangers do not open a connection to a node each', async () => {
    const node = await startFakeNode()
    const balancer = await startBefore([node.host], PATIENT)
    for (let stranger = 0; stranger < 20; stranger++) {
      const [answered] = await payAtOnce(balancer, 1, 'a', `${stranger}`)
      await until(() => node.held.length === 1)
      node.answer()
      await answered
    }
    expect(node.connections.size).toBeLessThan(10)
  })

  test('a node that is not there is none', async () => {
    const node = await startFakeNode()
    const [port] = await freePorts(1)
    const balancer = await startBefore([`127.0.0.1:${port}`, node.host], PATIENT)
    const answers = Array.from({ length: 6 }, () => pay(balancer))
    let count = 0
    for (const answer of answers) void answer.then(() => (count += 1))
    await until(() => {
      node.answer()
      return count === 6
    })
    expect((await Promise.all(answers)).every(({ status }) => status === 200)).toBe(true)
  })

  test('a call without a correlation id gets one', async () => {
    const node = await startFakeNode()
    const balancer = await startBefore([node.host], { ZEROSUM_BALANCER_WAIT: '1ms', ZEROSUM_BALANCER_AT_ONCE: '1' })
    const first = pay(balancer)
    await until(() => node.held.length === 1)
    expect(node.held[0]?.answer.req.headers['x-correlation-id']).toMatch(/^[0-9a-f-]{36}$/)
    node.answer()
    await first
  })
})
