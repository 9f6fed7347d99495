import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import { seededRandom } from '../../bench/load.ts'
import { parseId, slotOfId } from '../../src/core/ids.ts'
import { firstShardMap, shardOfSlot } from '../../src/core/shardMap.ts'
import { type Answer, type Client, clientOf, type Hold, type Problem, type Transfer } from '../support/api.ts'
import { type Keeper, NoAnswer } from './keeper.ts'

/** Money that moves, or is held, if a request goes through. */
type Leg = { from: string; to: string; amount: number }

/** A request as it was sent, and everything that was answered to it. */
export type Asked = {
  readonly what: 'transfer' | 'reversal' | 'hold' | 'capture' | 'release'
  readonly path: string
  readonly body: object
  readonly key: string
  readonly legs: readonly Leg[]
  /** Of a capture or release: the hold. */
  readonly holdId?: string
  readonly answers: Answer<Transfer | Hold | Problem>[]
}

/** What a caller asks for: money within a shard, between shards, or any of it. */
export type Flow = 'local' | 'across' | 'several' | 'hold'

const FUNDS = 5_000
const BALANCE_MAX = 6_000
const SETTLE_MS_MAX = 180_000
const AT_ONCE = 16
/** Callers think about what they ask next: without that they would take all of the machine, and what else runs on it would crawl. */
const THINK_MS_MAX = 100

/** Callers that move money between the wallets of an installation, and remember all of it. */
export class Traffic {
  readonly asked: Asked[] = []
  /** Requests that hung. */
  readonly hung: string[] = []
  /** How long the longest wait for an answer was. */
  slowestMs = 0
  readonly #keepers: readonly Keeper[]
  readonly #clients: readonly Client[]
  readonly #shardCount: number
  /** Wallets by the shard that they live on. */
  readonly wallets: string[][]
  #isResting = false
  #callers: Promise<unknown>[] = []

  constructor(keepers: readonly Keeper[], demoKey: string, shardCount: number) {
    this.#keepers = keepers
    this.#clients = keepers.map((keeper) => clientOf((request) => keeper.send(request), demoKey))
    this.#shardCount = shardCount
    this.wallets = Array.from({ length: shardCount }, () => [])
  }

  get client(): Client {
    const up = this.#keepers.findIndex(({ isUp }) => isUp)
    const client = this.#clients[Math.max(0, up)]
    if (!client) throw new Error('no nodes')
    return client
  }

  /** So many funded wallets on each shard; every third takes in little more than it has. */
  async openWallets(perShard: number): Promise<void> {
    const map = firstShardMap(this.#shardCount)
    while (this.wallets.some(({ length }) => length < perShard)) {
      const limits = Math.random() < 1 / 3 ? { limits: { balanceMax: `${BALANCE_MAX}` } } : {}
      const id = await this.client.wallet(0, limits)
      const there = this.wallets[shardOfSlot(map, slotOfId(parseId('wal', id) ?? ''))]
      if (!there || there.length >= perShard) continue
      await this.client.topUp(id, FUNDS)
      there.push(id)
    }
  }

  /** Begins to ask, with so many callers, until `rest`. @param shards to move money between, by default all */
  start(
    callers: number,
    seed: number,
    flows: readonly Flow[],
    shards: readonly number[] = this.wallets.map((_, i) => i),
  ): void {
    this.#isResting = false
    for (let i = 0; i < callers; i++)
      this.#callers.push(this.#call(seededRandom(seed + i), `${seed} ${i}`, flows, shards))
  }

  /** Asks for nothing more, and waits for what is under way. */
  async rest(): Promise<void> {
    this.#isResting = true
    await Promise.all(this.#callers)
    this.#callers = []
  }

  /** How many were answered, by status; 0 stands for no answer. @param within only those whose wallets all live on this shard */
  counts(within?: number): Record<number, number> {
    const counts: Record<number, number> = {}
    const ids = within === undefined ? undefined : new Set(this.wallets[within])
    for (const { answers, legs } of this.asked) {
      if (ids && !legs.every(({ from, to }) => ids.has(from) && ids.has(to))) continue
      const status = answers[0]?.status ?? 0
      counts[status] = (counts[status] ?? 0) + 1
    }
    return counts
  }

  async #call(random: () => number, name: string, flows: readonly Flow[], shards: readonly number[]): Promise<void> {
    const draw = (max: number) => Math.floor(random() * max)
    const pick = <T>(from: readonly T[]): T => {
      const one = from[draw(from.length)]
      if (one === undefined) throw new Error('nothing to pick from')
      return one
    }
    for (let i = 0; !this.#isResting; i++) {
      await sleep(random() * THINK_MS_MAX)
      const flow = pick(flows)
      const home = pick(shards)
      const away = flow === 'local' || shards.length === 1 ? home : pick(shards.filter((shard) => shard !== home))
      const from = pick(this.wallets[home] ?? [])
      const to = pick((this.wallets[away] ?? []).filter((id) => id !== from))
      const amount = 1 + draw(400)
      const ask = (request: Omit<Asked, 'key' | 'answers'>) =>
        this.#ask(request, `${name} ${i} ${request.what}`, random)
      if (flow === 'hold') await this.#hold(ask, { from, to, amount }, random)
      else if (flow === 'several') {
        const legs = Array.from({ length: 2 + draw(3) }, () => {
          const payer = pick(this.wallets[pick(shards)] ?? [])
          return { from: payer, to: pick(this.wallets.flat().filter((id) => id !== payer)), amount: 1 + draw(200) }
        }).map((leg, place) => (place === 0 ? { from, to, amount } : leg))
        await this.#pay(ask, legs, random)
      } else await this.#pay(ask, [{ from, to, amount }], random)
    }
  }

  async #pay(ask: Ask, legs: readonly Leg[], random: () => number): Promise<void> {
    const [only, ...others] = legs.map(dollars)
    const body = others.length === 0 ? { ...only } : { legs: [only, ...others] }
    const answer = await ask({ what: 'transfer', path: '/v1/transfers', body, legs })
    if (answer?.status !== 201 || random() > 0.1) return
    const { id } = answer.body as Transfer
    const back = legs.toReversed().map(({ from, to, amount }) => ({ from: to, to: from, amount }))
    await ask({ what: 'reversal', path: `/v1/transfers/${id}/reverse`, body: {}, legs: back })
  }

  async #hold(ask: Ask, leg: Leg, random: () => number): Promise<void> {
    const { from: walletId, ...rest } = dollars(leg)
    const expiresInSeconds = random() < 0.2 ? 2 : 3600
    const body = { walletId, ...rest, expiresInSeconds }
    const answer = await ask({ what: 'hold', path: '/v1/holds', body, legs: [leg] })
    if (answer?.status !== 201) return
    const { id: holdId } = answer.body as Hold
    const chance = random()
    const amount = Math.max(1, Math.floor(leg.amount * Math.min(1, 0.3 + random())))
    if (chance < 0.6) {
      const legs = [{ ...leg, amount }]
      await ask({ what: 'capture', path: `/v1/holds/${holdId}/capture`, body: { amount: `${amount}` }, legs, holdId })
    } else if (chance < 0.8) {
      await ask({ what: 'release', path: `/v1/holds/${holdId}/release`, body: {}, legs: [leg], holdId })
    }
  }

  /** Asks one thing; now and then of two nodes at once. @returns an answer, if there was one */
  async #ask(request: Omit<Asked, 'key' | 'answers'>, key: string, random: () => number) {
    const asked: Asked = { ...request, key, answers: [] }
    this.asked.push(asked)
    const first = Math.floor(random() * this.#clients.length)
    const count = random() < 0.1 ? 2 : 1
    await Promise.all(Array.from({ length: count }, (_, i) => this.#send(asked, first + i)))
    // Whoever finds no node, or one that can't, tries something else after a moment.
    const status = asked.answers[0]?.status
    if (status === undefined || status === 503) await sleep(100)
    return asked.answers[0]
  }

  async #send(asked: Asked, node: number): Promise<void> {
    const { path, body, key } = asked
    // Like a load balancer: a node that is known to be away is not asked.
    const turns = this.#keepers.map((_, i) => (node + i) % this.#keepers.length)
    const up = turns.find((turn) => this.#keepers[turn]?.isUp) ?? 0
    const start = Date.now()
    try {
      const answer = await this.#clients[up]?.call<Transfer | Hold | Problem>('POST', path, body, { key })
      if (!answer) return
      asked.answers.push(answer)
      this.slowestMs = Math.max(this.slowestMs, Date.now() - start)
    } catch (error) {
      if (error instanceof NoAnswer) this.hung.push(`${error.message} (${key})`)
    }
  }

  /**
   * Asks for everything once more, of two nodes at once: there is one final answer, and what was final before is the same.
   * @returns what was accepted, and how many were not, by code
   */
  async settle(): Promise<{ accepted: Asked[]; refused: Record<string, number> }> {
    const accepted: Asked[] = []
    const refused: Record<string, number> = {}
    await forEach(this.asked, async (asked) => {
      const known = asked.answers.filter(isFinal).map(gist)
      const ends = await Promise.all([this.#settled(asked, 0), this.#settled(asked, 1)])
      const [end] = ends
      if (!end) return
      const all = new Set([...known, ...ends.map(gist)])
      expect([...all], `${asked.key}: one final answer`).toEqual([gist(end)])
      for (const { status, text } of asked.answers) expect.soft(status, `${asked.key}: ${text}`).not.toBe(500)
      const { code } = end.body as Problem
      if (end.status < 300) accepted.push({ ...asked, answers: [end] })
      else refused[code] = (refused[code] ?? 0) + 1
    })
    return { accepted, refused }
  }

  async #settled(asked: Asked, node: number): Promise<Answer<Transfer | Hold | Problem>> {
    const { path, body, key } = asked
    const deadline = Date.now() + SETTLE_MS_MAX
    for (;;) {
      const client = this.#clients[node % this.#clients.length] ?? this.client
      const answer = await client.call<Transfer | Hold | Problem>('POST', path, body, { key })
      if (isFinal(answer)) return answer
      if (Date.now() > deadline) throw new Error(`${key} has no final answer: ${answer.status} ${answer.text}`)
      await sleep(100)
    }
  }

  /** What every wallet must have, by what was accepted: added up from what was asked. */
  async expectBalances(accepted: readonly Asked[]): Promise<void> {
    const due = new Map(this.wallets.flat().map((id) => [id, { posted: FUNDS, pendingIn: 0, pendingOut: 0 }]))
    const of = (id: string) => due.get(id) ?? { posted: 0, pendingIn: 0, pendingOut: 0 }
    const ended = new Map(accepted.filter(({ what }) => what !== 'hold').map((one) => [one.holdId, one.what]))
    for (const { what, legs, answers } of accepted) {
      const id = answers.map(({ body }) => (body as Transfer | Hold).id)[0]
      for (const { from, to, amount } of legs) {
        if (what === 'transfer' || what === 'reversal' || what === 'capture') {
          of(from).posted -= amount
          of(to).posted += amount
        } else if (what === 'hold') {
          const { body } = await this.client.get<Hold>(`/v1/holds/${id}`)
          const how = id && ended.get(id)
          const statuses = how === 'capture' ? ['captured'] : how === 'release' ? ['released'] : ['held', 'expired']
          expect(statuses, `hold ${id}`).toContain(body.status)
          if (body.status !== 'held') continue
          of(from).pendingOut += amount
          of(to).pendingIn += amount
        }
      }
      if (what !== 'transfer' && what !== 'reversal') continue
      const { body } = await this.client.get<Transfer>(`/v1/transfers/${id}`)
      expect(body.status).toBe('completed')
    }
    for (const [id, amounts] of due) {
      const { posted, pendingIn, pendingOut } = await this.client.balance(id)
      const texts = {
        posted: `${amounts.posted}`,
        pendingIn: `${amounts.pendingIn}`,
        pendingOut: `${amounts.pendingOut}`,
      }
      expect({ id, posted, pendingIn, pendingOut }).toEqual({ id, ...texts })
    }
  }
}

type Ask = (request: Omit<Asked, 'key' | 'answers'>) => Promise<Answer<Transfer | Hold | Problem> | undefined>

const dollars = ({ from, to, amount }: Leg) => ({ from, to, amount: `${amount}`, currency: 'USD' })

/** Done, or refused for good. What is pending, in flight, or could not be asked may yet be either. */
function isFinal({ status }: Answer<unknown>): boolean {
  return status === 200 || status === 201 || status === 422
}

/** An answer without what differs from call to call. */
function gist({ status, text, body }: Answer<Transfer | Hold | Problem>): string {
  return status === 422 ? `422 ${(body as Problem).code}` : `${status} ${text}`
}

async function forEach<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const left = [...items]
  const worker = async () => {
    for (let item = left.pop(); item !== undefined; item = left.pop()) await work(item)
  }
  await Promise.all(Array.from({ length: AT_ONCE }, worker))
}
