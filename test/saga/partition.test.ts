import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { seedFor } from '../ledger/seed.ts'
import { startInstallation } from './installation.ts'
import type { ShardServer } from './servers.ts'
import type { Traffic } from './traffic.ts'

/** One of two shards is away for a while, under load. ZEROSUM_CHAOS_SECONDS makes it longer than 12 s. */
const AWAY_SECONDS = Math.max(12, Number(process.env['ZEROSUM_CHAOS_SECONDS'] ?? 12))
/** So long is counted, before and at the end of the outage. */
const COUNTED_MS = 5_000
/** Keys are looked up on the first shard, and remembered for 10 s: that it is away shows only then. */
const FIRST_AWAY_SECONDS = AWAY_SECONDS + 10

const stopped = { away: (server: ShardServer) => server.freeze(), back: (server: ShardServer) => server.thaw() }
const cutOff = {
  away: async ({ passage }: ShardServer) => passage.cut(),
  back: ({ passage }: ShardServer) => passage.reopen(),
}
const silenced = {
  away: async ({ passage }: ShardServer) => passage.silence(),
  back: ({ passage }: ShardServer) => passage.mend(),
}

test.each([
  { name: 'the second shard is stopped', lost: 1, seconds: AWAY_SECONDS, ...stopped },
  { name: 'the way to the second shard is cut', lost: 1, seconds: AWAY_SECONDS, ...cutOff },
  { name: 'the way to the second shard goes silent', lost: 1, seconds: AWAY_SECONDS, ...silenced },
  { name: 'the first shard, which keeps the keys, is stopped', lost: 0, seconds: FIRST_AWAY_SECONDS, ...stopped },
])(
  '$name: the other goes on, what needs both waits or comes to nothing, and all is made up for afterwards',
  {
    timeout: AWAY_SECONDS * 5_000 + 240_000,
  },
  async ({ name, lost, seconds, away, back }) => {
    const seed = seedFor(name)
    const { servers, traffic, untilOver, conclude, close } = await startInstallation(2, 1, 6)
    onTestFinished(close, 60_000)
    const server = servers[lost]
    if (!server) throw new Error('no such shard')
    const kept = 1 - lost

    traffic.start(6, seed, ['local'], [kept])
    traffic.start(24, seed + 100, ['across', 'several', 'hold'])
    traffic.start(3, seed + 200, ['local'], [lost])
    await sleep(1_000)
    const before = await rate(traffic, kept)
    const first = traffic.asked.length

    await away(server)
    onTestFinished(() => back(server))
    await sleep(seconds * 1000 - COUNTED_MS)
    const meanwhile = await rate(traffic, kept)
    const pending = traffic.counts()[202] ?? 0
    await back(server)
    const returned = Date.now()

    // What had to wait got an answer, and the shard works as before.
    const answered = traffic.counts(lost)[201] ?? 0
    while ((traffic.counts(lost)[201] ?? 0) < answered + 20) {
      if (Date.now() > returned + 90_000) throw new Error('the shard that came back is not used again')
      await sleep(50)
    }
    const usedMs = Date.now() - returned
    await traffic.rest()
    await untilOver()
    console.log(
      `${name} for ${seconds} s. Transfers a second within the other: ${before} before, ${meanwhile} meanwhile; pending: ${pending}; ` +
        `the slowest answer: ${traffic.slowestMs} ms; used again after ${usedMs} ms, all over after ${Date.now() - returned} ms; ` +
        `answers: ${JSON.stringify(traffic.counts())}`,
    )
    expect(meanwhile).toBeGreaterThan(before / 2)
    for (const { answers, key } of traffic.asked.slice(first)) {
      for (const { status, text } of answers)
        expect.soft([200, 201, 202, 409, 422, 503], `${key}: ${text}`).toContain(status)
    }
    await conclude()
  },
)

/** Transfers a second that go through within a shard. */
async function rate(traffic: Traffic, shard: number): Promise<number> {
  const before = traffic.counts(shard)[201] ?? 0
  await sleep(COUNTED_MS)
  return Math.round((((traffic.counts(shard)[201] ?? 0) - before) * 1000) / COUNTED_MS)
}
