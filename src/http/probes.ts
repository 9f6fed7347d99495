import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { FastifyInstance } from 'fastify'

/** What says nothing of anybody: orchestrators and metrics collectors have no key, and often no certificate. */
const PATHS = new Set(['/livez', '/readyz', '/metrics'])
const REQUEST_MS_MAX = 5_000
const CONNECTIONS_MAX = 100

/**
 * Answers probes in plain HTTP on a port of their own, for a node whose other port asks for TLS and perhaps a certificate. Everything else is
 * a bare 404 there.
 * @returns the port, and what ends it
 */
export async function listenForProbes(
  app: FastifyInstance,
  { host, port }: { host: string; port: number },
): Promise<{ port: number; close(): Promise<void> }> {
  const settings = { requestTimeout: REQUEST_MS_MAX, connectionsCheckingInterval: 1_000 }
  const server = createServer(settings, (request, response) => {
    const isProbe = request.method === 'GET' && PATHS.has((request.url ?? '').split('?', 1)[0] ?? '')
    if (isProbe) app.routing(request, response)
    else response.writeHead(404).end()
  })
  server.maxConnections = CONNECTIONS_MAX
  server.listen(port, host)
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    async close() {
      server.closeAllConnections()
      await new Promise((done) => server.close(done))
    },
  }
}
