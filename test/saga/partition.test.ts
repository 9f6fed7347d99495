import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { seedFor } from '../ledger/seed.ts'
import { type Installation, startInstallation } from './installation.ts'
import type { ShardServer } from './servers.ts'
import type { Traffic } from './traffic.ts'

/** One of two shards is away for a while, under load. ZEROSUM_CHAOS_SECONDS makes it longer than 12 s. */
const AWAY_SECONDS = Math.max(12, Number(process.env['ZEROSUM_CHAOS_SECONDS'] ?? 12))
/** Keys are looked up on the first shard, and remembered for 10 s: that it is away shows only then. */
const FIRST_AWAY_SECONDS = AWAY_SECONDS + 10
/** So many transfers must be decided within the other shard towards the end of the outage; a caller that waits for the lost one makes a few. */
const MEANWHILE = 40
const LOCAL_CALLERS = 6
const MEANWHILE_MS_MAX = 120_000

const stopped = { away: (server: ShardServer) => server.freeze(), back: (server: ShardServer) => server.thaw() }
const cutOff = {
  away: async ({ passage }: ShardServer) => passage.cut(),
  back: ({ passage }: ShardServer) => passage.reopen(),
}
const silenced = {
  away: async ({ passage }: ShardServer) => passage.silence(),
  back: ({ passage }: ShardServer) => passage.mend(),
}

describe('when one of two shards is lost under load', () => {
  let stage: Installation

  beforeAll(async () => {
    stage = await startInstallation(2, 1, 6)
  })
  afterAll(() => stage?.close())

  test.each([
    { name: 'the second shard is stopped', lost: 1, seconds: AWAY_SECONDS, ...stopped },
    { name: 'the way to the second shard is cut', lost: 1, seconds: AWAY_SECONDS, ...cutOff },
    { name: 'the way to the second shard goes silent', lost: 1, seconds: AWAY_SECONDS, ...silenced },
    { name: 'the first shard, which keeps the keys, is stopped', lost: 0, seconds: FIRST_AWAY_SECONDS, ...stopped },
  ])(
    '$name: the other goes on, what needs both waits or comes to nothing, and all is made up for afterwards',
    { timeout: AWAY_SECONDS * 5_000 + 600_000 },
    async ({ name, lost, seconds, away, back }) => {
      const seed = seedFor(name)
      const { servers, traffic, untilOver } = stage
      const server = servers[lost]
      if (!server) throw new Error('no such shard')
      const kept = 1 - lost

      traffic.start(LOCAL_CALLERS, seed, ['local'], [kept])
      traffic.start(12, seed + 100, ['across', 'several', 'hold'])
      traffic.start(3, seed + 200, ['local'], [lost])
      onTestFinished(() => traffic.rest())
      await sleep(1_000)
      const first = traffic.asked.length

      await away(server)
      onTestFinished(() => back(server))
      const awayMs = Date.now()
      await sleep(seconds * 750)
      await untilMore(traffic, kept, MEANWHILE, MEANWHILE_MS_MAX)
      await sleep(Math.max(0, awayMs + seconds * 1000 - Date.now()))
      await back(server)
      const returned = Date.now()

      // What had to wait got an answer, and the shard works as before.
      await untilMore(traffic, lost, 20, 180_000)
      const usedMs = Date.now() - returned
      await traffic.rest()
      await untilOver()
      console.log(
        `${name} for ${returned - awayMs} ms; the slowest answer: ${traffic.slowestMs} ms; used again after ${usedMs} ms, ` +
          `all over after ${Date.now() - returned} ms; answers so far: ${JSON.stringify(traffic.counts())}`,
      )
      for (const { answers, key } of traffic.asked.slice(first)) {
        for (const { status, text } of answers)
          expect.soft([200, 201, 202, 409, 422, 503], `${key}: ${text}`).toContain(status)
      }
    },
  )

  test('in the end there is one answer to everything that was asked, and the books are right', async () => {
    await stage.conclude()
  })
})

/** Waits until so many more transfers were decided within a shard: made or refused, for what waits for the lost shard reserves all that its payers have. */
async function untilMore(traffic: Traffic, shard: number, count: number, msMax: number): Promise<void> {
  const done = () => {
    const { 201: made = 0, 422: refused = 0 } = traffic.counts(shard)
    return made + refused
  }
  const [before, deadline] = [done(), Date.now() + msMax]
  while (done() < before + count) {
    if (Date.now() > deadline)
      throw new Error(`only ${done() - before} transfers decided within shard ${shard} in ${msMax} ms`)
    await sleep(50)
  }
}
