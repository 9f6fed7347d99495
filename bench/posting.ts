import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { from as copyFrom, to as copyTo } from 'pg-copy-streams'
import type { Outcome } from '../src/core/post.ts'
import type { Request } from '../src/core/request.ts'
import { type Batcher, QueueFull } from '../src/ledger/batcher.ts'
import { startEmbedded } from '../src/postgres/embedded.ts'
import { classicMeasure, copyDatabase, draw, fund, migrated, openLedger } from './ledger.ts'
import { oneHot, type Pick, seededRandom, uniform, zipf } from './load.ts'
import { type Measure, measureRun, printMeasures } from './report.ts'

const TENANT = '00000000-0000-7000-8000-000000000001'

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
    const wallets = await fund(url, TENANT, options.accounts)
    await copyDatabase(server, 'bench', 'classic')

    const random = seededRandom(options.seed)
    const classic = await classicMeasure(
      server.url('classic'),
      TENANT,
      wallets,
      uniform(wallets.length, random),
      Math.ceil(options.transfers / 10),
    )
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

/** As many requests in the air as four full blocks: the batcher always has a block waiting. */
const CONCURRENCY = 4_000
/** Before each measure, unmeasured: a node that has been up for some seconds has most accounts in memory. */
const WARM_UP = 50_000

async function runBatched(url: string, name: string, wallets: string[], pick: Pick, count: number): Promise<Measure> {
  let blocks = 0
  const { poster, batcher } = openLedger(url, () => {
    blocks += 1
  })
  await drive(batcher, wallets, pick, WARM_UP)
  blocks = 0
  const run = measureRun(name)
  await drive(batcher, wallets, pick, count, run.sample)
  const measure = run.end(count, blocks)
  await poster.close()
  return measure
}

/** Submits that many transfers, CONCURRENCY at a time. */
async function drive(
  batcher: Batcher,
  wallets: string[],
  pick: Pick,
  count: number,
  sample: (ms: number) => void = () => {},
): Promise<void> {
  let left = count
  const worker = async () => {
    while (left > 0) {
      left -= 1
      const began = performance.now()
      const { record } = await submit(batcher, draw(TENANT, wallets, pick))
      if (record.refusal) throw new Error(`a funded transfer was refused: ${record.refusal}`)
      sample(performance.now() - began)
    }
  }
  await Promise.all(Array.from({ length: CONCURRENCY }, worker))
}

/** Again, if there was no room, as after a pause of the machine: a client would do that too. */
async function submit(batcher: Batcher, request: Request): Promise<Outcome> {
  for (;;) {
    try {
      return await batcher.submit(request)
    } catch (error) {
      if (!(error instanceof QueueFull)) throw error
      await sleep(20)
    }
  }
}

/** The same rows as the last transfers wrote, by COPY into empty tables with the same indexes, in one transaction. */
async function runFloor(url: string, transfers: number): Promise<Measure> {
  const client = new pg.Client(url)
  await client.connect()
  const { rows: edges } = await client.query<{ block: string; count: string }>(
    `SELECT min(number) AS block, sum(request_count) AS count
     FROM (SELECT number, request_count, sum(request_count) OVER (ORDER BY number DESC) AS total FROM blocks) AS b
     WHERE total <= $1`,
    [transfers],
  )
  const tables = ['blocks', 'requests', 'entries'] as const
  const rows = new Map<string, Buffer[]>()
  for (const table of tables) {
    const where = `${table === 'blocks' ? 'number' : 'block'} >= ${edges[0]?.block ?? 0}`
    const chunks: Buffer[] = []
    for await (const chunk of client.query(copyTo(`COPY (SELECT * FROM ${table} WHERE ${where}) TO STDOUT`))) {
      chunks.push(chunk as Buffer)
    }
    rows.set(table, chunks)
    await client.query(`CREATE TABLE floor_${table} (LIKE ${table} INCLUDING ALL)`)
  }
  const run = measureRun('floor: COPY of the rows')
  await client.query('BEGIN')
  for (const table of tables) {
    await pipeline(rows.get(table) ?? [], client.query(copyFrom(`COPY floor_${table} FROM STDIN`)))
  }
  await client.query('COMMIT')
  const measure = run.end(Number(edges[0]?.count ?? 0))
  await client.end()
  return measure
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
