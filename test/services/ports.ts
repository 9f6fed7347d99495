import { randomInt } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:net'

const PORT_MIN = 10_000
const TRIES_MAX = 1_000
/**
 * Files that are tested at the same time draw from ports of their own: none takes what another has found free and does not use yet, or has given up
 * for a moment because its server is killed and comes back.
 */
const WORKERS_MAX = 16
const WORKER = Number(process.env['VITEST_POOL_ID'] ?? 0) % WORKERS_MAX
/** Given away before, in this file. */
const given = new Set<number>()

/**
 * Free ports of the loopback, all different. They lie below those that the system gives to outgoing connections: a
 * server that is killed and started again on its port must not find it taken by a client that went on trying to connect
 * to it.
 * @throws Error if there are none
 */
export async function freePorts(count: number): Promise<number[]> {
  const limit = await firstEphemeralPort()
  const held: Server[] = []
  const ports: number[] = []
  try {
    for (let tries = 0; ports.length < count; tries++) {
      if (tries === TRIES_MAX) throw new Error(`no ${count} free ports on 127.0.0.1 from ${PORT_MIN} to ${limit}`)
      const port = PORT_MIN + WORKER + WORKERS_MAX * randomInt(Math.floor((limit - PORT_MIN) / WORKERS_MAX))
      if (given.has(port)) continue
      const server = await listen(port)
      if (!server) continue
      held.push(server)
      ports.push(port)
      given.add(port)
    }
    return ports
  } finally {
    await Promise.all(held.map((server) => new Promise((done) => server.close(done))))
  }
}

/** @returns `undefined` if somebody else does */
function listen(port: number): Promise<Server | undefined> {
  const server = createServer()
  return new Promise((done) => {
    server.once('error', () => done(undefined)).listen(port, '127.0.0.1', () => done(server))
  })
}

/** Linux says it; elsewhere IANA's number is the custom. */
async function firstEphemeralPort(): Promise<number> {
  const text = await readFile('/proc/sys/net/ipv4/ip_local_port_range', 'utf8').catch(() => '')
  const first = Number.parseInt(text, 10)
  return first > PORT_MIN + TRIES_MAX ? first : 32_768
}
