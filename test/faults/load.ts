import { setTimeout as sleep } from 'node:timers/promises'
import { seededRandom } from '../../bench/load.ts'
import { parseId, slotOfId } from '../../src/core/ids.ts'
import { firstShardMap, shardOfSlot } from '../../src/core/shardMap.ts'
import { until } from '../bus/stage.ts'
import type { Answer, Balance, Client, Problem, Transfer } from '../support/api.ts'

/** What is asked for again and again: a payment within a shard or between two, at once or later (`Prefer: respond-async`), or a balance. */
export type Flow = 'pay 0' | 'pay 1' | 'pay 0 to 1' | 'pay 1 to 0' | 'later 0' | 'later 1' | 'read 0' | 'read 1'
export const FLOWS: readonly Flow[] = [
  ...(['pay 0', 'pay 1', 'pay 0 to 1', 'pay 1 to 0', 'later 0', 'later 1', 'read 0', 'read 1'] as const),
]

/** A call, and what came of it. */
export type Asked = {
  readonly flow: Flow
  readonly key: string
  readonly from: string
  readonly to: string
  readonly amount: number
  readonly sentMs: number
  /** The status, with the code of a problem; `no answer` if there was none within 20 s, `broken` if the connection was. Unset while it is under way. */
  outcome?: string
  answer?: Answer<Transfer & Balance & Problem>
}

/** What each flow is answered when all is well. */
export const WELL: Readonly<Record<Flow, string>> = {
  ...{ 'pay 0': '201', 'pay 1': '201', 'pay 0 to 1': '201', 'pay 1 to 0': '201' },
  ...{ 'later 0': '202', 'later 1': '202', 'read 0': '200', 'read 1': '200' },
}

const WALLETS = 4
export const FUNDS = 10_000_000
const SHARDS = 2
/** Each flow asks so often, whatever became of what it asked before. */
const INTERVAL_MS = 250
const UNDER_WAY_MAX = 200
const ANSWER_MS_MAX = 20_000
const CLEAN_CALLS = 8
const CLEAN_SECONDS = 120

export type Load = {
  readonly asked: readonly Asked[]
  /** By shard. */
  readonly wallets: readonly (readonly string[])[]
  /** Begins to ask, if it does not do so already. */
  start(): void
  /** Asks for nothing more, and waits for what is under way. */
  rest(): Promise<void>
  /** Waits until every flow has been answered well, some calls in a row. */
  clean(): Promise<void>
  /** Sends a payment again. */
  repeat(asked: Asked): Promise<Answer<Transfer & Balance & Problem>>
}

/** A steady load on a node with two shards, with wallets of its own. */
export async function createLoad(client: Client, seed: number): Promise<Load> {
  const random = seededRandom(seed)
  const pick = (count: number) => Math.floor(random() * count)
  const wallets = await openWallets(client)
  const asked: Asked[] = []
  const underWay = new Set<Promise<void>>()
  let isResting = true
  let flows: Promise<unknown> = Promise.resolve()

  function draw(flow: Flow): Asked {
    const [fromShard = 0, toShard = fromShard] = (flow.match(/\d/g) ?? []).map(Number)
    const place = pick(WALLETS)
    const other = fromShard === toShard ? (place + 1 + pick(WALLETS - 1)) % WALLETS : pick(WALLETS)
    const [from = '', to = ''] = [wallets[fromShard]?.[place], wallets[toShard]?.[other]]
    return { flow, key: `${seed}-${asked.length}`, from, to, amount: 1 + pick(9), sentMs: Date.now() }
  }

  function send({ flow, from, to, amount, key }: Asked) {
    if (flow.startsWith('read')) return client.get<Transfer & Balance & Problem>(`/v1/wallets/${from}/balance`)
    const headers: Record<string, string> = flow.startsWith('later') ? { prefer: 'respond-async' } : {}
    const body = { from, to, amount: `${amount}`, currency: 'USD' }
    return client.call<Transfer & Balance & Problem>('POST', '/v1/transfers', body, { key, headers })
  }

  async function ask(flow: Flow): Promise<void> {
    const one = draw(flow)
    asked.push(one)
    const late = new AbortController()
    const answer = await Promise.race([
      send(one).catch(() => 'broken' as const),
      sleep(ANSWER_MS_MAX, 'no answer' as const, { signal: late.signal }).catch(() => 'no answer' as const),
    ])
    late.abort()
    if (typeof answer === 'string') one.outcome = answer
    else {
      one.answer = answer
      one.outcome = [answer.status, answer.status < 400 ? [] : answer.body?.code].flat().join(' ')
    }
  }

  async function flowOn(flow: Flow): Promise<void> {
    await sleep(random() * INTERVAL_MS)
    while (!isResting) {
      if (underWay.size < UNDER_WAY_MAX) {
        const call: Promise<void> = ask(flow).finally(() => underWay.delete(call))
        underWay.add(call)
      }
      await sleep(INTERVAL_MS)
    }
  }

  /** Of what was sent since then, the last calls of a flow that were answered. */
  const lastOf = (flow: Flow, sinceMs: number) =>
    asked
      .filter((one) => one.flow === flow && one.sentMs >= sinceMs && one.outcome !== undefined)
      .slice(-CLEAN_CALLS)
      .map(({ outcome }) => outcome)
  return {
    asked,
    wallets,
    start() {
      if (!isResting) return
      isResting = false
      flows = Promise.all(FLOWS.map(flowOn))
    },
    async rest() {
      isResting = true
      await flows
      await Promise.all(underWay)
    },
    async clean() {
      const beginMs = Date.now()
      const isClean = (flow: Flow) => {
        const last = lastOf(flow, beginMs)
        return last.length === CLEAN_CALLS && last.every((outcome) => outcome === WELL[flow])
      }
      const tell = () => FLOWS.map((flow) => `${flow}: ${lastOf(flow, beginMs)}`).join('; ')
      await until(() => FLOWS.every(isClean), tell, CLEAN_SECONDS)
    },
    repeat: send,
  }
}

async function openWallets(client: Client): Promise<string[][]> {
  const map = firstShardMap(SHARDS)
  const wallets: string[][] = Array.from({ length: SHARDS }, () => [])
  while (wallets.some(({ length }) => length < WALLETS)) {
    const id = await client.wallet(0)
    const there = wallets[shardOfSlot(map, slotOfId(parseId('wal', id) ?? ''))]
    if (!there || there.length >= WALLETS) continue
    await client.topUp(id, FUNDS)
    there.push(id)
  }
  return wallets
}

/** How many calls had which outcome, by flow; of those that were sent in a span of time. */
export function outcomesOf(asked: readonly Asked[], sinceMs = 0, untilMs = Number.POSITIVE_INFINITY) {
  const counts = Object.fromEntries(FLOWS.map((flow) => [flow, {}])) as Record<Flow, Record<string, number>>
  for (const { flow, outcome = 'under way', sentMs } of asked) {
    if (sentMs < sinceMs || sentMs > untilMs) continue
    counts[flow][outcome] = (counts[flow][outcome] ?? 0) + 1
  }
  return counts
}
