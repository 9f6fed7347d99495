import { createServer, type IncomingMessage, type RequestListener, type Server, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { Socket } from 'node:net'
import { TLS_VERSION_MIN, type Tls } from '../tls/files.ts'

/** What one client, or all of them, may ask of a node before a request is understood. All have defaults. */
export type ServerLimits = {
  /** Open connections; what comes beyond is closed at once. */
  connectionsMax?: number
  /** The same for one address. Clients behind one proxy have one address. */
  connectionsPerAddressMax?: number
  /** For the head of a request, from its first byte, or from the connection. */
  headersMsMax?: number
  /** For a whole request, its body included. */
  requestMsMax?: number
  /** How often it is looked who is too slow. */
  lookMs?: number
}

export type ServerOptions = {
  /** With `ca`, every client must have a certificate of that CA. None at all: plain HTTP. */
  tls?: Tls | undefined
  limits?: ServerLimits | undefined
}

const CONNECTIONS_MAX = 10_000
const HEADERS_MS_MAX = 10_000
const REQUEST_MS_MAX = 30_000
const HANDSHAKE_MS_MAX = 10_000
const LOOK_MS = 1_000
/** Longer than load balancers keep a connection, so that it is they who close it. */
const KEEP_ALIVE_MS = 72_000
/** Of the request line and all headers. */
const HEAD_BYTES_MAX = 16 * 1024
/** On one connection, sent without waiting for answers. Who sends more is cut off. */
export const PIPELINED_MAX = 100

/** The server under the app: Node's own, with limits, with TLS or without. It does not listen yet. */
export function createHttpServer(handler: RequestListener, { tls, limits = {} }: ServerOptions): Server {
  const settings = {
    maxHeaderSize: HEAD_BYTES_MAX,
    headersTimeout: limits.headersMsMax ?? HEADERS_MS_MAX,
    requestTimeout: limits.requestMsMax ?? REQUEST_MS_MAX,
    connectionsCheckingInterval: limits.lookMs ?? LOOK_MS,
    keepAliveTimeout: KEEP_ALIVE_MS,
  }
  const bounded = boundPipelines(handler)
  const server: Server = tls
    ? (createTlsServer(
        {
          ...settings,
          ...tls,
          minVersion: TLS_VERSION_MIN,
          handshakeTimeout: HANDSHAKE_MS_MAX,
          ...(tls.ca !== undefined && { requestCert: true, rejectUnauthorized: true }),
        },
        bounded,
      ) as unknown as Server)
    : createServer(settings, bounded)
  // Node would drop what is beyond the number without a word, an idempotency key perhaps; the app refuses it (HEADERS_MAX).
  server.maxHeadersCount = 0
  server.maxConnections = limits.connectionsMax ?? CONNECTIONS_MAX
  if (limits.connectionsPerAddressMax !== undefined) boundAddresses(server, limits.connectionsPerAddressMax)
  return server
}

/** Node starts on every request that has come in, however many those before it on the connection are that have no answer yet. */
function boundPipelines(handler: RequestListener): RequestListener {
  const waiting = new WeakMap<Socket, number>()
  return (request: IncomingMessage, response: ServerResponse) => {
    const { socket } = request
    const count = (waiting.get(socket) ?? 0) + 1
    if (count > PIPELINED_MAX) {
      socket.destroy()
      return
    }
    waiting.set(socket, count)
    response.once('close', () => waiting.set(socket, (waiting.get(socket) ?? 1) - 1))
    handler(request, response)
  }
}

function boundAddresses(server: Server, max: number): void {
  const open = new Map<string, number>()
  server.on('connection', (socket: Socket) => {
    const address = socket.remoteAddress ?? ''
    const count = (open.get(address) ?? 0) + 1
    open.set(address, count)
    socket.once('close', () => {
      const left = (open.get(address) ?? 1) - 1
      if (left > 0) open.set(address, left)
      else open.delete(address)
    })
    if (count > max) socket.destroy()
  })
}
