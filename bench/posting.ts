import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import type { Request } from '../src/core/request.ts'
import { createBatcher } from '../src/ledger/batcher.ts'
import { createPoster } from '../src/ledger/poster.ts'
import { connect } from '../src/postgres/connect.ts'
import { type EmbeddedServer, startEmbedded } from '../src/postgres/embedded.ts'
import { migrate } from '../src/postgres/migrate.ts'
import { prepareClassic, transferClassic } from './classic.ts'
import { oneHot, openWallet, type Pick, seededRandom, topUp, transfer, uniform, zipf } from './load.ts'
import { type Measure, measureRun, printMeasures } from './report.ts'

const TENANT = '00000000-0000-7000-8000-000000000001'
const AMOUNT = 5n

export type PostingOptions = { accounts: number; transfers: number; seed: number; json: boolean }

/**
 * Transfers through the batcher on an embedded server with fsync on, nothing turned off; beside it, in the same run and on
 * a copy of the same database, the classic way, and COPY of the same rows as the floor.
 */
export async function benchPosting(options: PostingOptions): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'zerosum-bench-'))
  const say = (text: string) => (options.json ? undefined : console.log(text))
  const server = await startEmbedded(directory)
  try {
    const url = await migrated(server, 'bench')
    say(`opening and funding ${options.accounts} accounts …`)
    const wallets = await fund(url, options.accounts)
    await copyDatabase(server, 'bench', 'classic')

    const random = seededRandom(options.seed)
    const classic = await runClassic(server.url('classic'), wallets, uniform(wallets.length, random), options)
    say(`classic done: ${classic.perSecond.toFixed(0)}/s`)
    const runs: Measure[] = []
    for (const [name, pick] of [
      ['uniform', uniform(wallets.length, random)],
      ['zipf (s=1)', zipf(wallets.length, random)],
      ['one hot account', oneHot(wallets.length, random)],
    ] as const) {
      runs.push(await runBatched(url, name, wallets, pick, options.transfers))
      say(`${name} done: ${runs.at(-1)?.perSecond.toFixed(0)}/s`)
    }
    const floor = await runFloor(url, options.transfers)
    report([classic, ...runs, floor], options)
  } finally {
    await server.stop()
    await rm(directory, { recursive: true, force: true })
  }
}

export async function migrated(server: EmbeddedServer, name: string): Promise<string> {
  await server.createDatabase(name)
  const sql = connect(server.url(name), { max: 1, role: null })
  await migrate(sql)
  await sql.end()
  return server.url(name)
}

async function copyDatabase(server: EmbeddedServer, from: string, to: string): Promise<void> {
  const sql = connect(server.url('postgres'), { max: 1, role: null })
  await sql.unsafe(`CREATE DATABASE ${to} TEMPLATE ${from}`)
  await sql.unsafe('CHECKPOINT')
  await sql.end()
}

function openLedger(url: string, onBlock: () => void = () => {}) {
  const clockUs = () => Math.round((performance.timeOrigin + performance.now()) * 1000)
  const poster = createPoster({ url, shard: 0, writer: 'bench', clockUs, onBlock })
  return { poster, batcher: createBatcher({ post: (requests) => poster.post(requests) }) }
}

async function fund(url: string, count: number): Promise<string[]> {
  const { poster, batcher } = openLedger(url)
  const wallets: string[] = []
  const chunk = 10_000
  for (let begin = 0; begin < count; begin += chunk) {
    const opens = Array.from({ length: Math.min(chunk, count - begin) }, (_, i) => openWallet(TENANT, begin + i))
    await Promise.all(opens.map((request) => batcher.submit(request)))
    await Promise.all(opens.map(({ id }) => batcher.submit(topUp(TENANT, id, 1_000_000n))))
    wallets.push(...opens.map(({ id }) => id))
  }
  await poster.close()
  return wallets
}

/** As many requests in the air as four full blocks: the batcher always has a block waiting. */
const CONCURRENCY = 4_000

async function runBatched(url: string, name: string, wallets: string[], pick: Pick, count: number): Promise<Measure> {
  let blocks = 0
  const { poster, batcher } = openLedger(url, () => {
    blocks += 1
  })
  for (let i = 0; i < 20; i++) await batcher.submit(draw(wallets, pick))
  blocks = 0
  const run = measureRun(name)
  let left = count
  const worker = async () => {
    while (left > 0) {
      left -= 1
      const began = performance.now()
      const { record } = await batcher.submit(draw(wallets, pick))
      if (record.refusal) throw new Error(`a funded transfer was refused: ${record.refusal}`)
      run.sample(performance.now() - began)
    }
  }
  await Promise.all(Array.from({ length: CONCURRENCY }, worker))
  const measure = run.end(count, blocks)
  await poster.close()
  return measure
}

async function runClassic(url: string, wallets: string[], pick: Pick, { transfers }: PostingOptions): Promise<Measure> {
  const pool = await prepareClassic(url)
  const count = Math.ceil(transfers / 10)
  const run = measureRun('classic, uniform')
  let left = count
  const worker = async () => {
    while (left > 0) {
      left -= 1
      const began = performance.now()
      if (!(await transferClassic(pool, draw(wallets, pick)))) throw new Error('a funded transfer was refused')
      run.sample(performance.now() - began)
    }
  }
  await Promise.all(Array.from({ length: 16 }, worker))
  const measure = run.end(count)
  await pool.end()
  return measure
}

/** The same rows as the last transfers wrote, by COPY into empty tables with the same indexes, in one transaction. */
async function runFloor(url: string, transfers: number): Promise<Measure> {
  const sql = connect(url, { max: 1, role: null })
  const [edge] = await sql<{ block: bigint; count: bigint }[]>`
    SELECT min(number) AS block, sum(request_count)::int8 AS count
    FROM (SELECT number, request_count, sum(request_count) OVER (ORDER BY number DESC) AS total FROM blocks) AS b
    WHERE total <= ${transfers}`
  const tables = ['blocks', 'requests', 'entries'] as const
  const rows = new Map<string, Buffer[]>()
  for (const table of tables) {
    const where = `${table === 'blocks' ? 'number' : 'block'} >= ${edge?.block ?? 0n}`
    const chunks: Buffer[] = []
    await pipeline(
      await sql.unsafe(`COPY (SELECT * FROM ${table} WHERE ${where}) TO STDOUT`).readable(),
      async (source) => {
        for await (const chunk of source) chunks.push(chunk as Buffer)
      },
    )
    rows.set(table, chunks)
    await sql.unsafe(`CREATE TABLE floor_${table} (LIKE ${table} INCLUDING ALL)`)
  }
  const run = measureRun('floor: COPY of the rows')
  await sql.unsafe('BEGIN')
  for (const table of tables) {
    await pipeline(rows.get(table) ?? [], await sql.unsafe(`COPY floor_${table} FROM STDIN`).writable())
  }
  await sql.unsafe('COMMIT')
  const measure = run.end(Number(edge?.count ?? 0n))
  await sql.end()
  return measure
}

function draw(wallets: string[], pick: Pick): Request {
  const { from, to } = pick()
  return transfer(TENANT, wallets[from] ?? '', wallets[to] ?? '', AMOUNT)
}

function report(measures: Measure[], { json, accounts, seed }: PostingOptions): void {
  const [classic, plain, , hot] = measures
  const floor = measures.at(-1)
  if (!classic || !plain || !hot || !floor) throw new Error('a run is missing')
  const ratios = {
    uniformToClassic: plain.perSecond / classic.perSecond,
    hotToUniform: hot.perSecond / plain.perSecond,
    uniformToFloor: plain.perSecond / floor.perSecond,
  }
  if (json) {
    console.log(JSON.stringify({ accounts, seed, measures, ratios }, null, 2))
    return
  }
  printMeasures(measures)
  console.log(`uniform / classic: ${ratios.uniformToClassic.toFixed(1)} (the bar is 10)`)
  console.log(`one hot account / uniform: ${ratios.hotToUniform.toFixed(2)} (the bar is 1)`)
  console.log(`uniform / floor: ${ratios.uniformToFloor.toFixed(2)}`)
}
