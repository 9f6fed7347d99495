import type { Request } from '../src/core/request.ts'
import { createBatcher } from '../src/ledger/batcher.ts'
import { createPoster } from '../src/ledger/poster.ts'
import { connect } from '../src/postgres/connect.ts'
import type { EmbeddedServer } from '../src/postgres/embedded.ts'
import { migrate } from '../src/postgres/migrate.ts'
import { createDirectory, newKey, type Scope } from '../src/tenants/directory.ts'
import { prepareClassic, transferClassic } from './classic.ts'
import { openWallet, type Pick, topUp, transfer } from './load.ts'
import { type Measure, measureRun } from './report.ts'

const AMOUNT = 5n

/** A database with the schema of a shard. */
export async function migrated(server: EmbeddedServer, name: string): Promise<string> {
  await server.createDatabase(name)
  const sql = connect(server.url(name), { max: 1, role: null })
  await migrate(sql)
  await sql.end()
  return server.url(name)
}

/** A second database with the same content; nobody may be connected to the first. */
export async function copyDatabase(server: EmbeddedServer, from: string, to: string): Promise<void> {
  const sql = connect(server.url('postgres'), { max: 1, role: null })
  await sql.unsafe(`CREATE DATABASE ${to} TEMPLATE ${from}`)
  await sql.unsafe('CHECKPOINT')
  await sql.end()
}

/** A poster and batcher, as a node has them. */
export function openLedger(url: string, onBlock: () => void = () => {}) {
  const clockUs = () => Math.round((performance.timeOrigin + performance.now()) * 1000)
  const poster = createPoster({ url, shard: 0, writer: 'bench', clockUs, onBlock })
  return { poster, batcher: createBatcher({ post: (requests) => poster.post(requests) }) }
}

/** Opens that many wallets and tops each up; their ids. */
export async function fund(url: string, tenantId: string, count: number): Promise<string[]> {
  const { poster, batcher } = openLedger(url)
  const wallets: string[] = []
  const chunk = 10_000
  for (let begin = 0; begin < count; begin += chunk) {
    const opens = Array.from({ length: Math.min(chunk, count - begin) }, (_, i) => openWallet(tenantId, begin + i))
    await Promise.all(opens.map((request) => batcher.submit(request)))
    await Promise.all(opens.map(({ id }) => batcher.submit(topUp(tenantId, id, 1_000_000n))))
    wallets.push(...opens.map(({ id }) => id))
  }
  await poster.close()
  return wallets
}

/** Measures the classic way: 16 connections, uniform picks. */
export async function classicMeasure(
  url: string,
  tenantId: string,
  wallets: string[],
  pick: Pick,
  count: number,
): Promise<Measure> {
  const pool = await prepareClassic(url)
  const run = measureRun('classic, uniform')
  let left = count
  const worker = async () => {
    while (left > 0) {
      left -= 1
      const began = performance.now()
      if (!(await transferClassic(pool, draw(tenantId, wallets, pick))))
        throw new Error('a funded transfer was refused')
      run.sample(performance.now() - began)
    }
  }
  await Promise.all(Array.from({ length: 16 }, worker))
  const measure = run.end(count)
  await pool.end()
  return measure
}

/** A transfer between two picked wallets. */
export function draw(tenantId: string, wallets: string[], pick: Pick): Request {
  const { from, to } = pick()
  return transfer(tenantId, wallets[from] ?? '', wallets[to] ?? '', AMOUNT)
}

/** Makes the tenant of a benchmark, with a key. */
export async function openTenant(url: string, scopes: readonly Scope[]): Promise<{ tenantId: string; key: string }> {
  const tenants = createDirectory(url)
  const tenantId = await tenants.ensureTenant('bench')
  const key = newKey()
  await tenants.addKey(tenantId, key, scopes)
  await tenants.close()
  return { tenantId, key }
}
