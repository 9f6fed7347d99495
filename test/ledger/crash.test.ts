import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { seededRandom } from '../../bench/load.ts'
import { connect, type Sql } from '../../src/postgres/connect.ts'
import { type EmbeddedServer, startEmbedded } from '../../src/postgres/embedded.ts'
import { migrate } from '../../src/postgres/migrate.ts'
import { kill, killCluster, processesOf } from '../postgres/cluster.ts'
import { openLedger } from '../support/ledger.ts'
import { balanceOf, faultsOf } from './books.ts'
import { seedFor } from './seed.ts'
import { type Answer, type Payment, type PaymentPlan, payAll, paymentsOf, startWorker } from './worker.ts'

/**
 * kill -9 under load, of a node and of PostgreSQL, on a server of this file's own. What was answered must be there
 * afterwards, as it was answered and once; what was not answered may be there or not, but once at most.
 */

const WALLETS = 12
const OPENING_BALANCE = 20_000n
const CONCURRENCY = 200

let directory: string
let server: EmbeddedServer
let seed: number
let random: () => number

const url = () => server.url('shard')
const startServer = () => startEmbedded(directory, process.env['ZEROSUM_TEST_POSTGRES_BIN'])

beforeAll(async () => {
  seed = seedFor('crash')
  random = seededRandom(seed)
  directory = await mkdtemp(join(tmpdir(), 'zerosum-crash-'))
  server = await startServer()
  await server.createDatabase('shard')
  await withOwner(migrate)
})

afterAll(async () => {
  await killCluster(directory)
  await rm(directory, { recursive: true, force: true })
})

async function withOwner<T>(work: (sql: Sql) => Promise<T>): Promise<T> {
  const sql = connect(url(), { max: 1, role: null })
  try {
    return await work(sql)
  } finally {
    await sql.end()
  }
}

const pause = (ms: number) => new Promise((done) => setTimeout(done, ms))

/** Fresh wallets with the same balance each, and a plan of payments between them. */
async function freshPlan(name: string): Promise<PaymentPlan> {
  const ledger = openLedger(url(), 'setup')
  const wallets = await Promise.all(Array.from({ length: WALLETS }, () => ledger.wallet(OPENING_BALANCE)))
  await ledger.close()
  return { name, wallets, seed: Math.floor(random() * 2 ** 31) }
}

type Recorded = { id: string; key: string; refusal: string | null; payload: string; entries: number }

async function recordedOf(plan: PaymentPlan): Promise<Recorded[]> {
  return await withOwner(
    (sql) => sql<Recorded[]>`
      SELECT id, key, refusal, payload::text, (SELECT count(*)::int FROM entries e WHERE (e.block, e.item) = (r.block, r.item)) AS entries
      FROM requests r WHERE key LIKE ${`${plan.name} %`} ORDER BY block, item`,
  )
}

/** What the wallets must hold, if each recorded payment was made once: added up from what was asked, not from entries. */
function balancesAfter(
  plan: PaymentPlan,
  recorded: readonly Recorded[],
  asked: ReadonlyMap<string, Payment>,
): bigint[] {
  const balances = new Map(plan.wallets.map((id) => [id, OPENING_BALANCE]))
  for (const { key, refusal } of recorded) {
    const payment = asked.get(key)
    if (!payment) throw new Error(`${key} is recorded, and was never asked`)
    const { from, to, amount } = payment
    const available = balances.get(from) ?? 0n
    // In the order of the chain, what was refused could not be paid, and what was accepted could.
    expect([key, refusal]).toEqual([key, available < amount ? 'insufficient_funds' : null])
    if (refusal !== null) continue
    balances.set(from, available - amount)
    balances.set(to, (balances.get(to) ?? 0n) + amount)
  }
  return plan.wallets.map((id) => balances.get(id) ?? 0n)
}

/** The end of a session comes some time after the end of its client: until then its last block may yet be committed. */
async function untilQuiet(): Promise<void> {
  await withOwner(async (sql) => {
    const sessions = () => sql`SELECT FROM pg_stat_activity WHERE datname = 'shard' AND application_name ~ 'poster'`
    while ((await sessions()).length > 0) await pause(10)
  })
}

/**
 * Everything that must be true after a crash; then asks once more for all that was not answered, and checks again.
 * @param asked how many payments of the plan were asked for; by default as many as can have been
 */
async function expectIntact(plan: PaymentPlan, answers: readonly Answer[], asked?: number): Promise<void> {
  await untilQuiet()
  const recorded = await recordedOf(plan)
  // What is not recorded was in the air.
  const payments = [...paymentsOf(plan).take(asked ?? recorded.length + CONCURRENCY)]
  const paymentOf = new Map(payments.map((payment) => [payment.key, payment]))
  const known = answers.flatMap(({ payment, outcome }) => (outcome ? [{ key: payment.key, outcome }] : []))

  const byKey = new Map(recorded.map((row) => [row.key, row]))
  expect(byKey.size).toBe(recorded.length)
  for (const { key, outcome } of known) {
    expect(outcome.status).toBe('decided')
    expect({ key, ...byKey.get(key) }).toMatchObject({ key, id: outcome.record.id, refusal: outcome.record.refusal })
  }
  for (const row of recorded) expect(row.entries).toBe(row.refusal === null ? 2 : 0)
  const balances = () => withOwner(async (sql) => await Promise.all(plan.wallets.map((id) => balanceOf(sql, id))))
  expect(await balances()).toEqual(balancesAfter(plan, recorded, paymentOf))
  expect(await faultsOf(url())).toEqual([])

  const isKnown = new Set(known.map(({ key }) => key))
  const unknown = payments.filter(({ key }) => !isKnown.has(key))
  const ledger = openLedger(url(), 'again')
  const again: Answer[] = []
  await payAll(ledger, unknown, CONCURRENCY, (answer) => again.push(answer))
  await ledger.close()
  for (const { payment, outcome } of again) {
    expect(outcome?.status).toBe(byKey.has(payment.key) ? 'replayed' : 'decided')
  }
  const recordedInTheEnd = await recordedOf(plan)
  expect(recordedInTheEnd).toHaveLength(payments.length)
  expect(await balances()).toEqual(balancesAfter(plan, recordedInTheEnd, paymentOf))
}

describe('a node that is killed under load', () => {
  it.each([1, 2, 3, 4, 5])('has done what it answered, and nothing twice (round %i)', async (round) => {
    const plan = await freshPlan(`killed node ${seed} ${round}`)
    const worker = await startWorker(url(), `round ${round}`)
    const load = worker.load(plan, { count: 1_000_000, concurrency: CONCURRENCY })
    await once(worker.process, 'message') // the first answer
    await pause(random() * 700)
    worker.process.kill('SIGKILL')
    const answers = await load
    expect(answers.length).toBeGreaterThan(0)
    await expectIntact(plan, answers)
  })
})

describe('a PostgreSQL that is killed under load', () => {
  /** A load from this process, on its way until it is told to stop. */
  function startLoad(plan: PaymentPlan, writer: string) {
    const ledger = openLedger(url(), writer)
    const answers: Answer[] = []
    let asked = 0
    let isStopped = false
    function* untilStopped(): Generator<Payment, void> {
      for (const payment of paymentsOf(plan)) {
        if (isStopped) return
        asked += 1
        yield payment
      }
    }
    const load = payAll(ledger, untilStopped(), CONCURRENCY, (answer) => answers.push(answer))
    return {
      answers,
      /** Ends when all that was asked has been answered, if only by not knowing. */
      async stop() {
        isStopped = true
        await load
        await ledger.close()
        return asked
      },
    }
  }

  it.each([1, 2])('has kept what was answered, and nothing twice (round %i)', async (round) => {
    const plan = await freshPlan(`killed server ${seed} ${round}`)
    const load = startLoad(plan, `round ${round}`)
    while (load.answers.length === 0) await pause(10)
    await pause(random() * 700)
    await killCluster(directory)
    await server.stop().catch(() => {})
    server = await startServer()
    // It is back on another port: the ledger gives up what it could not place.
    const asked = await load.stop()
    expect(load.answers).toHaveLength(asked)
    await expectIntact(plan, load.answers, asked)
  })

  /** The process of PostgreSQL that the ledger writes by; none while it recovers. */
  async function postersSession(): Promise<{ pid: number }[]> {
    return await withOwner(
      (sql) => sql<{ pid: number }[]>`
        SELECT pid FROM pg_stat_activity WHERE datname = 'shard' AND application_name = 'zerosum poster 0'`,
    ).catch(() => [])
  }

  it('serves the same ledger again when it comes back by itself, as after the death of a backend', async () => {
    const plan = await freshPlan(`killed backend ${seed}`)
    const load = startLoad(plan, 'patient')
    const decided = () => load.answers.filter(({ outcome }) => outcome !== undefined).length
    let kills = 0
    while (kills < 2) {
      const before = decided()
      while (decided() === before) await pause(10)
      await pause(random() * 300)
      const [session] = await postersSession()
      const mine = new Set(await processesOf(directory))
      // PostgreSQL ends all sessions and recovers, at the same address, when a backend dies like this.
      if (!session || !mine.has(session.pid)) continue
      kill(session.pid, 'SIGKILL')
      kills += 1
    }
    const before = decided()
    while (decided() < before + CONCURRENCY) await pause(10)
    const asked = await load.stop()
    await expectIntact(plan, load.answers, asked)
  })
})
