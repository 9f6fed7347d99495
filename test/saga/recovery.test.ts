import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { seededRandom } from '../../bench/load.ts'
import { seedFor } from '../ledger/seed.ts'
import { startInstallation } from './installation.ts'

/** Real processes, real servers. ZEROSUM_CHAOS_SECONDS makes it longer. */
const CHAOS_SECONDS = Number(process.env['ZEROSUM_CHAOS_SECONDS'] ?? 30)
const SHARDS = 3
const NODES = 2
const CALLERS = 16

test('kill -9 of nodes and databases under load between shards: every saga ends, and no money moves twice or is lost', {
  timeout: CHAOS_SECONDS * 3_000 + 900_000,
}, async () => {
  const seed = seedFor(`chaos of ${CHAOS_SECONDS} s between shards`)
  const { servers, keepers, traffic, untilOver, conclude, close } = await startInstallation(SHARDS, NODES, 6)
  onTestFinished(close)

  traffic.start(CALLERS, seed, ['local', 'across', 'across', 'several', 'hold'])
  const end = Date.now() + CHAOS_SECONDS * 1000
  const kills = { node: 0, database: 0 }
  const disturb = async (random: () => number, work: () => Promise<void>) => {
    for (;;) {
      const ms = 500 + random() * 4_000
      if (Date.now() + ms > end) return
      await sleep(ms)
      await work()
    }
  }
  const [nodeRandom, databaseRandom] = [seededRandom(seed + 1_001), seededRandom(seed + 1_002)]
  await Promise.all([
    disturb(nodeRandom, async () => {
      const keeper = keepers[Math.floor(nodeRandom() * NODES)]
      await keeper?.kill()
      kills.node += 1
      await sleep(nodeRandom() * 1_000)
      await keeper?.start()
    }),
    disturb(databaseRandom, async () => {
      const server = servers[Math.floor(databaseRandom() * SHARDS)]
      await server?.kill()
      kills.database += 1
      await sleep(databaseRandom() * 3_000)
      await server?.restart()
    }),
  ])
  const allUp = Date.now()
  await traffic.rest()
  await untilOver()
  const overMs = Date.now() - allUp
  console.log(
    `killed ${JSON.stringify(kills)}; answered ${JSON.stringify(traffic.counts())}, the slowest after ${traffic.slowestMs} ms; ` +
      `all over ${overMs} ms after the last came back`,
  )
  expect(Math.min(kills.node, kills.database)).toBeGreaterThan(0)
  await conclude()
})
