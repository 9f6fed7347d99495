import type { ChildProcess } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { formatId } from '../src/core/ids.ts'
import { startEmbedded } from '../src/postgres/embedded.ts'
import { whyUnavailable } from '../test/services/available.ts'
import { type Haproxy, startHaproxy } from '../test/services/haproxy.ts'
import { halves } from './cores.ts'
import { drawCurve, type Step } from './curve.ts'
import { fund, migrated, openTenant } from './ledger.ts'
import { seededRandom, uniform } from './load.ts'
import { startNode } from './node.ts'
import { type Flow, IN_TIME_MS, offer } from './openLoop.ts'

export type OverloadOptions = {
  accounts: number
  seconds: number
  seed: number
  json: boolean
  svg: string | undefined
  /** Without a balancer before the node. */
  direct: boolean
  /** Without cores of their own for those that make the load. */
  together: boolean
}

const FIRST_PER_SECOND = 500
/** A new process is slow for the first seconds. */
const WARM_UP = [500, 1_000, 2_000]
const GROWTH = 1.3
const STEPS_MAX = 15
/** The point at which it breaks: less than this part of what is offered goes through in time. */
const THROUGH_MIN = 0.95
const TIMES = [1, 1.5, 2, 3]
/** Each of these so often, in turn: the machine itself is faster at one moment and slower at the next. */
const ROUNDS = 3
const RECOVERY_SECONDS = 10

/**
 * Single transfers that arrive at a constant rate at a node in a process of its own: more and more until it breaks, then up to three times
 * that, three times over, then half of it. Behind the balancer that the project ships (deploy/haproxy), unless asked otherwise. The load
 * generator and the balancer have one half of the cores, the node and PostgreSQL the other, as on machines of their own: what makes the load
 * must not take from what bears it.
 */
export async function benchOverload({
  accounts,
  seconds,
  seed,
  json,
  svg,
  direct,
  together,
}: OverloadOptions): Promise<void> {
  const cores = together ? undefined : halves()
  cores?.goTo('second')
  const directory = await mkdtemp(join(tmpdir(), 'zerosum-bench-'))
  const server = await startEmbedded(directory)
  let node: ChildProcess | undefined
  let balancer: Haproxy | undefined
  try {
    const url = await migrated(server, 'bench')
    const { tenantId, key } = await openTenant(url, ['transfers:write'])
    if (!json) console.log(`opening and funding ${accounts} accounts …`)
    const ids = (await fund(url, tenantId, accounts)).map((id) => formatId('wal', id))
    const pick = uniform(ids.length, seededRandom(seed))
    const started = await startNode(url)
    node = started.node
    const { pid } = node
    cores?.goTo('first')
    const why = direct ? 'as asked' : await whyUnavailable('haproxy')
    if (why === undefined) balancer = await startHaproxy([new URL(started.url).host])
    const front = balancer?.url ?? started.url
    if (!json) console.log(why === undefined ? 'behind HAProxy:' : `without a balancer: ${why}`)
    if (!json && !cores) console.log('all on the same cores')
    const load = (perSecond: number, seconds: number) =>
      offer({
        ...{ url: front, path: '/v1/transfers', perSecond, seconds },
        headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
        body() {
          const { from, to } = pick()
          return JSON.stringify({ from: ids[from], to: ids[to], amount: '1', currency: 'USD' })
        },
      })
    let withoutRetryAfter = 0
    const step = async (perSecond: number) => {
      const flow = await load(perSecond, seconds)
      withoutRetryAfter += flow.withoutRetryAfter
      const made = stepOf(flow, await memoryMb(pid))
      if (!json) console.log(lineOf(made))
      return made
    }

    for (const perSecond of WARM_UP) await load(perSecond, 3)
    if (!json) console.log(HEADINGS)
    const climb: Step[] = []
    for (let rate = FIRST_PER_SECOND; climb.length < STEPS_MAX; rate *= GROWTH) {
      const made = await step(rate)
      climb.push(made)
      if (made.goodput < THROUGH_MIN * made.offered || made.p99Ms > IN_TIME_MS) break
    }
    const breaking = Math.max(...climb.map(({ goodput }) => goodput))
    if (!json) console.log(`it breaks at ${breaking.toFixed(0)}/s; from there:`)
    const beyond: Step[] = []
    for (let round = 0; round < ROUNDS; round++) for (const times of TIMES) beyond.push(await step(breaking * times))
    // The middle round of each.
    const middle = TIMES.flatMap((_, i) => {
      const rounds = beyond.filter((_, j) => j % TIMES.length === i).toSorted((a, b) => a.goodput - b.goodput)
      return rounds.slice(Math.floor(ROUNDS / 2), Math.floor(ROUNDS / 2) + 1)
    })
    const after = await load(breaking / 2, RECOVERY_SECONDS)
    // The first second in which nothing was refused.
    const calm = after.refusedBySecond.indexOf(0)
    const recoverySeconds = calm < 0 ? RECOVERY_SECONDS : calm

    const steps = [...climb, ...middle].toSorted((a, b) => a.offered - b.offered)
    const peak = Math.max(...steps.map(({ goodput }) => goodput))
    /** Of what could be good at most: all that is offered, or as much as at the best step. */
    const partOf = ({ goodput, offered }: Step) => goodput / Math.min(offered, peak)
    const parts = middle.map(partOf)
    const strange = beyond
      .flatMap(({ statuses }) => Object.keys(statuses))
      .filter((s) => !['201', '429', '503'].includes(s))
    const found = {
      breakingPerSecond: breaking,
      goodputAtThreeTimes: parts.at(-1) ?? 0,
      goodputAtWorst: Math.min(...parts),
      goodputOfWorstRound: Math.min(...beyond.map(partOf)),
      p99Ms: Math.max(...beyond.map(({ p99Ms }) => p99Ms)),
      otherStatuses: [...new Set(strange)],
      withoutRetryAfter,
      memory: (beyond.at(-1)?.memoryMb ?? 0) / (climb.at(-1)?.memoryMb ?? 1),
      recoverySeconds,
    }
    if (svg !== undefined) await writeFile(svg, drawCurve(steps, breaking))
    if (json) console.log(JSON.stringify({ accounts, seed, steps, found }, null, 2))
    else {
      console.log(
        `goodput / peak: ${found.goodputAtThreeTimes.toFixed(2)} at 3 times the breaking point, ` +
          `${found.goodputAtWorst.toFixed(2)} at the worst rate beyond it (the bar is 0.80; the middle of ${ROUNDS} rounds each, ` +
          `${found.goodputOfWorstRound.toFixed(2)} in the worst round)`,
      )
      console.log(`p99 of what was accepted, at worst: ${found.p99Ms.toFixed(0)} ms (the bar is 1,000)`)
      console.log(`refused with something else than 429 or 503: ${found.otherStatuses.join(', ') || 'nothing'}`)
      console.log(`refused without Retry-After: ${withoutRetryAfter}`)
      console.log(`memory at 3 times / when it broke: ${found.memory.toFixed(2)}`)
      console.log(`seconds after the flood until nothing was refused for one: ${recoverySeconds} (the bar is 5)`)
    }
  } finally {
    await balancer?.process.stop()
    node?.kill('SIGTERM')
    await server.stop()
    await rm(directory, { recursive: true, force: true })
  }
}

function stepOf({ offered, seconds, statuses, inTime, acceptedMs, refusedMs }: Flow, memoryMb: number): Step {
  const at = (sorted: readonly number[], part: number) => sorted[Math.floor(sorted.length * part)] ?? 0
  return {
    offered: offered / seconds,
    goodput: inTime / seconds,
    ...{ p50Ms: at(acceptedMs, 0.5), p99Ms: at(acceptedMs, 0.99), refusedP99Ms: at(refusedMs, 0.99) },
    statuses: Object.fromEntries([...statuses].toSorted(([a], [b]) => a - b)),
    memoryMb,
  }
}

const HEADINGS = 'offered/s  good/s       p50 ms   p99 ms  refused p99 ms   MB  answers'

function lineOf({ offered, goodput, p50Ms, p99Ms, refusedP99Ms, statuses, memoryMb }: Step): string {
  const cell = (value: number, width: number) => value.toFixed(0).padStart(width)
  const answers = Object.entries(statuses).map(([status, count]) => `${status === '0' ? 'none' : status}: ${count}`)
  return `${cell(offered, 9)}${cell(goodput, 12)}${cell(p50Ms, 9)}${cell(p99Ms, 9)}${cell(refusedP99Ms, 16)}${cell(memoryMb, 5)}  ${answers.join(', ')}`
}

/** What a process has in memory; 0 where that can't be read. */
async function memoryMb(pid: number | undefined): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '')
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) / 1_024
}
