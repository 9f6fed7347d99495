import { setTimeout as sleep } from 'node:timers/promises'
import type { Received, Sent } from '../support/api.ts'
import { type NodeProcess, type NodeSettings, startNode } from '../support/node.ts'

const START_MS_MAX = 120_000
/** Longer than any answer takes, and some more for a busy machine. */
const ANSWER_MS_MAX = 60_000

/** No answer at all, though the node was there: it hangs. */
export class NoAnswer extends Error {}

/** Keeps a node running, as a supervisor does: starts it, and starts it again until it stays. */
export class Keeper {
  #settings: NodeSettings
  #node: NodeProcess | undefined

  constructor(settings: NodeSettings) {
    this.#settings = settings
  }

  get isUp(): boolean {
    return this.#node !== undefined
  }

  /** It does not start while a database is away. */
  async start(): Promise<void> {
    const deadline = Date.now() + START_MS_MAX
    for (;;) {
      try {
        this.#node = await startNode(this.#settings)
        return
      } catch (error) {
        if (Date.now() > deadline) throw error
      }
      await sleep(200)
    }
  }

  /** The databases that it is told of when it starts next. */
  set databaseUrl(databaseUrl: string) {
    this.#settings = { ...this.#settings, databaseUrl }
  }

  async kill(): Promise<void> {
    const node = this.#node
    this.#node = undefined
    await node?.kill()
  }

  /** @returns its exit code */
  async stop(): Promise<number | null> {
    const node = this.#node
    this.#node = undefined
    return node ? await node.stop() : null
  }

  /** @throws NoAnswer; or what the connection met, if the node is not there or ends meanwhile */
  async send(request: Sent): Promise<Received> {
    const node = this.#node
    if (!node) throw new Error('no node runs')
    const controller = new AbortController()
    const late = sleep(ANSWER_MS_MAX, undefined, { signal: controller.signal }).then(() => {
      throw new NoAnswer(`no answer after ${ANSWER_MS_MAX} ms: ${request.method} ${request.path}`)
    })
    const answer = node.send(request)
    answer.catch(() => {}) // if it is late, nobody waits for it
    try {
      return await Promise.race([answer, late])
    } finally {
      late.catch(() => {})
      controller.abort()
    }
  }
}
