import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { onTestFinished } from 'vitest'

/** What an endpoint got. */
export type Call = { readonly path: string; readonly headers: IncomingHttpHeaders; readonly body: string }

/** An endpoint on the loopback: a real HTTP server. */
export type Receiver = {
  readonly url: string
  readonly port: number
  readonly calls: Call[]
  /** Waits until it has been called so often. */
  called(count: number): Promise<Call[]>
}

/** Answers a call; `number` is 1 for the first. */
export type Respond = (answer: ServerResponse, call: Call, number: number, request: IncomingMessage) => unknown

/** Opens a receiver, until the end of the test. It answers 204, if it isn't told otherwise. */
export async function openReceiver(respond: Respond = (answer) => answer.writeHead(204).end()): Promise<Receiver> {
  const calls: Call[] = []
  const server = createServer(async (request, answer) => {
    request.on('error', () => {})
    let body = ''
    for await (const chunk of request.setEncoding('utf8')) body += chunk
    const call = { path: request.url ?? '', headers: request.headers, body }
    respond(answer, call, calls.push(call), request)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  return {
    port,
    url: `http://127.0.0.1:${port}/hook`,
    calls,
    async called(count) {
      while (calls.length < count) await sleep(10)
      return calls
    },
  }
}
