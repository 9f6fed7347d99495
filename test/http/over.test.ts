import { once } from 'node:events'
import { createServer } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { expect, onTestFinished, test, vi } from 'vitest'
import { whenOver } from '../../src/http/over.ts'

/** What is asked several times on one connection, which is broken off by the client then. */
async function askAndLeave(
  handle: (watch: (over: () => void) => void, socketGone: Promise<unknown>) => void,
  count: number,
) {
  const server = createServer((request, raw) => {
    const gone = once(request.socket, 'close')
    request.resume()
    handle((over) => whenOver({ raw }, over), gone)
    void gone.then(() => setTimeout(() => raw.end('late'), 10))
  }).listen(0, '127.0.0.1')
  onTestFinished(() => void server.close())
  await once(server, 'listening')
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1')
  socket.on('error', () => {})
  let asked = 0
  server.on('request', () => {
    asked += 1
    if (asked === count) socket.destroy()
  })
  socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(count))
}

test.each([1, 9])('%d answers on a connection that breaks are over, each once', async (count) => {
  let over = 0
  await askAndLeave((watch) => watch(() => (over += 1)), count)
  await vi.waitFor(() => expect(over).toBe(count), { timeout: 60_000 })
})

test.each([1, 9])('%d answers whose caller was gone before anybody watched are over too', async (count) => {
  let over = 0
  await askAndLeave((watch, gone) => void gone.then(() => setTimeout(() => watch(() => (over += 1)), 50)), count)
  await vi.waitFor(() => expect(over).toBe(count), { timeout: 60_000 })
})
