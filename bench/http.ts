import type { ChildProcess } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import autocannon from 'autocannon'
import { formatId } from '../src/core/ids.ts'
import { startEmbedded } from '../src/postgres/embedded.ts'
import { classicMeasure, copyDatabase, fund, migrated, openTenant } from './ledger.ts'
import { type Pick, seededRandom, uniform } from './load.ts'
import { startNode } from './node.ts'
import { type Measure, printMeasures } from './report.ts'

export type HttpOptions = { accounts: number; seconds: number; seed: number; json: boolean }

const CONNECTIONS = 64

/**
 * Single transfers through the HTTP API of a node in a process of its own, 64 connections; beside it, in the same run and
 * on a copy of the same database, the classic way without any HTTP.
 */
export async function benchHttp({ accounts, seconds, seed, json }: HttpOptions): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'zerosum-bench-'))
  const server = await startEmbedded(directory)
  let node: ChildProcess | undefined
  try {
    const url = await migrated(server, 'bench')
    const { tenantId, key } = await openTenant(url, ['transfers:write'])
    if (!json) console.log(`opening and funding ${accounts} accounts …`)
    const wallets = await fund(url, tenantId, accounts)
    await copyDatabase(server, 'bench', 'classic')

    const random = seededRandom(seed)
    const pick = uniform(wallets.length, random)
    const classic = await classicMeasure(server.url('classic'), tenantId, wallets, pick, 10_000)
    const started = await startNode(url)
    node = started.node
    await load(started.url, key, wallets, pick, 2)
    const http = await load(started.url, key, wallets, pick, seconds)
    const ratio = http.perSecond / classic.perSecond
    if (json) {
      console.log(
        JSON.stringify({ accounts, seed, measures: [classic, http], ratios: { httpToClassic: ratio } }, null, 2),
      )
    } else {
      printMeasures([classic, http])
      console.log(`single transfers through HTTP / classic: ${ratio.toFixed(1)} (the bar is 3; p99 under 100 ms)`)
    }
  } finally {
    node?.kill('SIGTERM')
    await server.stop()
    await rm(directory, { recursive: true, force: true })
  }
}

/** Single transfers for some seconds. @throws Error if one was refused */
export async function load(url: string, key: string, wallets: string[], pick: Pick, seconds: number): Promise<Measure> {
  const ids = wallets.map((id) => formatId('wal', id))
  const result = await autocannon({
    url: `${url}/v1/transfers`,
    connections: CONNECTIONS,
    duration: seconds,
    requests: [
      {
        method: 'POST',
        headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
        setupRequest(request) {
          const { from, to } = pick()
          const body = JSON.stringify({ from: ids[from], to: ids[to], amount: '5', currency: 'USD' })
          return { ...request, headers: { ...request.headers, 'idempotency-key': randomUUID() }, body }
        },
      },
    ],
  })
  if (result.non2xx + result.errors > 0) throw new Error(`${result.non2xx} refused, ${result.errors} failed`)
  return {
    name: `HTTP, ${CONNECTIONS} connections`,
    transfers: result['2xx'],
    seconds: result.duration,
    perSecond: result['2xx'] / result.duration,
    p50Ms: result.latency.p50,
    p99Ms: result.latency.p99,
  }
}
