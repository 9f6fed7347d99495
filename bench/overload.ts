import type { ChildProcess } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { formatId } from '../src/core/ids.ts'
import { startEmbedded } from '../src/postgres/embedded.ts'
import { drawCurve, type Step } from './curve.ts'
import { fund, migrated, openTenant } from './ledger.ts'
import { seededRandom, uniform } from './load.ts'
import { startNode } from './node.ts'
import { type Flow, offer } from './openLoop.ts'

export type OverloadOptions = {
  accounts: number
  seconds: number
  seed: number
  json: boolean
  svg: string | undefined
}

const FIRST_PER_SECOND = 500
const GROWTH = 1.3
const STEPS_MAX = 15
/** The point at which it breaks: less than this part of what is offered goes through, or accepted ones take longer than this. */
const THROUGH_MIN = 0.95
const P99_MS_MAX = 1_000
const TIMES = [1, 1.5, 2, 3]
const RECOVERY_SECONDS = 10

/**
 * Single transfers that arrive at a constant rate at a node in a process of its own: more and more until it breaks, then up to three times
 * that, then half of it. The load generator, the node and PostgreSQL share the machine.
 */
export async function benchOverload({ accounts, seconds, seed, json, svg }: OverloadOptions): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'zerosum-bench-'))
  const server = await startEmbedded(directory)
  let node: ChildProcess | undefined
  try {
    const url = await migrated(server, 'bench')
    const { tenantId, key } = await openTenant(url, ['transfers:write'])
    if (!json) console.log(`opening and funding ${accounts} accounts …`)
    const ids = (await fund(url, tenantId, accounts)).map((id) => formatId('wal', id))
    const pick = uniform(ids.length, seededRandom(seed))
    const started = await startNode(url)
    node = started.node
    const { pid } = node
    const load = (perSecond: number, seconds: number) =>
      offer({
        ...{ url: started.url, path: '/v1/transfers', perSecond, seconds },
        headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
        body() {
          const { from, to } = pick()
          return JSON.stringify({ from: ids[from], to: ids[to], amount: '1', currency: 'USD' })
        },
      })
    const step = async (perSecond: number) => {
      const made = stepOf(await load(perSecond, seconds), await memoryMb(pid))
      if (!json) console.log(lineOf(made))
      return made
    }

    await load(FIRST_PER_SECOND, 3)
    if (!json) console.log(HEADINGS)
    const climb: Step[] = []
    for (let rate = FIRST_PER_SECOND; climb.length < STEPS_MAX; rate *= GROWTH) {
      const made = await step(rate)
      climb.push(made)
      if (made.goodput < THROUGH_MIN * made.offered || made.p99Ms > P99_MS_MAX) break
    }
    const breaking = Math.max(...climb.map(({ goodput }) => goodput))
    if (!json) console.log(`it breaks at ${breaking.toFixed(0)}/s; from there:`)
    const beyond: Step[] = []
    for (const times of TIMES) beyond.push(await step(breaking * times))
    const after = await load(breaking / 2, RECOVERY_SECONDS)
    const recoverySeconds = after.refusedBySecond.findLastIndex((refused) => refused > 0) + 1

    const steps = [...climb, ...beyond].toSorted((a, b) => a.offered - b.offered)
    const peak = Math.max(...steps.map(({ goodput }) => goodput))
    const last = beyond.at(-1) as Step
    const strange = beyond
      .flatMap(({ statuses }) => Object.keys(statuses))
      .filter((s) => !['201', '429', '503'].includes(s))
    const found = {
      breakingPerSecond: breaking,
      goodputAtThreeTimes: last.goodput / peak,
      p99Ms: Math.max(...beyond.map(({ p99Ms }) => p99Ms)),
      otherStatuses: [...new Set(strange)],
      memory: last.memoryMb / (climb.at(-1)?.memoryMb ?? last.memoryMb),
      recoverySeconds,
    }
    if (svg !== undefined) await writeFile(svg, drawCurve(steps, breaking))
    if (json) console.log(JSON.stringify({ accounts, seed, steps, found }, null, 2))
    else {
      console.log(
        `goodput at 3 times the breaking point / peak: ${found.goodputAtThreeTimes.toFixed(2)} (the bar is 0.80)`,
      )
      console.log(`p99 of what was accepted, at worst: ${found.p99Ms.toFixed(0)} ms (the bar is 1,000)`)
      console.log(`refused with something else than 429 or 503: ${found.otherStatuses.join(', ') || 'nothing'}`)
      console.log(`memory at 3 times / when it broke: ${found.memory.toFixed(2)}`)
      console.log(`seconds after the flood until the last refusal: ${recoverySeconds} (the bar is 5)`)
    }
  } finally {
    node?.kill('SIGTERM')
    await server.stop()
    await rm(directory, { recursive: true, force: true })
  }
}

function stepOf({ offered, seconds, statuses, acceptedMs, refusedMs }: Flow, memoryMb: number): Step {
  const at = (sorted: readonly number[], part: number) => sorted[Math.floor(sorted.length * part)] ?? 0
  return {
    offered: offered / seconds,
    goodput: acceptedMs.length / seconds,
    ...{ p50Ms: at(acceptedMs, 0.5), p99Ms: at(acceptedMs, 0.99), refusedP99Ms: at(refusedMs, 0.99) },
    statuses: Object.fromEntries([...statuses].toSorted(([a], [b]) => a - b)),
    memoryMb,
  }
}

const HEADINGS = 'offered/s  accepted/s   p50 ms   p99 ms  refused p99 ms   MB  answers'

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
