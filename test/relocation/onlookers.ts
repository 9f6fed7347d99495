import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import type { Keeper } from '../saga/keeper.ts'
import {
  type Answer,
  type Client,
  clientOf,
  type Entry,
  type PageOf,
  type Problem,
  type Wallet,
} from '../support/api.ts'

const PAUSE_MS = 20

/** A wallet that was opened meanwhile, and the name that it was given last. */
type Opened = { readonly id: string; readonly holderId: string; name: string }

/**
 * Clients that open and rename wallets, and read, of one node and then of another: what one has answered, the other must show. What
 * is answered by nothing but "ask again" is asked again, and counted.
 */
export class Onlookers {
  /** Answers by status; 0 stands for none. */
  readonly counts: Record<number, number> = {}
  /** What was wrong. */
  readonly faults: string[] = []
  slowestMs = 0
  readonly #keepers: readonly Keeper[]
  readonly #clients: readonly Client[]
  readonly #wallets: () => readonly string[]
  readonly #opened: Opened[] = []
  readonly #entries = new Map<string, string[]>()
  #turn = 0
  #isResting = false
  #work: Promise<unknown>[] = []

  constructor(keepers: readonly Keeper[], demoKey: string, wallets: () => readonly string[]) {
    this.#keepers = keepers
    this.#clients = keepers.map((keeper) => clientOf((request) => keeper.send(request), demoKey))
    this.#wallets = wallets
  }

  start(): void {
    this.#work = [this.#loop(() => this.#open()), this.#loop(() => this.#rename()), this.#loop((i) => this.#read(i))]
  }

  /** Begins nothing more; what waits for an answer gets one. */
  async rest(): Promise<void> {
    this.#isResting = true
    await Promise.all(this.#work)
  }

  /** Every wallet that was opened is still there, by its id and by its holder. */
  async expectAll(): Promise<void> {
    for (const { id, holderId, name } of this.#opened) {
      expect((await this.#ask<Wallet>('GET', `/v1/wallets/${id}`)).body).toMatchObject({ id, holderId, name })
      const listed = await this.#ask<PageOf<Wallet>>('GET', `/v1/wallets?holderId=${holderId}`)
      expect(listed.body.data.map((wallet) => wallet.id)).toEqual([id])
    }
    expect(this.faults).toEqual([])
  }

  async #loop(work: (i: number) => Promise<void>): Promise<void> {
    for (let i = 0; !this.#isResting; i++) {
      await work(i).catch((error) => this.faults.push(`${error}`))
      await sleep(PAUSE_MS)
    }
  }

  async #open(): Promise<void> {
    const [holderId, name] = [randomUUID(), `first ${randomUUID()}`]
    const opened = await this.#ask<Wallet>('POST', '/v1/wallets', { holderId, currency: 'USD', name })
    if (opened.status !== 201) this.#fault(opened)
    const { id } = opened.body
    await this.#expectShown({ id, holderId, name })
    this.#opened.push({ id, holderId, name })
  }

  async #rename(): Promise<void> {
    const wallet = this.#opened[Math.floor(Math.random() * this.#opened.length)]
    if (!wallet) return
    const name = `later ${randomUUID()}`
    const renamed = await this.#ask<Wallet>('PATCH', `/v1/wallets/${wallet.id}`, { name })
    if (renamed.status !== 200) this.#fault(renamed)
    wallet.name = name
    await this.#expectShown(wallet)
  }

  async #expectShown({ id, name }: Opened): Promise<void> {
    const shown = await this.#ask<Wallet>('GET', `/v1/wallets/${id}`)
    if (shown.status !== 200 || shown.body.name !== name) this.#fault(shown, `, and not ${name}`)
  }

  /** Of a wallet that pays and is paid: posted entries that were shown once are shown again, in their places. */
  async #read(i: number): Promise<void> {
    const wallets = this.#wallets()
    const id = wallets[i % wallets.length] ?? ''
    const posted: string[] = []
    let cursor: string | null = null
    do {
      const path: string = `/v1/wallets/${id}/entries?limit=100${cursor === null ? '' : `&cursor=${cursor}`}`
      const page: Answer<PageOf<Entry>> = await this.#ask<PageOf<Entry>>('GET', path)
      if (page.status !== 200) this.#fault(page)
      posted.push(...page.body.data.filter(({ layer }) => layer === 'posted').map((entry) => JSON.stringify(entry)))
      cursor = page.body.nextCursor
    } while (cursor !== null)
    posted.reverse()
    const before = this.#entries.get(id) ?? []
    const lost = before.findIndex((entry, place) => posted[place] !== entry)
    if (lost >= 0) this.faults.push(`entry ${lost} of ${id} was ${before[lost]}, and now is ${posted[lost]}`)
    this.#entries.set(id, posted)
  }

  #fault({ status, text }: Answer<unknown>, more = ''): never {
    throw new Error(`${status} ${text}${more}`)
  }

  /** Asks the nodes in turns, with the same key, until one knows. */
  async #ask<T>(method: 'GET' | 'POST' | 'PATCH', path: string, body?: object): Promise<Answer<T>> {
    const key = method === 'GET' ? null : randomUUID()
    for (;;) {
      const turn = this.#turn++ % this.#keepers.length
      const start = Date.now()
      const answer = this.#keepers[turn]?.isUp
        ? await this.#clients[turn]?.call<T | Problem>(method, path, body, { key }).catch(() => undefined)
        : undefined
      const { status = 0 } = answer ?? {}
      this.counts[status] = (this.counts[status] ?? 0) + 1
      this.slowestMs = Math.max(this.slowestMs, Date.now() - start)
      if (answer && status !== 409 && status !== 503) return answer as Answer<T>
      await sleep(100)
    }
  }
}
