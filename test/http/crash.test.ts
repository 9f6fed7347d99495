import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, onTestFinished, test } from 'vitest'
import { seededRandom } from '../../bench/load.ts'
import { connect as connectTo } from '../../src/postgres/connect.ts'
import { newKey } from '../../src/tenants/directory.ts'
import { seedFor } from '../ledger/seed.ts'
import { type Answer, type Client, clientOf, type Entry, type Transfer } from '../support/api.ts'
import { migratedDatabase } from '../support/database.ts'
import { killEmbedded, type NodeProcess, type NodeSettings, startNode, verifyBooks } from '../support/node.ts'
import { expectProblem } from './problem.ts'

/** A transfer as it was sent, and what was answered, if anything was. */
type Sent = { key: string; from: string; to: string; amount: number; answer: Answer<Transfer> | undefined }

const FUNDS = 1_000_000
/** Callers at once; each sends its next transfer when it has the answer to the last. */
const CALLERS = 24

/** A node that can be started again and again on the same data, with a few wallets to move money between. */
class Stage {
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

function pay(client: Client, { from, to, amount, key }: Sent): Promise<Answer<Transfer>> {
  return client.pay(from, to, amount, { key })
}

/** Runs `work` on all items, a few at a time. */
async function forAll<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const left = [...items]
  const worker = async () => {
    for (let item = left.pop(); item !== undefined; item = left.pop()) await work(item)
  }
  await Promise.all(Array.from({ length: CALLERS }, worker))
}

/** What was answered is there, and is answered again to whoever repeats it. */
async function expectAnsweredAreThere({ client }: Stage, sent: readonly Sent[]): Promise<void> {
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
async function retryUnanswered({ client }: Stage, sent: readonly Sent[]): Promise<void> {
  await forAll(sent, async (transfer) => {
    if (transfer.answer?.status === 201) return
    const [one, other] = await Promise.all([pay(client, transfer), pay(client, transfer)])
    expect(one.status, one.text).toBe(201)
    expect(other.text).toBe(one.text)
    transfer.answer = one
  })
}

/** Every transfer is in the books exactly once, and nothing else is. */
async function expectBooks({ client, wallets, sent }: Stage): Promise<void> {
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
    expect(entries.map(({ sequence }) => sequence)).toEqual(entries.map((_, i) => entries.length - i))
    seen.push(...entries.filter(({ amount }) => amount.startsWith('-')).map(({ transferId }) => transferId))
  }
  expect(seen.sort()).toEqual(ids)
}

/** The program's own audit of every block, run beside the node. */
async function expectVerified({ settings }: Stage): Promise<void> {
  const { code, output } = await verifyBooks(settings)
  expect(code, output).toBe(0)
}

async function stage(settings: NodeSettings, random: () => number): Promise<Stage> {
  const made = new Stage(settings, random)
  onTestFinished(() => made.kill())
  await made.start()
  return made
}

describe('kill -9', () => {
  test('at any moment loses no transfer that was answered, and repeats none', { timeout: 120_000 }, async () => {
    const random = seededRandom(seedFor('kill -9 of the node'))
    const one = await stage({ databaseUrl: await migratedDatabase() }, random)
    for (let round = 1; round <= 4; round++) {
      const before = one.sent.length
      await one.load()
      await sleep(random() * 400)
      await one.kill()
      await one.rest()
      await one.start()
      await expectAnsweredAreThere(one, one.sent.slice(before))
      await retryUnanswered(one, one.sent.slice(before))
    }
    await expectBooks(one)
    expect(await one.node.stop()).toBe(0)
  })

  test('of one node does not disturb the other, which knows all that the dead one answered', async () => {
    const random = seededRandom(seedFor('kill -9 of one of two nodes'))
    const databaseUrl = await migratedDatabase()
    const [one, other] = [await stage({ databaseUrl }, random), await stage({ databaseUrl }, random)]
    await Promise.all([one.load(), other.load()])
    await sleep(random() * 500)
    await one.kill()
    await one.rest()
    await other.answers(other.answered + 5 * CALLERS)
    await other.rest()
    one.moveTo(other)
    for (const each of [one, other]) {
      await expectAnsweredAreThere(each, each.sent)
      await retryUnanswered(each, each.sent)
      await expectBooks(each)
    }
    expect(await other.node.stop()).toBe(0)
  })

  test('of the node and its embedded PostgreSQL loses nothing that was answered', { timeout: 120_000 }, async () => {
    const random = seededRandom(seedFor('kill -9 of the node and its PostgreSQL'))
    const dataDir = await mkdtemp(join(tmpdir(), 'zerosum-crash-'))
    const one = new Stage({ dataDir }, random)
    onTestFinished(async () => {
      await one.kill()
      await killEmbedded(dataDir).catch(() => {})
      await rm(dataDir, { recursive: true, force: true })
    })
    await one.start()
    for (const order of ['node first', 'PostgreSQL first'] as const) {
      const before = one.sent.length
      await one.load()
      await sleep(random() * 500)
      if (order === 'node first') await one.kill()
      expect(await killEmbedded(dataDir)).toBeGreaterThan(1)
      await one.kill()
      await one.rest()
      await one.start()
      await expectAnsweredAreThere(one, one.sent.slice(before))
      await retryUnanswered(one, one.sent.slice(before))
    }
    await expectBooks(one)
    await expectVerified(one)
    expect(await one.node.stop()).toBe(0)
  })
})

test('a node that stalls under load does not stop the other for long, and does no harm when it wakes', {
  timeout: 120_000,
}, async () => {
  const random = seededRandom(seedFor('a node that stalls'))
  const databaseUrl = await migratedDatabase()
  const [one, other] = [await stage({ databaseUrl }, random), await stage({ databaseUrl }, random)]
  await Promise.all([one.load(), other.load()])
  await sleep(random() * 300)
  process.kill(one.node.pid, 'SIGSTOP')
  // If it has the chain's lock, PostgreSQL takes it away after five seconds.
  await other.answers(other.answered + 5 * CALLERS)
  process.kill(one.node.pid, 'SIGCONT')
  await one.answers(one.answered + 2 * CALLERS)
  await Promise.all([one.rest(), other.rest()])
  for (const each of [one, other]) {
    await expectAnsweredAreThere(each, each.sent)
    await retryUnanswered(each, each.sent)
    await expectBooks(each)
  }
  await expectVerified(one)
  expect(await Promise.all([one.node.stop(), other.node.stop()])).toEqual([0, 0])
})

test('connections to PostgreSQL that break under load lose and repeat nothing', { timeout: 120_000 }, async () => {
  const random = seededRandom(seedFor('connections that break'))
  const databaseUrl = await migratedDatabase()
  const one = await stage({ databaseUrl }, random)
  const admin = connectTo(databaseUrl, { max: 1, role: null })
  await one.load()
  for (let i = 0; i < 12; i++) {
    await sleep(random() * 150)
    await admin`
      SELECT pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'zerosum%'`
  }
  await admin.end()
  await one.answers(one.answered + 5 * CALLERS)
  await one.rest()
  for (const { answer } of one.sent) expect.soft([201, 503], answer?.text).toContain(answer?.status)
  await expectAnsweredAreThere(one, one.sent)
  await retryUnanswered(one, one.sent)
  await expectBooks(one)
  await expectVerified(one)
  expect(await one.node.stop()).toBe(0)
})

describe('SIGTERM', () => {
  test('under load: what was taken in is answered, the rest had no effect, and the exit code is 0', async () => {
    const random = seededRandom(seedFor('SIGTERM'))
    const one = await stage({ databaseUrl: await migratedDatabase() }, random)
    for (let round = 1; round <= 2; round++) {
      const before = one.sent.length
      await one.load()
      await sleep(random() * 300)
      expect(await one.node.stop()).toBe(0)
      await one.rest()
      const sent = one.sent.slice(before)
      for (const { answer } of sent) {
        if (answer && answer.status !== 201) expect.soft(answer.status, answer.text).toBe(503)
      }
      await one.start()
      await expectAnsweredAreThere(one, sent)
      await forAll(sent, async (transfer) => {
        if (transfer.answer?.status === 201) return
        const first = await pay(one.client, transfer)
        expect(first.headers['idempotency-replayed'], 'it was posted, but its caller was not told').toBeUndefined()
        expect(first.status).toBe(201)
        transfer.answer = first
      })
    }
    await expectBooks(one)
    expect(await one.node.stop()).toBe(0)
  })

  test('while requests come in: those that it turns away get a problem that says when to retry', async () => {
    const one = await stage({ databaseUrl: await migratedDatabase() }, Math.random)
    await one.load()
    expect(await one.node.stop()).toBe(0)
    await one.rest()
    for (const { answer } of one.sent) {
      if (!answer || answer.status === 201) continue
      expect(answer.headers['content-type'], answer.text).toMatch(/^application\/problem\+json/)
      expectProblem(answer, 'saturated', 'ledger_unavailable')
      expect(answer.headers['retry-after']).toMatch(/^[1-9]\d*$/)
    }
  })

  test('ends a node, though clients that say nothing, or half of something, hold on to their connections', async () => {
    const one = await stage({ databaseUrl: await migratedDatabase() }, Math.random)
    const { port, hostname } = new URL(one.node.url)
    const halves = [
      '',
      'POST /v1/transfers HTTP/1.1\r\nHost: x\r\nContent-Le',
      `POST /v1/transfers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${one.demoKey}\r\nContent-Length: 100\r\n\r\n{`,
    ]
    for (const half of halves) {
      const socket = connect(Number(port), hostname).on('error', () => {})
      onTestFinished(() => {
        socket.destroy()
      })
      await once(socket, 'connect')
      if (half) socket.write(half)
    }
    // The node has seen them once it has answered what came later.
    await one.client.get('/livez')
    expect(await one.node.stop()).toBe(0)
  })
})

test('a node says what is wrong and ends, when it cannot start', async () => {
  const nowhere = 'postgres://zerosum:secret-password@127.0.0.1:1/nowhere'
  for (const settings of [{ databaseUrl: nowhere }, { databaseUrl: 'mysql://x' }, { demoKey: 'short' }]) {
    const error = await startNode(settings).then(
      async (node) => {
        await node.kill()
        return new Error('it started')
      },
      (reason: Error) => reason,
    )
    expect(error.message).toContain('the node did not start')
    expect(error.message).not.toContain('secret-password')
    expect(error.message.split('\n').length, error.message).toBeLessThan(40)
  }
})
