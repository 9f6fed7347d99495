import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Request } from '../src/core/request.ts'
import { connect } from '../src/postgres/connect.ts'
import { startEmbedded } from '../src/postgres/embedded.ts'
import { createSagas } from '../src/saga/sagas.ts'
import { prepareShards } from '../src/shards/map.ts'
import { createRouter } from '../src/shards/router.ts'
import { openShard } from '../src/shards/shard.ts'
import { deadCoordinatorText, killCoordinator } from './deadCoordinator.ts'
import { copyDatabase } from './ledger.ts'
import { openWallet, seededRandom, topUp, transfer, uniform } from './load.ts'
import { lockText, watchLocks } from './locks.ts'
import { type Measure, measureRun, printMeasures } from './report.ts'
import {
  betweenDatabases,
  CLIENTS,
  type CrossLoad,
  drawCross,
  openTwoPhase,
  type Pair,
  prepareTwoPhase,
  runTwoPhase,
} from './twoPhase.ts'

export type CrossShardOptions = { accounts: number; transfers: number; seed: number; json: boolean }

/** What a server needs for 64 clients on each of two databases, and all that they can have prepared at once. */
const SETTINGS = { max_prepared_transactions: '200', max_connections: '300' }
const TENANT = '00000000-0000-7000-8000-000000000001'
const FUNDS = 1_000_000n
/** As many requests in the air as four full blocks: each shard always has a block waiting. */
const FULL = 4_000
const WAIT_MS_MAX = 60_000

/**
 * Two shards on one embedded server. Transfers within shards on one and on both, and between them by sagas, at full load; then
 * the same transfers between them, 64 in the air, by sagas and by PostgreSQL's two-phase commit, healthy and with a
 * coordinator that dies. Half of `accounts` are on each shard, about.
 */
export async function benchCrossShard({ accounts, transfers, seed, json }: CrossShardOptions): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'zerosum-bench-'))
  const say = (text: string) => (json ? undefined : console.log(text))
  const server = await startEmbedded(directory, undefined, SETTINGS)
  try {
    const urls: Pair<string> = [server.url('shard0'), server.url('shard1')]
    for (const name of ['shard0', 'shard1']) await server.createDatabase(name)
    say(`opening and funding ${accounts} accounts on two shards …`)
    let node = await openNode(urls)
    const [onA, onB] = await fundShards(node, accounts)
    await node.close()
    const copies: Pair<string> = [server.url('copy0'), server.url('copy1')]
    for (const number of [0, 1]) await copyDatabase(server, `shard${number}`, `copy${number}`)

    const random = seededRandom(seed)
    const firstShard = new Set(onA)
    const load: CrossLoad = { tenantId: TENANT, onA, onB, random }
    const within = (wallets: string[]) => {
      const pick = uniform(wallets.length, random)
      return () => {
        const { from, to } = pick()
        return transfer(TENANT, wallets[from] ?? '', wallets[to] ?? '', 5n)
      }
    }
    const [onFirst, onSecond, across] = [within(onA), within(onB), drawCross(load)]
    let turn = 0
    const onBoth = () => (turn++ % 2 === 0 ? onFirst() : onSecond())

    node = await openNode(urls)
    const measures: Measure[] = []
    const run = async (name: string, draw: () => Request, inTheAir: number, count: number) => {
      await drive(node, draw, inTheAir, Math.ceil(count / 4))
      const measure = await drive(node, draw, inTheAir, count, name)
      say(`${name} done: ${measure.perSecond.toFixed(0)}/s`)
      measures.push(measure)
      return measure
    }
    const one = await run('within one shard', onFirst, FULL, transfers)
    const two = await run('within two shards', onBoth, 2 * FULL, transfers)
    const cross = await run('between them, by sagas', across, FULL, Math.ceil(transfers / 2))
    const watch = watchLocks(urls[0])
    const sagas = await run(`by sagas, ${CLIENTS} clients`, across, CLIENTS, Math.ceil(transfers / 10))
    const sagaLocks = await watch.stop()
    const deadNode = await killNode(node, urls, load)
    await node.close()

    await prepareTwoPhase(copies, TENANT)
    const twoPhase = openTwoPhase(copies, (id) => firstShard.has(id))
    await runTwoPhase(twoPhase, across, 2_000)
    const watchPrepared = watchLocks(copies[0])
    const prepared = await runTwoPhase(twoPhase, across, Math.ceil(transfers / 20))
    const preparedLocks = await watchPrepared.stop()
    await twoPhase.close()
    measures.push({ ...prepared, name: `two-phase commit, ${CLIENTS} clients` })
    const deadCoordinator = await killCoordinator(copies, load)
    if ((await betweenDatabases(copies)) !== 0n) throw new Error('transfers that are not whole')

    const ratios = {
      sagasToTwoPhase: sagas.perSecond / prepared.perSecond,
      crossToOneShard: cross.perSecond / one.perSecond,
      twoShardsToOne: two.perSecond / one.perSecond,
    }
    if (json) {
      const all = { accounts, seed, measures, ratios, sagaLocks, preparedLocks, deadNode, deadCoordinator }
      console.log(JSON.stringify(all, null, 2))
      return
    }
    printMeasures(measures)
    console.log(`sagas / two-phase commit, ${CLIENTS} clients: ${ratios.sagasToTwoPhase.toFixed(1)} (the bar is 5)`)
    console.log(`between shards / within one: ${ratios.crossToOneShard.toFixed(2)} (the bar is 0.33)`)
    console.log(`two shards / one: ${ratios.twoShardsToOne.toFixed(2)} (the bar is 1.5)`)
    console.log(`\nsagas: ${lockText(sagaLocks)}`)
    console.log(deadNodeText(deadNode))
    console.log(`\ntwo-phase commit: ${lockText(preparedLocks)}`)
    console.log(deadCoordinatorText(deadCoordinator))
  } finally {
    await server.stop()
    await rm(directory, { recursive: true, force: true })
  }
}

type Node = Awaited<ReturnType<typeof openNode>>

/** The ledger of a node over these shards, without HTTP. */
async function openNode(urls: readonly string[]) {
  const { map } = await prepareShards(urls)
  const onTrouble = (error: unknown) => console.error(error)
  const shards = urls.map((url, number) => openShard({ number, url, writer: 'bench', onTrouble }))
  const router = createRouter(shards, map)
  const sagas = createSagas({ router, onTrouble })
  return {
    router,
    sagas,
    async close() {
      await sagas.close()
      await Promise.all(shards.map((shard) => shard.close()))
    },
  }
}

/** Opens and funds wallets; their ids, by shard. */
async function fundShards({ router, sagas }: Node, count: number): Promise<[string[], string[]]> {
  const wallets: [string[], string[]] = [[], []]
  const portion = 10_000
  for (let begin = 0; begin < count; begin += portion) {
    const opens = Array.from({ length: Math.min(portion, count - begin) }, (_, i) => openWallet(TENANT, begin + i))
    await Promise.all(opens.map((request) => sagas.submit(request, WAIT_MS_MAX)))
    await Promise.all(opens.map(({ id }) => sagas.submit(topUp(TENANT, id, FUNDS), WAIT_MS_MAX)))
    for (const { id } of opens) wallets[router.shardOf(id) === 0 ? 0 : 1].push(id)
  }
  return wallets
}

/** That many transfers, so many of them in the air; a latency is until a saga is over. */
async function drive(
  { sagas }: Node,
  draw: () => Request,
  inTheAir: number,
  count: number,
  name = '',
): Promise<Measure> {
  const run = measureRun(name)
  let left = count
  const client = async () => {
    while (left > 0) {
      left -= 1
      const began = performance.now()
      const { record, end } = await sagas.submit(draw(), WAIT_MS_MAX)
      const isDone = record.refusal === null && (end === undefined || (end !== 'pending' && end.status === 'completed'))
      if (!isDone) throw new Error(`a funded transfer ended as ${record.refusal ?? JSON.stringify(end)}`)
      run.sample(performance.now() - began)
    }
  }
  await Promise.all(Array.from({ length: inTheAir }, client))
  return run.end(count)
}

/** What a node leaves that dies after its sagas have begun. */
type DeadNode = { sagas: number; seconds: number; moved: number; refused: number; locks: number; recoveryMs: number }

const SECONDS = 3

/**
 * 64 sagas begin, each with a payer of its own, and nobody goes on with them; meanwhile others move money in and out of the same
 * wallets. Then a node comes that finds them.
 */
async function killNode({ router }: Node, urls: Pair<string>, load: CrossLoad): Promise<DeadNode> {
  const concerned = { payers: load.onA.slice(0, CLIENTS), payees: load.onB.slice(0, CLIENTS) }
  const begun = concerned.payers.map((payer, i) => transfer(TENANT, payer, concerned.payees[i] ?? '', 5n))
  await Promise.all(begun.map((request) => router.shard(0).batcher.submit(request)))
  const locks = await heldLocks(urls[0])
  const until = performance.now() + SECONDS * 1000
  const count = { moved: 0, refused: 0 }
  const client = async (shard: 0 | 1) => {
    const wallets = shard === 0 ? concerned.payers : concerned.payees
    const pick = uniform(wallets.length, load.random)
    while (performance.now() < until) {
      const { from, to } = pick()
      const { record } = await router
        .shard(shard)
        .batcher.submit(transfer(TENANT, wallets[from] ?? '', wallets[to] ?? '', 1n))
      count[record.refusal === null ? 'moved' : 'refused'] += 1
    }
  }
  await Promise.all(Array.from({ length: 16 }, (_, i) => client(i % 2 === 0 ? 0 : 1)))
  const began = performance.now()
  const other = await openNode(urls)
  const sql = connect(urls[0], { max: 1 })
  for (;;) {
    const [row] = await sql<{ count: bigint }[]>`SELECT count(*) FROM sagas_in_flight`
    if (row?.count === 0n) break
    if (performance.now() - began > WAIT_MS_MAX) throw new Error('the sagas of a dead node were not taken up')
    await sleep(20)
  }
  const recoveryMs = performance.now() - began
  await sql.end()
  await other.close()
  return { sagas: CLIENTS, seconds: SECONDS, ...count, locks, recoveryMs }
}

async function heldLocks(url: string): Promise<number> {
  const sql = connect(url, { max: 1 })
  const [row] = await sql<{ count: bigint }[]>`
    SELECT count(*) FROM pg_locks WHERE granted AND locktype IN ('tuple', 'transactionid')`
  await sql.end()
  return Number(row?.count ?? 0)
}

function deadNodeText({ sagas, seconds, moved, refused, locks, recoveryMs }: DeadNode): string {
  return [
    `a node that dies after ${sagas} sagas have begun leaves ${locks} locks.`,
    `  others, ${seconds} s, on the wallets concerned: ${moved} moved, ${refused} refused`,
    `  the next node found and ended them ${recoveryMs.toFixed(0)} ms after its start`,
  ].join('\n')
}
