import { once } from 'node:events'
import { type AddressInfo, connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { PIPELINED_MAX, type ServerLimits } from '../../src/http/server.ts'
import { type Api, openApi } from '../support/api.ts'

/** Half-open requests of the slow loris. */
const LORISES = 2_000
const PATIENT: ServerLimits = { connectionsMax: 5_000, headersMsMax: 4_000, requestMsMax: 8_000, lookMs: 100 }

let api: Api
let port: number
beforeAll(async () => {
  const opened = await listening(PATIENT)
  api = opened.api
  port = opened.port
})
afterAll(() => api?.close())

async function listening(limits: ServerLimits) {
  const api = await openApi({ server: { limits } })
  await api.app.listen({ host: '127.0.0.1', port: 0 })
  return { api, port: (api.app.server.address() as AddressInfo).port }
}

/** A connection, what has come back on it, and its end. */
function open(to = port) {
  const socket = connect(to, '127.0.0.1')
  const connection = { socket, text: '', ended: new Promise<void>((done) => void socket.once('close', () => done())) }
  socket.setEncoding('latin1').on('data', (text: string) => {
    connection.text += text
  })
  // What it was cut off for is looked at by what it got.
  socket.on('error', () => {})
  return connection
}

/** Sends bytes and waits until the server ends it. */
async function answerTo(bytes: string): Promise<string> {
  const connection = open()
  connection.socket.write(bytes)
  await connection.ended
  return connection.text
}

function expectProblemOnWire(text: string, status: number, code: string) {
  const [head = '', body = ''] = text.split('\r\n\r\n')
  expect(head).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `))
  expect(head.toLowerCase()).toContain('content-type: application/problem+json')
  expect(head.toLowerCase()).toContain('x-content-type-options: nosniff')
  expect(head.toLowerCase()).not.toMatch(/\r\n(server|x-powered-by):/)
  expect(JSON.parse(body)).toMatchObject({ status, code })
}

const head = (more = '') => `POST /v1/transfers HTTP/1.1\r\nHost: x\r\n${more}`

test('thousands of requests that never end are cut off, and good clients are served meanwhile', async () => {
  const good = await api.alpha.wallet(100)
  const lorises = Array.from({ length: LORISES }, () => open())
  await Promise.all(lorises.map(({ socket }) => once(socket, 'connect')))
  for (const { socket } of lorises) socket.write(head('X-A: '))
  // They go on, a byte at a time, as slow lorises do.
  const dripping = setInterval(() => {
    for (const { socket } of lorises) if (socket.writable) socket.write('a')
  }, 500)
  onTestFinished(() => clearInterval(dripping))
  let open_ = LORISES
  for (const { ended } of lorises) void ended.then(() => open_--)
  let served = 0
  while (open_ > 0) {
    const answer = await fetch(`http://127.0.0.1:${port}/v1/wallets/${good}`, {
      headers: { authorization: `Bearer ${api.alpha.apiKey}` },
    })
    expect(answer.status).toBe(200)
    served += 1
    await sleep(20)
  }
  expect(served).toBeGreaterThan(0)
  const told = lorises.filter(({ text }) => text.startsWith('HTTP/1.1 408 '))
  expect(told.length).toBeGreaterThan(0)
  expectProblemOnWire(told[0]?.text ?? '', 408, 'request_timeout')
})

test('a body that comes too slowly is given up, and nothing has happened', async () => {
  const before = await api.blockCount()
  const connection = open()
  connection.socket.write(
    head(`Authorization: Bearer ${api.alpha.apiKey}\r\nIdempotency-Key: k\r\nContent-Type: application/json\r\n`) +
      'Content-Length: 100\r\n\r\n{"from":',
  )
  const dripping = setInterval(() => connection.socket.writable && connection.socket.write(' '), 200)
  await connection.ended
  clearInterval(dripping)
  expectProblemOnWire(connection.text, 408, 'request_timeout')
  expect(await api.blockCount()).toBe(before)
})

test('a connection that says nothing is closed', async () => {
  const connection = open()
  await connection.ended
  expect(connection.text.startsWith('HTTP/1.1 200')).toBe(false)
})

test.each([
  ['a header of 17 KiB', `X-A: ${'a'.repeat(17 * 1024)}\r\n\r\n`],
  [
    'many headers of 20 KiB together',
    `${Array.from({ length: 20 }, (_, i) => `X-${i}: ${'a'.repeat(1024)}\r\n`).join('')}\r\n`,
  ],
  [
    '101 headers',
    `Connection: close\r\n${Array.from({ length: 99 }, (_, i) => `X-${i}: a\r\n`).join('')}Content-Length: 0\r\n\r\n`,
  ],
])('%s is 431', async (_, headers) => {
  expectProblemOnWire(await answerTo(head(headers)), 431, 'headers_too_large')
})

test('100 headers are no trouble, and none of them is dropped', async () => {
  const many = Array.from({ length: 96 }, (_, i) => `X-${i}: a\r\n`).join('')
  const key = `Connection: close\r\nAuthorization: Bearer ${api.alpha.apiKey}\r\n`
  const text = await answerTo(`GET /v1/wallets?holderId=h HTTP/1.1\r\nHost: x\r\n${many}${key}\r\n`)
  expect(text).toMatch(/^HTTP\/1\.1 200 /)
})

test('a URL of 9,000 characters is 414', async () => {
  const text = await answerTo(
    `GET /v1/wallets?holderId=${'a'.repeat(9_000)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`,
  )
  expectProblemOnWire(text, 414, 'uri_too_long')
})

test('a body larger than half a megabyte is 413, said before it has come', async () => {
  const connection = open()
  const key = `Authorization: Bearer ${api.alpha.apiKey}\r\nIdempotency-Key: k\r\nContent-Type: application/json\r\n`
  connection.socket.write(head(`${key}Content-Length: 600000\r\n\r\n`))
  while (!connection.text.includes('}')) await sleep(20)
  connection.socket.destroy()
  expectProblemOnWire(connection.text, 413, 'payload_too_large')
})

test('who pipelines a few requests gets all answers, who floods is cut off, and others are served', async () => {
  const request = 'GET /livez HTTP/1.1\r\nHost: x\r\n\r\n'
  const few = open()
  few.socket.write(request.repeat(PIPELINED_MAX))
  while ((few.text.match(/"alive"/g) ?? []).length < PIPELINED_MAX) await sleep(20)
  few.socket.destroy()

  const flood = `GET /v1/wallets?holderId=h HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${api.alpha.apiKey}\r\n\r\n`
  const connection = open()
  connection.socket.write(flood.repeat(5_000))
  await connection.ended
  expect((connection.text.match(/HTTP\/1\.1/g) ?? []).length).toBeLessThan(5_000)
  expect((await fetch(`http://127.0.0.1:${port}/livez`)).status).toBe(200)
})

test('more connections than a node takes are closed at once, those from before are served', async () => {
  const { api, port } = await listening({ connectionsMax: 5 })
  onTestFinished(() => api.close())
  await expectBound(port, 5)
})

test('more connections than one address may have are closed at once, and their places can be taken again', async () => {
  const { api, port } = await listening({ connectionsPerAddressMax: 5 })
  onTestFinished(() => api.close())
  await expectBound(port, 5)
  await expectBound(port, 5)
})

async function expectBound(port: number, max: number): Promise<void> {
  const kept: { socket: Socket; text: string; ended: Promise<void> }[] = []
  for (let i = 0; i < max; i++) {
    const connection = open(port)
    connection.socket.write('GET /livez HTTP/1.1\r\nHost: x\r\n\r\n')
    while (!connection.text.includes('alive')) await sleep(10)
    kept.push(connection)
  }
  const more = open(port)
  more.socket.write('GET /livez HTTP/1.1\r\nHost: x\r\n\r\n')
  await more.ended
  expect(more.text).toBe('')
  for (const connection of kept) {
    connection.text = ''
    connection.socket.write('GET /livez HTTP/1.1\r\nHost: x\r\n\r\n')
    while (!connection.text.includes('alive')) await sleep(10)
    connection.socket.end()
    await connection.ended
  }
}
