import { once } from 'node:events'
import { createServer, get } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { type EventStreamOptions, type StreamEvent, streamEvents } from '../../src/live/eventStream.ts'
import { until } from '../cache/wait.ts'

/** A server that streams to whoever asks; it counts what it was asked to send. */
async function serve(options: Partial<EventStreamOptions>, size = 64 * 1024) {
  const seen = { given: 0, waiting: 0, isOver: false }
  const ending = new AbortController()
  async function* events(): AsyncGenerator<StreamEvent[]> {
    while (!ending.signal.aborted) {
      seen.given += 1
      yield [{ event: 'entry', id: seen.given, data: 'x'.repeat(size) }]
    }
  }
  const server = createServer(async (_, response) => {
    const watch = setInterval(() => {
      seen.waiting = Math.max(seen.waiting, response.writableLength)
    }, 1)
    await streamEvents(response, { headers: {}, events: events(), ending, ...options })
    clearInterval(watch)
    seen.isOver = true
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return { seen, ending, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
}

test('a reader who takes nothing is cut off, and little waits for him', async () => {
  const { seen, url } = await serve({ stallMsMax: 100 })
  const call = get(url).on('error', () => {})
  const [answer] = await once(call, 'response')
  answer.on('error', () => {})
  answer.pause()
  await until(() => seen.isOver)
  expect(seen.waiting).toBeLessThan(3 * 64 * 1024)
  const { given } = seen
  let isCut = false
  answer.once('close', () => {
    isCut = true
  })
  answer.resume()
  await until(() => isCut)
  expect(answer.complete).toBe(false)
  expect(seen.given).toBe(given)
})

test('a reader who is slow, but reads, is not cut off', async () => {
  const { seen, url, ending } = await serve({ stallMsMax: 20_000 })
  const [answer] = await once(get(url), 'response')
  let bytes = 0
  for await (const chunk of answer) {
    bytes += chunk.length
    if (bytes > 20 * 1024 * 1024) ending.abort()
    await new Promise((done) => setImmediate(done))
  }
  expect(bytes).toBeGreaterThan(20 * 1024 * 1024)
  expect(answer.complete).toBe(true)
  expect(seen.waiting).toBeLessThan(3 * 64 * 1024)
})

test('when the reader goes, it is over', async () => {
  const { seen, url } = await serve({})
  const call = get(url).on('error', () => {})
  await once(call, 'response')
  call.destroy()
  await until(() => seen.isOver)
})

test('an end is final also for a reader who does not take it', async () => {
  const { seen, url, ending } = await serve({ stallMsMax: 600_000 })
  const call = get(url).on('error', () => {})
  const [answer] = await once(call, 'response')
  answer.on('error', () => {})
  answer.pause()
  await until(() => seen.waiting > 0)
  ending.abort()
  await until(() => seen.isOver)
  let isCut = false
  answer.once('close', () => {
    isCut = true
  })
  answer.resume()
  await until(() => isCut)
})
