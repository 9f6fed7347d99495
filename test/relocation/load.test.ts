import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { seededRandom } from '../../bench/load.ts'
import { seedFor } from '../ledger/seed.ts'
import { type Installation, startInstallation } from '../saga/installation.ts'
import { listOf } from '../saga/servers.ts'
import type { Problem } from '../support/api.ts'
import { type CommandProcess, startCommand, verifyBooks } from '../support/node.ts'
import { closures, expectEven, expectWholeHistory, settledMap, type Underway, underway } from './books.ts'
import { Onlookers } from './onlookers.ts'

/** Real processes, real servers. ZEROSUM_CHAOS_SECONDS makes the kills go on for longer than 30 s. */
const CHAOS_SECONDS = Number(process.env['ZEROSUM_CHAOS_SECONDS'] ?? 30)
const NODES = 2
const CALLERS = 8
const WALLETS = 12
const FLOWS = ['local', 'across', 'several', 'hold', 'hold'] as const
/** A change that nobody goes on with is ended by a node after 15 s; and some for a busy machine. */
const ENDED_MS_MAX = 180_000
/** For a command that nobody kills any more. */
const COMMAND_TRIES_MAX = 40
/** For one that is to be met halfway. */
const HALFWAY_TRIES_MAX = 10

const urlsOf = ({ servers }: Installation) => servers.map(({ directUrl }) => directUrl())

function command(stage: Installation, ...args: string[]): CommandProcess {
  return startCommand(['shards', ...args], { databaseUrl: listOf(stage.servers) })
}

/** Traffic of all kinds, and who looks at it; as soon as all of it runs. */
async function startTraffic(stage: Installation, seed: number): Promise<Onlookers> {
  const { traffic, keepers, demoKey } = stage
  traffic.start(CALLERS, seed, FLOWS)
  const onlookers = new Onlookers(keepers, demoKey, () => traffic.wallets.flat())
  onlookers.start()
  await sleep(1_000)
  return onlookers
}

/** How requests from one on were answered, by status and, if it was no success, code; what was never answered is 0. */
function answered({ traffic }: Installation, since: number): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { answers } of traffic.asked.slice(since)) {
    const { status, body } = answers[0] ?? { status: 0 }
    const name = status < 300 ? `${status}` : `${status} ${(body as Problem).code}`
    counts[name] = (counts[name] ?? 0) + 1
  }
  return counts
}

/** Lets the traffic come to its end, and proves that nothing was lost on the way. */
async function conclude(stage: Installation, onlookers: Onlookers, name: string): Promise<void> {
  const { traffic } = stage
  await Promise.all([traffic.rest(), onlookers.rest()])
  await stage.untilOver()
  const { moved, abandoned, median, longest } = await closures(urlsOf(stage))
  console.log(
    `${name}: ${moved} changes made, ${abandoned} undone; slots were closed for ${median} ms (median), ${longest} ms at most; ` +
      `onlookers were answered ${JSON.stringify(onlookers.counts)}, after ${onlookers.slowestMs} ms at most`,
  )
  await onlookers.expectAll()
  for (const { answers, key } of traffic.asked) {
    for (const { status, text } of answers)
      expect.soft([200, 201, 202, 409, 422, 503], `${key}: ${text}`).toContain(status)
  }
  const urls = urlsOf(stage)
  const settings = { databaseUrl: listOf(stage.servers) }
  const books = await verifyBooks(settings)
  await stage.conclude()
  await expectWholeHistory(urls)
  expect(books.code, books.output).toBe(0)
}

/** Runs a command to its end while money moves. */
async function runUnderLoad(stage: Installation, ...args: string[]): Promise<void> {
  const { traffic } = stage
  const before = traffic.asked.length
  traffic.slowestMs = 0
  const start = Date.now()
  const { code, output } = await command(stage, ...args).ended
  const ms = Date.now() - start
  console.log(
    `${args.join(' ')} took ${ms} ms: ${output.trim()}\nmeanwhile: ${JSON.stringify(answered(stage, before))}, ` +
      `the slowest answer after ${traffic.slowestMs} ms`,
  )
  expect(code, output).toBe(0)
}

test('two shards become three under load: nobody is refused for it, and nothing is lost or done twice', {
  timeout: 900_000,
}, async () => {
  const seed = seedFor('moving to a third shard')
  const stage = await startInstallation(2, NODES, WALLETS)
  onTestFinished(stage.close)
  const onlookers = await startTraffic(stage, seed)
  await stage.grow(async () => {
    const { code, output } = await command(stage, 'move').ended
    expect({ code, output }).toEqual({ code: 1, output: expect.stringContaining('restart with the whole list') })
  })
  expect((await settledMap(urlsOf(stage))).shards).not.toContain(2)
  await runUnderLoad(stage, 'move')
  expect(Math.min(...(await expectEven(urlsOf(stage))))).toBeGreaterThan(1_000)
  await sleep(1_000)
  await conclude(stage, onlookers, 'a third shard')
})

test('whoever moves slots is killed, or stands still: a node ends what is half done; then a shard is drained and filled again', {
  timeout: 1_500_000,
}, async () => {
  const seed = seedFor('abandoned and frozen moves')
  const random = seededRandom(seed + 1_000)
  const stage = await startInstallation(3, NODES, WALLETS)
  onTestFinished(stage.close)
  const drained = seed % 3
  const onlookers = await startTraffic(stage, seed)
  const begun = async (phase: Underway['phase'], looks: number) => {
    const mover = command(stage, 'drain', `${drained}`)
    onTestFinished(() => mover.kill())
    return [mover, await halfway(stage, mover, phase, looks)] as const
  }
  const stop = async (how: 'killed' | 'stopped', phase: Underway['phase']): Promise<CommandProcess> => {
    let [mover, left] = await begun(phase, Math.floor(random() * 8))
    for (let tries = 1; left === undefined; tries++) {
      // On a slow machine looks are far between, and it may be over before them.
      const { code, output } = await mover.ended
      expect(tries, output).toBeLessThan(HALFWAY_TRIES_MAX)
      if (code === 0) await runUntilDone(stage, 'undrain', `${drained}`)
      ;[mover, left] = await begun(phase, 0)
    }
    if (how === 'killed') mover.kill()
    else mover.freeze()
    const start = Date.now()
    await untilNothingIsUnderway(stage)
    const counts = JSON.stringify(answered(stage, 0))
    console.log(`${how} with ${left} under way; over after ${Date.now() - start} ms: ${counts}`)
    return mover
  }
  for (const phase of ['closed', 'departing'] as const) await (await stop('killed', phase)).ended
  await settledMap(urlsOf(stage))

  // It has been taken for dead when it goes on.
  const mover = await stop('stopped', seed % 2 === 0 ? 'closed' : 'departing')
  mover.thaw()
  const { code, output } = await mover.ended
  console.log(`it went on, and ended with ${code}: ${output.trim()}`)
  await untilNothingIsUnderway(stage)

  await runUntilDone(stage, 'drain', `${drained}`)
  expect((await expectEven(urlsOf(stage)))[drained]).toBe(0)
  await sleep(1_000)
  await runUnderLoad(stage, 'undrain', `${drained}`)
  expect(Math.min(...(await expectEven(urlsOf(stage))))).toBeGreaterThan(1_000)
  await conclude(stage, onlookers, `moves that were killed or stopped, shard ${drained} drained and filled again`)
})

/** Waits until a change is seen to be so far on some shard, but for so many first looks. @returns what is under way then; nothing if it was over before */
async function halfway(
  stage: Installation,
  mover: CommandProcess,
  phase: Underway['phase'],
  looks: number,
): Promise<string | undefined> {
  let isOver = false
  void mover.ended.then(() => {
    isOver = true
  })
  for (let seen = 0; !isOver; ) {
    const found = await underway(urlsOf(stage))
    if (found.some((one) => one.phase === phase)) seen += 1
    if (seen <= looks) continue
    return found.map((one) => `${one.phase} on shard ${one.shard}`).join(', ') || 'nothing'
  }
  return undefined
}

async function untilNothingIsUnderway(stage: Installation): Promise<void> {
  const deadline = Date.now() + ENDED_MS_MAX
  for (;;) {
    const found = await underway(urlsOf(stage))
    if (found.length === 0) return
    if (Date.now() > deadline) throw new Error(`slots stay closed: ${JSON.stringify(found)}`)
    await sleep(100)
  }
}

/** Starts a command again until it has done its work, as it says when it could not. */
async function runUntilDone(stage: Installation, ...args: string[]): Promise<string[]> {
  const outputs: string[] = []
  for (let tries = 0; tries < COMMAND_TRIES_MAX; tries++) {
    const { code, output } = await command(stage, ...args).ended
    if (code === 0) return outputs
    outputs.push(output)
    await sleep(500)
  }
  throw new Error(`shards ${args.join(' ')} comes to no end: ${outputs.at(-1)}`)
}

test('kill -9 of whoever moves slots, of nodes, and of a database: all is over in the end, and right', {
  timeout: CHAOS_SECONDS * 3_000 + 1_200_000,
}, async () => {
  const seed = seedFor(`chaos of ${CHAOS_SECONDS} s while slots move`)
  const stage = await startInstallation(3, NODES, WALLETS)
  onTestFinished(stage.close)
  const { servers, keepers } = stage
  const onlookers = await startTraffic(stage, seed)
  const end = Date.now() + CHAOS_SECONDS * 1000
  const kills = { mover: 0, node: 0, database: 0 }
  const said = new Map<string, number>()
  const done: string[] = []
  let running: CommandProcess | undefined
  onTestFinished(() => running?.kill())

  /** One command after the other, each begun again until it is done. */
  const operate = async (random: () => number) => {
    const shards = [0, 1, 2].sort(() => random() - 0.5)
    // On a slow machine it may take more than that until one was killed.
    const isOver = () => Date.now() > end && kills.mover > 0
    for (let i = 0; !isOver(); i++) {
      const shard = `${shards[Math.floor(i / 2) % 3]}`
      const args = [i % 2 === 0 ? 'drain' : 'undrain', shard]
      for (let isDone = false; !isDone && !isOver(); ) {
        const mover = command(stage, ...args)
        running = mover
        const doom = random()
        // Most often when it has got so far that something is half done.
        if (doom < 0.2) await Promise.race([mover.ended, sleep(500 + random() * 3_000)])
        else if (doom < 0.8) {
          await halfway(stage, mover, random() < 0.5 ? 'closed' : 'departing', Math.floor(random() * 6)).catch(() => {})
          await sleep(random() * 300)
        }
        if (doom < 0.8) mover.kill()
        const { code, output } = await mover.ended
        if (code === null) kills.mover += 1
        isDone = code === 0
        if (isDone) done.push(args.join(' '))
        const line = `${code ?? 'killed'}: ${output.trim().split('\n').slice(0, 2).join(' | ')}`
        said.set(line, (said.get(line) ?? 0) + 1)
      }
    }
  }
  const disturb = async (random: () => number) => {
    while (Date.now() < end || kills.node === 0) {
      await sleep(1_000 + random() * 5_000)
      const keeper = keepers[Math.floor(random() * NODES)]
      await keeper?.kill()
      kills.node += 1
      await sleep(random() * 1_000)
      await keeper?.start()
    }
  }
  const breakDown = async (random: () => number) => {
    await sleep(CHAOS_SECONDS * 1000 * (0.2 + 0.5 * random()))
    const server = servers[Math.floor(random() * servers.length)]
    await server?.kill()
    kills.database += 1
    await sleep(random() * 2_000)
    await server?.restart()
  }
  await Promise.all([
    operate(seededRandom(seed + 1_001)),
    disturb(seededRandom(seed + 1_002)),
    breakDown(seededRandom(seed + 1_003)),
  ])
  const start = Date.now()
  await untilNothingIsUnderway(stage)
  console.log(
    `killed ${JSON.stringify(kills)}; done: ${done.join(', ')}; all open again ${Date.now() - start} ms after the last kill; ` +
      `answered ${JSON.stringify(answered(stage, 0))}, the slowest after ${stage.traffic.slowestMs} ms; the commands said:\n` +
      [...said].map(([line, count]) => `${count} × ${line}`).join('\n'),
  )
  for (const shard of (await settledMap(urlsOf(stage))).drained) await runUntilDone(stage, 'undrain', `${shard}`)
  await runUntilDone(stage, 'move')
  expect(Math.min(...(await expectEven(urlsOf(stage))))).toBeGreaterThan(1_000)
  expect(Math.min(kills.mover, kills.node)).toBeGreaterThan(0)
  await conclude(stage, onlookers, 'chaos')
})
