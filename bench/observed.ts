import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startEmbedded } from '../src/postgres/embedded.ts'
import { type HttpOptions, load } from './http.ts'
import { fund, migrated, openTenant } from './ledger.ts'
import { seededRandom, uniform } from './load.ts'
import { startNode } from './node.ts'

/** Turns of each; machines are noisy, and the middle one says most. */
const ROUNDS = 5
/** Unmeasured, at the beginning of each turn: another node posted before. */
const WARM_SECONDS = 1

/**
 * What logs and traces cost: single transfers through the HTTP API of nodes in turn, all with metrics. Where traces go to takes them and throws
 * them away; so does who reads the lines.
 */
export async function benchObserved({ accounts, seconds, seed, json }: HttpOptions): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'zerosum-bench-'))
  const server = await startEmbedded(directory)
  const sink = createServer((request, answer) => request.resume().on('end', () => answer.end())).listen(0, '127.0.0.1')
  const nodes: ChildProcess[] = []
  try {
    await once(sink, 'listening')
    const url = await migrated(server, 'bench')
    const { tenantId, key } = await openTenant(url, ['transfers:write'])
    if (!json) console.log(`opening and funding ${accounts} accounts …`)
    const wallets = await fund(url, tenantId, accounts)
    const pick = uniform(wallets.length, seededRandom(seed))
    const traced = (ratio: number) => ({
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${(sink.address() as AddressInfo).port}`,
      OTEL_TRACES_SAMPLER: 'parentbased_traceidratio',
      OTEL_TRACES_SAMPLER_ARG: `${ratio}`,
    })
    const watched: { name: string; env: NodeJS.ProcessEnv; url: string; perSecond: number[] }[] = []
    for (const [name, env] of [
      ['no line, no trace', { ZEROSUM_LOG: 'silent' }],
      ['a line for each call and block', {}],
      ['and one trace of a hundred', traced(0.01)],
      ['and all traces', traced(1)],
    ] as const) {
      const started = await startNode(url, { ZEROSUM_LOG: 'json', ...env })
      nodes.push(started.node)
      watched.push({ name, env, url: started.url, perSecond: [] })
      await load(started.url, key, wallets, pick, 3)
    }
    const turnSeconds = Math.max(2, Math.round(seconds / ROUNDS))
    for (let round = 0; round < ROUNDS; round++) {
      for (const one of watched) {
        await load(one.url, key, wallets, pick, WARM_SECONDS)
        one.perSecond.push((await load(one.url, key, wallets, pick, turnSeconds)).perSecond)
      }
    }
    const base = middle(watched[0]?.perSecond ?? [])
    const found = watched.map(({ name, perSecond }) => ({
      ...{ name, perSecond: middle(perSecond), ratio: middle(perSecond) / base },
      least: Math.min(...perSecond),
      most: Math.max(...perSecond),
    }))
    if (json) console.log(JSON.stringify({ accounts, seed, rounds: ROUNDS, found }, null, 2))
    else {
      for (const { name, perSecond, ratio, least, most } of found) {
        const range = `${least.toFixed(0)} to ${most.toFixed(0)}`
        console.log(`${name.padEnd(32)}${perSecond.toFixed(0).padStart(7)}/s  ${ratio.toFixed(2)}  (${range})`)
      }
    }
  } finally {
    for (const node of nodes) node.kill('SIGTERM')
    sink.close()
    await server.stop()
    await rm(directory, { recursive: true, force: true })
  }
}

function middle(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0
}
