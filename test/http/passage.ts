import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

/** A way to PostgreSQL that can be cut, or go silent. */
export type Passage = {
  /** The same database, by way of here. */
  urlOf(url: string): string
  /** Breaks every connection, and every new one at once. */
  cut(): void
  /** Keeps connections, takes new ones, and passes nothing on. */
  silence(): void
  /** Passes on again what comes over new connections; those that went silent stay so. */
  reopen(): void
  /** Passes on again, also what came meanwhile. */
  mend(): void
  /** New connections go to another server from now on: this one came back on another port. */
  leadTo(databaseUrl: string): void
  close(): Promise<void>
}

export async function openPassage(databaseUrl: string): Promise<Passage> {
  let target = new URL(databaseUrl)
  const sockets = new Set<Socket>()
  let state: 'open' | 'cut' | 'silent' = 'open'
  const server = createServer((near) => {
    if (state === 'cut') {
      near.destroy()
      return
    }
    const far = connect(Number(target.port), target.hostname)
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(one)
      one.on('data', (chunk) => other.write(chunk))
      one.on('error', () => {})
      one.on('close', () => {
        sockets.delete(one)
        other.destroy()
      })
      if (state === 'silent') one.pause()
    }
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return {
    urlOf(url) {
      const via = new URL(url)
      via.port = `${port}`
      return via.href
    },
    cut() {
      state = 'cut'
      for (const socket of sockets) socket.destroy()
    },
    silence() {
      state = 'silent'
      for (const socket of sockets) socket.pause()
    },
    reopen() {
      state = 'open'
    },
    mend() {
      state = 'open'
      for (const socket of sockets) socket.resume()
    },
    leadTo(url) {
      target = new URL(url)
    },
    async close() {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}
