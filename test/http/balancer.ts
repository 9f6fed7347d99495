import { once } from 'node:events'
import { Agent, createServer, type IncomingMessage, request, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

/** What stands before several nodes: it asks /readyz of each again and again, and sends requests to those that are ready, in turn. */
export type Balancer = {
  readonly url: string
  /** Nodes to ask from now on. */
  add(url: string): void
  remove(url: string): void
  /** The nodes that were ready when they were asked last. */
  ready(): string[]
  close(): Promise<void>
}

const ASK_MS = 50
/** A node that takes longer to say that it is ready is not. */
const ANSWER_MS_MAX = 2_500
const WAIT_MS_MAX = 10_000

/** It repeats nothing: a request that fails is answered 502. Connections to nodes are kept, as balancers do. */
export async function startBalancer(): Promise<Balancer> {
  const nodes = new Map<string, { isReady: boolean; agent: Agent }>()
  let turn = 0
  let isClosed = false

  const ready = () => [...nodes].filter(([, { isReady }]) => isReady).map(([url]) => url)

  async function ask(): Promise<void> {
    while (!isClosed) {
      await Promise.all(
        [...nodes].map(async ([url, node]) => {
          node.isReady = await fetch(`${url}/readyz`, { signal: AbortSignal.timeout(ANSWER_MS_MAX) }).then(
            async (answer) => {
              await answer.text()
              return answer.ok
            },
            () => false,
          )
        }),
      )
      await sleep(ASK_MS)
    }
  }

  async function pass(near: IncomingMessage, answer: ServerResponse): Promise<void> {
    for (let ms = 0; ready().length === 0 && ms < WAIT_MS_MAX; ms += ASK_MS) await sleep(ASK_MS)
    const choice = ready()
    const url = choice[turn++ % Math.max(1, choice.length)]
    const node = url === undefined ? undefined : nodes.get(url)
    if (url === undefined || !node) {
      answer.writeHead(502).end('no node is ready')
      return
    }
    const { hostname, port } = new URL(url)
    const far = request(
      { hostname, port, path: near.url, method: near.method, headers: near.headers, agent: node.agent },
      (from) => {
        answer.writeHead(from.statusCode ?? 502, from.headers)
        from.pipe(answer)
      },
    )
    far.on('error', (error) => {
      if (!answer.headersSent) answer.writeHead(502).end(`${error}`)
      else answer.destroy()
    })
    near.pipe(far)
  }

  const server = createServer((near, answer) => void pass(near, answer)).listen(0, '127.0.0.1')
  // A connection that it closed because it was idle, just when its client used it again, would be no node's fault.
  server.keepAliveTimeout = 0
  await once(server, 'listening')
  const asking = ask()
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    add(url) {
      nodes.set(url, { isReady: false, agent: new Agent({ keepAlive: true }) })
    },
    remove(url) {
      nodes.get(url)?.agent.destroy()
      nodes.delete(url)
    },
    ready,
    async close() {
      isClosed = true
      await asking
      for (const { agent } of nodes.values()) agent.destroy()
      server.closeAllConnections()
      server.close()
    },
  }
}
