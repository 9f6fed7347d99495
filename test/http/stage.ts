import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished } from 'vitest'
import { newKey } from '../../src/tenants/directory.ts'
import { type Answer, type Client, clientOf, type Entry, type Transfer } from '../support/api.ts'
import { type NodeProcess, type NodeSettings, startNode, verifyBooks } from '../support/node.ts'

/** A transfer as it was sent, and what was answered, if anything was. */
export type Sent = { key: string; from: string; to: string; amount: number; answer: Answer<Transfer> | undefined }

const FUNDS = 1_000_000
/** Callers at once; each sends its next transfer soon after the answer to the last. */
export const CALLERS = 24
/** They pause, so that they leave something of the machine to the node, and to whoever else is tested. */
const PAUSE_MS_MAX = 40

/** A node that can be started again and again on the same data, with a few wallets to move money between. */
export class Stage {
  readonly demoKey = newKey()
  readonly wallets: string[] = []
  readonly sent: Sent[] = []
  readonly settings: NodeSettings
  readonly #random: () => number
  #node: NodeProcess | undefined
  #callers: Promise<unknown> = Promise.resolve()
  #isResting = false

  constructor(settings: NodeSettings, random: () => number) {
    this.settings = settings
    this.#random = random
  }

  get node(): NodeProcess {
    if (!this.#node) throw new Error('no node runs')
    return this.#node
  }

  get client(): Client {
    return clientOf(this.node.send, this.demoKey)
  }

  /** How many transfers were answered that they went through. */
  get answered(): number {
    return this.sent.filter(({ answer }) => answer?.status === 201).length
  }

  async start(): Promise<void> {
    this.#node = await startNode({ ...this.settings, demoKey: this.demoKey })
    while (this.wallets.length < 6) this.wallets.push(await this.client.wallet(FUNDS))
  }

  /** From now on another node is asked. */
  moveTo(other: Stage): void {
    this.#node = other.node
  }

  /** Moves money at random, until `rest` or until every caller has lost the node; returns when it has begun. */
  async load(): Promise<void> {
    const { client } = this
    const before = this.answered
    this.#isResting = false
    const work = async () => {
      while (!this.#isResting) {
        await sleep(this.#random() * PAUSE_MS_MAX)
        const from = this.#pick()
        const to = this.wallets[(this.wallets.indexOf(from) + 1 + Math.floor(this.#random() * 5)) % 6] ?? ''
        const amount = 1 + Math.floor(this.#random() * 9)
        const transfer: Sent = { key: randomUUID(), from, to, amount, answer: undefined }
        this.sent.push(transfer)
        try {
          transfer.answer = await pay(client, transfer)
        } catch {
          return
        }
      }
    }
    this.#callers = Promise.all(Array.from({ length: CALLERS }, work))
    await this.answers(before + CALLERS)
  }

  /** Waits until so many transfers have been answered. */
  async answers(count: number): Promise<void> {
    while (this.answered < count) await sleep(10)
  }

  /** Sends no more, and waits for what is under way. */
  async rest(): Promise<void> {
    this.#isResting = true
    await this.#callers
  }

  #pick(): string {
    return this.wallets[Math.floor(this.#random() * this.wallets.length)] ?? ''
  }

  async kill(): Promise<void> {
    await this.#node?.kill()
  }
}

/** Sends a transfer, for the first time or again. */
export function pay(client: Client, { from, to, amount, key }: Sent): Promise<Answer<Transfer>> {
  return client.pay(from, to, amount, { key })
}

/**
 * Asks again while nobody knows, or there is no room: on a slow machine what is asked at once may take longer than a caller waits.
 * @param ask with the same key each time
 */
export async function decided<T>(ask: () => Promise<Answer<T>>): Promise<Answer<T>> {
  for (;;) {
    const answer = await ask()
    if (answer.status !== 409 && answer.status !== 503) return answer
    await sleep(PAUSE_MS_MAX)
  }
}

/** Runs `work` on all items, a few at a time. */
export async function forAll<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const left = [...items]
  const worker = async () => {
    for (let item = left.pop(); item !== undefined; item = left.pop()) await work(item)
  }
  await Promise.all(Array.from({ length: CALLERS }, worker))
}

/** What was answered is there, and is answered again to whoever repeats it. */
export async function expectAnsweredAreThere({ client }: Stage, sent: readonly Sent[]): Promise<void> {
  await forAll(sent, async (transfer) => {
    const { answer } = transfer
    if (answer?.status !== 201) return
    const read = await client.get<Transfer>(`/v1/transfers/${answer.body.id}`)
    expect(read.body).toEqual(answer.body)
    const replay = await pay(client, transfer)
    expect({ status: replay.status, text: replay.text }).toEqual({ status: 201, text: answer.text })
    expect(replay.headers['idempotency-replayed']).toBe('true')
  })
}

/** Whoever got no answer asks again, twice at once: one effect, one answer. */
export async function retryUnanswered({ client }: Stage, sent: readonly Sent[]): Promise<void> {
  await forAll(sent, async (transfer) => {
    if (transfer.answer?.status === 201) return
    const [one, other] = await Promise.all([pay(client, transfer), pay(client, transfer)])
    expect(one.status, one.text).toBe(201)
    expect(other.text).toBe(one.text)
    transfer.answer = one
  })
}

/** Every transfer is in the books exactly once, and nothing else is. */
export async function expectBooks({ client, wallets, sent }: Stage): Promise<void> {
  const expected = new Map(wallets.map((wallet) => [wallet, BigInt(FUNDS)]))
  for (const { from, to, amount } of sent) {
    expected.set(from, (expected.get(from) ?? 0n) - BigInt(amount))
    expected.set(to, (expected.get(to) ?? 0n) + BigInt(amount))
  }
  const ids = sent.map(({ answer }) => answer?.body.id).sort()
  expect(new Set(ids).size).toBe(sent.length)
  const seen: (string | null)[] = []
  for (const wallet of wallets) {
    expect(await client.available(wallet)).toBe(expected.get(wallet))
    const entries = await client.all<Entry>(`/v1/wallets/${wallet}/entries`)
    const sequences = entries.map(({ sequence }) => sequence)
    expect(sequences).toEqual([...new Set(sequences)].sort((a, b) => b - a))
    seen.push(...entries.filter(({ amount }) => amount.startsWith('-')).map(({ transferId }) => transferId))
  }
  expect(seen.sort()).toEqual(ids)
}

/** The program's own audit of every block, run beside the node. */
export async function expectVerified({ settings }: Stage): Promise<void> {
  const { code, output } = await verifyBooks(settings)
  expect(code, output).toBe(0)
}

/** A stage whose node is killed when the test is over, if it still runs. */
export async function stage(settings: NodeSettings, random: () => number): Promise<Stage> {
  const made = new Stage(settings, random)
  onTestFinished(() => made.kill())
  await made.start()
  return made
}
