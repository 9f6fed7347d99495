import type { ChildProcess } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import autocannon from 'autocannon'
import { formatId } from '../src/core/ids.ts'
import { startEmbedded } from '../src/postgres/embedded.ts'
import { startRedis } from '../test/services/redis.ts'
import { fund, migrated, openTenant } from './ledger.ts'
import { seededRandom, uniform } from './load.ts'
import { startNode } from './node.ts'
import { type Measure, printMeasures } from './report.ts'

export type BalanceReadsOptions = { accounts: number; seconds: number; seed: number; json: boolean }

const CONNECTIONS = 64
/** Wallets that are asked for: all of them are in the cache after a moment. */
const WALLETS_MAX = 10_000

/** Balances through the HTTP API of a node, 64 connections: from Redis, and, asked for with `consistency=strong`, from the database. */
export async function benchBalanceReads({ accounts, seconds, seed, json }: BalanceReadsOptions): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'zerosum-bench-'))
  const [server, redis] = await Promise.all([startEmbedded(directory), startRedis()])
  let node: ChildProcess | undefined
  try {
    const url = await migrated(server, 'bench')
    const { tenantId, key } = await openTenant(url, ['wallets:read'])
    if (!json) console.log(`opening and funding ${accounts} accounts …`)
    const wallets = (await fund(url, tenantId, accounts)).slice(0, WALLETS_MAX)
    const started = await startNode(url, { REDIS_URL: redis.url })
    node = started.node
    const read = (name: string, consistency: string, duration: number) =>
      load({ name, url: started.url, key, consistency, wallets, random: seededRandom(seed), duration })
    await read('warm', 'cached', 5)
    const strong = await read('database', 'strong', seconds)
    const cached = await read('Redis', 'cached', seconds)
    const ratio = cached.perSecond / strong.perSecond
    if (json) {
      console.log(JSON.stringify({ seed, measures: [strong, cached], ratios: { cachedToStrong: ratio } }, null, 2))
    } else {
      printMeasures([strong, cached], 'reads')
      console.log(`balances from the cache / from the database: ${ratio.toFixed(1)}`)
    }
  } finally {
    node?.kill('SIGTERM')
    await Promise.all([server.stop(), redis.stop()])
    await rm(directory, { recursive: true, force: true })
  }
}

type Load = {
  name: string
  url: string
  key: string
  consistency: string
  wallets: string[]
  random: () => number
  duration: number
}

async function load({ name, url, key, consistency, wallets, random, duration }: Load): Promise<Measure> {
  const ids = wallets.map((id) => formatId('wal', id))
  const pick = uniform(ids.length, random)
  const result = await autocannon({
    ...{ url, connections: CONNECTIONS, duration },
    requests: [
      {
        method: 'GET',
        headers: { authorization: `Bearer ${key}` },
        setupRequest: (request) => ({
          ...request,
          path: `/v1/wallets/${ids[pick().from]}/balance?consistency=${consistency}`,
        }),
      },
    ],
  })
  if (result.non2xx + result.errors > 0) throw new Error(`${result.non2xx} refused, ${result.errors} failed`)
  const transfers = result['2xx']
  const { p50: p50Ms, p99: p99Ms } = result.latency
  return { name, transfers, seconds: result.duration, perSecond: transfers / result.duration, p50Ms, p99Ms }
}
