import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { connect, type Sql } from '../src/postgres/connect.ts'
import { transferClassic } from './classic.ts'
import { transfer } from './load.ts'
import { CLIENTS, type CrossLoad, openTwoPhase, type Pair, recover } from './twoPhase.ts'

/** Transfers inside of one database that were tried, and what became of them. */
export type Tried = { succeeded: number; timedOut: number }

/** What a coordinator leaves behind that dies between the promises and the decision. */
export type DeadCoordinator = {
  /** Transfers that it had in the air. */
  transfers: number
  /** Prepared transactions that are left, on both databases. */
  prepared: number
  /** Wallets whose rows those keep locked. */
  walletsLocked: number
  /** Their locks in pg_locks, by what is locked. */
  locks: Record<string, number>
  /** Transfers tried meanwhile by others: on the wallets concerned, and on wallets that are not. */
  seconds: number
  concerned: Tried
  others: Tried
  /** What those on the wallets concerned were seen waiting for, and how often. */
  waits: Record<string, number>
  /** Until every prepared transaction was settled, once somebody does it. */
  recoveryMs: number
  committed: number
  rolledBack: number
  /** From the beginning of that until every wallet concerned had moved money again. */
  flowsAgainMs: number
}

const SECONDS = 3
const LOCK_MS_MAX = 1_000
/** Four clients each: those concerned and the others, on A and on B. */
const CLIENTS_EACH = 4
const LOOK_MS = 200
const CONCERNED_NAME = 'zerosum-bench-concerned'

/**
 * 64 transfers, each with a payer and a payee of its own, are prepared on both databases; then their coordinator's connections
 * break, before any decision is written. Others go on with transfers inside of each database; then it is recovered.
 * @param load of at least 66 wallets on each side; the first 64 are those concerned
 */
export async function killCoordinator(urls: Pair<string>, load: CrossLoad): Promise<DeadCoordinator> {
  const { tenantId, random } = load
  const coordinator = openTwoPhase(urls, (id) => load.onA.includes(id))
  const votes = await Promise.all(
    load.onA.slice(0, CLIENTS).map((payer, i) => coordinator.prepare(transfer(tenantId, payer, load.onB[i] ?? '', 5n))),
  )
  if (votes.some((vote) => vote !== 'done')) throw new Error('a funded transfer was not prepared')
  coordinator.die()
  await coordinator.close()

  const sides = [load.onA, load.onB].map((wallets, i) => {
    const url = `${urls[i]}?lock_timeout=${LOCK_MS_MAX}`
    const open = (name: string) => connect(url, { max: CLIENTS_EACH, role: null, name })
    return {
      concerned: { sql: open(CONCERNED_NAME), wallets: wallets.slice(0, CLIENTS) },
      others: { sql: open('zerosum-bench-others'), wallets: wallets.slice(CLIENTS) },
    }
  })
  const observer = connect(urls[0], { max: 1, role: null })
  try {
    const prepared = await leftBehind(observer)
    const walletsLocked = await lockedRows(sides.map(({ others }) => others.sql))
    const until = performance.now() + SECONDS * 1000
    const tryAll = (groups: Group[]) => tried(groups, tenantId, random, until)
    const [concerned, others, waits] = await Promise.all([
      tryAll(sides.map((side) => side.concerned)),
      tryAll(sides.map((side) => side.others)),
      watchWaits(observer, until),
    ])

    const began = performance.now()
    const [settled, flowsAgainMs] = await Promise.all([
      recover(urls).then((count) => ({ ...count, recoveryMs: performance.now() - began })),
      Promise.all(sides.map(({ concerned }) => moveEach(concerned, tenantId))).then(() => performance.now() - began),
    ])
    return {
      ...{ transfers: CLIENTS, ...prepared, walletsLocked, seconds: SECONDS, concerned, others, waits },
      ...{ ...settled, flowsAgainMs },
    }
  } finally {
    const pools = sides.flatMap(({ concerned, others }) => [concerned.sql, others.sql])
    await Promise.all([observer, ...pools].map((sql) => sql.end()))
  }
}

type Group = { sql: Sql; wallets: string[] }

async function leftBehind(sql: Sql): Promise<{ prepared: number; locks: Record<string, number> }> {
  const [left] = await sql<{ count: bigint }[]>`SELECT count(*) FROM pg_prepared_xacts`
  const rows = await sql<{ locktype: string; count: bigint }[]>`
    SELECT locktype, count(*) FROM pg_locks WHERE pid IS NULL AND granted GROUP BY locktype ORDER BY locktype`
  return {
    prepared: Number(left?.count ?? 0),
    locks: Object.fromEntries(rows.map(({ locktype, count }) => [locktype, Number(count)])),
  }
}

/** PostgreSQL notes a row's lock in the row: `xmax` is the transaction that has it. */
async function lockedRows(databases: Sql[]): Promise<number> {
  const counts = await Promise.all(
    databases.map(
      (sql) => sql<{ count: bigint }[]>`
        SELECT count(*) FROM accounts WHERE xmax IN
          (SELECT transaction FROM pg_prepared_xacts WHERE database = current_database())`,
    ),
  )
  return counts.reduce((sum, [row]) => sum + Number(row?.count ?? 0), 0)
}

/** Transfers between random wallets of each group, on all of its connections, until then. */
async function tried(groups: Group[], tenantId: string, random: () => number, until: number): Promise<Tried> {
  const count = { succeeded: 0, timedOut: 0 }
  const client = async ({ sql, wallets }: Group) => {
    while (performance.now() < until) {
      const from = Math.floor(random() * wallets.length)
      const to = (from + 1 + Math.floor(random() * (wallets.length - 1))) % wallets.length
      count[await tryOnce(sql, tenantId, wallets[from] ?? '', wallets[to] ?? '')] += 1
    }
  }
  await Promise.all(groups.flatMap((group) => Array.from({ length: CLIENTS_EACH }, () => client(group))))
  return count
}

async function tryOnce(sql: Sql, tenantId: string, from: string, to: string): Promise<keyof Tried> {
  try {
    if (!(await transferClassic(sql, transfer(tenantId, from, to, 1n))))
      throw new Error('a funded transfer was refused')
    return 'succeeded'
  } catch (error) {
    // 55P03: the lock did not come in time
    if (error instanceof pg.DatabaseError && error.code === '55P03') return 'timedOut'
    throw error
  }
}

/** What the clients on the wallets concerned wait for, and for whom, looked at until then. */
async function watchWaits(sql: Sql, until: number): Promise<Record<string, number>> {
  const seen: Record<string, number> = {}
  while (performance.now() < until) {
    const rows = await sql<{ wait: string; count: bigint }[]>`
      SELECT wait_event_type || ' ' || wait_event ||
               -- zero stands for a prepared transaction
               CASE WHEN 0 = ANY (pg_blocking_pids(pid)) THEN ' of a prepared transaction' ELSE '' END AS wait,
             count(*)
      FROM pg_stat_activity WHERE application_name = ${CONCERNED_NAME} AND wait_event_type = 'Lock' GROUP BY 1`
    for (const { wait, count } of rows) seen[wait] = (seen[wait] ?? 0) + Number(count)
    await sleep(LOOK_MS)
  }
  return seen
}

/** One transfer out of every wallet, until each has succeeded. */
async function moveEach({ sql, wallets }: Group, tenantId: string): Promise<void> {
  const left = wallets.map((from, i) => ({ from, to: wallets[(i + 1) % wallets.length] ?? '' }))
  const client = async () => {
    for (let pair = left.pop(); pair; pair = left.pop()) {
      let result = await tryOnce(sql, tenantId, pair.from, pair.to)
      for (let tries = 1; result !== 'succeeded' && tries < 10; tries++) {
        result = await tryOnce(sql, tenantId, pair.from, pair.to)
      }
      if (result !== 'succeeded') throw new Error('a wallet is still locked after the recovery')
    }
  }
  await Promise.all(Array.from({ length: CLIENTS_EACH }, client))
}

/** The same for people. */
export function deadCoordinatorText(left: DeadCoordinator): string {
  const list = (counts: Record<string, number>) =>
    Object.entries(counts)
      .map(([name, count]) => `${name} ${count}`)
      .join(', ') || 'nothing'
  const line = (name: string, { succeeded, timedOut }: Tried) =>
    `  transfers on ${name}: ${succeeded} succeeded, ${timedOut} gave up after ${LOCK_MS_MAX / 1000} s`
  return [
    `the coordinator dies with ${left.transfers} transfers between promise and decision:`,
    `  left: ${left.prepared} prepared transactions; ${left.walletsLocked} wallets locked; locks: ${list(left.locks)}`,
    `for ${left.seconds} s, ${CLIENTS_EACH * 4} clients go on with transfers inside of one database:`,
    line('wallets concerned', left.concerned),
    line('other wallets', left.others),
    `  those on wallets concerned were seen waiting for: ${list(left.waits)}`,
    `recovery: ${left.committed} committed, ${left.rolledBack} rolled back in ${left.recoveryMs.toFixed(0)} ms; ` +
      `every wallet concerned had moved money again after ${left.flowsAgainMs.toFixed(0)} ms`,
    verdict(left),
  ].join('\n')
}

function verdict({ concerned, others }: DeadCoordinator): string {
  const of = (isBlocked: boolean) => (isBlocked ? 'blocked' : 'not blocked')
  return (
    `until somebody settles them, wallets concerned are ${of(concerned.succeeded === 0)}, ` +
    `others ${of(others.succeeded === 0)}`
  )
}
