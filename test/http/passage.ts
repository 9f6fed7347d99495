import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

/** A way to a server, PostgreSQL for example, that can be cut, go silent, or be slow. */
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
  /** From now on answers come so many milliseconds late, whatever comes over the connections that there are or will be; 0 ends it. */
  slow(delayMs: number): void
  /** New connections go to another server from now on: this one came back on another port. */
  leadTo(databaseUrl: string): void
  close(): Promise<void>
}

export async function openPassage(databaseUrl: string): Promise<Passage> {
  let target = new URL(databaseUrl)
  const sockets = new Set<Socket>()
  let state: 'open' | 'cut' | 'silent' = 'open'
  let delayMs = 0
  /** Passes on what comes, in its order; late, if this is the way of answers and they are to be late. */
  function carry(from: Socket, to: Socket, isAnswer: boolean): void {
    let last = Promise.resolve()
    let waiting = 0
    const inTurn = (pass: () => void) => {
      const delay = isAnswer ? delayMs : 0
      if (delay === 0 && waiting === 0) return pass()
      const dueMs = performance.now() + delay
      waiting += 1
      last = last.then(async () => {
        await sleep(Math.max(0, dueMs - performance.now()))
        waiting -= 1
        pass()
      })
    }
    sockets.add(from)
    from.on('data', (chunk) => inTurn(() => to.write(chunk)))
    from.on('error', () => {})
    from.on('close', () => {
      sockets.delete(from)
      inTurn(() => to.destroy())
    })
  }
  const server = createServer((near) => {
    if (state === 'cut') {
      near.destroy()
      return
    }
    const far = connect(Number(target.port), target.hostname)
    carry(near, far, false)
    carry(far, near, true)
    if (state === 'silent') for (const socket of [near, far]) socket.pause()
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
    slow(ms) {
      delayMs = ms
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
