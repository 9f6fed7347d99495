import { Socket } from 'node:net'
import pg, { type PoolClient } from 'pg'
import type { Request } from '../src/core/request.ts'
import { connect } from '../src/postgres/connect.ts'
import { executeOn, type Tag, tagFor } from '../src/postgres/sql.ts'
import { dropBlockTriggers } from './classic.ts'
import { transfer } from './load.ts'
import { type Measure, measureRun } from './report.ts'

/** What is spoken of as A, where the coordinator's decisions are, and B. */
export type Pair<T> = readonly [a: T, b: T]

/** A coordinator of two-phase commits over two databases. */
export type TwoPhase = {
  /** Moves one amount between a wallet on A and one on B, whatever dies meanwhile. It takes one connection to each. */
  transfer(request: Request): Promise<Outcome>
  /** The first half alone: both sides have promised, and nothing is decided. */
  prepare(request: Request): Promise<Outcome>
  /** Dies: its connections break without a goodbye. */
  die(): void
  /** Closes the connections. */
  close(): Promise<void>
}

/** `refused`: the payer can't pay. `retry`: a lock did not come in time; nothing happened. */
export type Outcome = 'done' | 'refused' | 'retry'

/** How many transfers are in the air, each on a connection to A and one to B. */
export const CLIENTS = 64
/** Waiting ends by itself, should one die that has a lock. */
const LOCK_MS_MAX = 1_000
const TRIES_MAX = 10
/** The other side of what leaves or enters a database, on both. */
const TRANSIT = '00000000-0000-7000-8000-0000000000ff'
const AMOUNT = 5n

/** Lets two-phase commits write the tables of both: no block triggers, a transit account, the decisions on A. */
export async function prepareTwoPhase(urls: Pair<string>, tenantId: string): Promise<void> {
  for (const url of urls) {
    await dropBlockTriggers(url)
    const owner = connect(url, { max: 1, role: null })
    await owner`INSERT INTO accounts (id, tenant_id, kind, currency) VALUES (${TRANSIT}, ${tenantId}, 'suspense', 'USD')`
    await owner.end()
  }
  const owner = connect(urls[0], { max: 1, role: null })
  await owner`CREATE TABLE decisions (id uuid PRIMARY KEY, decided_at timestamptz NOT NULL DEFAULT now())`
  await owner.end()
}

/**
 * Transfers by PostgreSQL's two-phase commit, on the same tables as the classic way, at its best:
 *
 *   1. BEGIN on both; lock and check the wallet on A, then the one on B (SELECT … FOR UPDATE). One after the other: if all
 *      lock in the same order, there is no deadlock through two databases, which neither of them would see.
 *   2. on A and on B at once: write the request and the entries, move the balance, PREPARE TRANSACTION.
 *   3. both have promised: one row in `decisions` on A, in a transaction of its own, on disk. Where no decision is found,
 *      the transfer did not happen ("presumed abort"), so refusals write nothing.
 *   4. on A and on B at once: COMMIT PREPARED.
 *
 * Each database's entries sum to zero by an entry on its transit account. The balance of that one is not kept: a row that
 * every transfer locks until the last commit would put them all in one line, and that is not two-phase commit's fault.
 * Its entries are numbered as their block is, and carry no running balance. Decisions are never cleaned away, which spares
 * work as well. The two databases of one server share its log, so that flushes of both sides are often one.
 * @param isOnA where a wallet is
 */
export function openTwoPhase(urls: Pair<string>, isOnA: (walletId: string) => boolean): TwoPhase {
  const sockets = new Set<Socket>()
  const stream = () => {
    const socket = new Socket()
    sockets.add(socket)
    return socket
  }
  const pools = urls.map((connectionString) => {
    const pool = new pg.Pool({
      connectionString,
      max: CLIENTS,
      idleTimeoutMillis: 0,
      lock_timeout: LOCK_MS_MAX,
      stream,
    })
    pool.on('error', () => {})
    pool.on('connect', (client) => client.on('error', () => {}))
    return pool
  }) as unknown as Pair<pg.Pool>

  async function onBoth<T>(work: (a: PoolClient, b: PoolClient) => Promise<T>): Promise<T> {
    const a = await pools[0].connect()
    try {
      const b = await pools[1].connect()
      return await work(a, b).finally(() => b.release())
    } finally {
      a.release()
    }
  }

  return {
    prepare: (request) => onBoth((a, b) => vote(a, b, request, isOnA)),
    transfer: (request) =>
      onBoth(async (a, b) => {
        const outcome = await vote(a, b, request, isOnA)
        if (outcome !== 'done') return outcome
        await sqlOn(a)`INSERT INTO decisions (id) VALUES (${request.id})`
        await Promise.all([a.query(`COMMIT PREPARED '${request.id}/a'`), b.query(`COMMIT PREPARED '${request.id}/b'`)])
        return outcome
      }),
    die: () => {
      for (const socket of sockets) socket.destroy()
    },
    close: async () => {
      await Promise.all(pools.map((pool) => pool.end()))
    },
  }
}

/** Both sides, until they have promised. If one doesn't, what the other one promised or began is taken back. */
async function vote(
  a: PoolClient,
  b: PoolClient,
  request: Request,
  isOnA: (walletId: string) => boolean,
): Promise<Outcome> {
  const leg = request.operation.kind === 'transfer' ? request.operation.legs[0] : undefined
  if (!leg) throw new Error('two-phase commit moves single transfers')
  const [payer, payee] = [
    { account: leg.from, amount: -leg.amount },
    { account: leg.to, amount: leg.amount },
  ]
  const [onA, onB] = isOnA(leg.from) ? [payer, payee] : [payee, payer]
  const first: Side = { client: a, name: `${request.id}/a`, ...onA }
  const second: Side = { client: b, name: `${request.id}/b`, ...onB }
  const sides = [first, second]
  try {
    await Promise.all(sides.map(({ client }) => client.query('BEGIN')))
    const one = await lock(first)
    const other = one && (await lock(second))
    if (!one || !other) {
      await Promise.all(sides.map(({ client }) => client.query('ROLLBACK')))
      return 'refused'
    }
    await settled([writeAndPromise(first, request, one), writeAndPromise(second, request, other)])
    return 'done'
  } catch (error) {
    for (const side of sides) await takeBack(side)
    if (isLockTrouble(error)) return 'retry'
    throw error
  }
}

/** One database's part of a transfer. A name is unique on a server, not in a database. */
type Side = { client: PoolClient; name: string; account: string; amount: bigint }
type Row = { sequence: string; posted: string; pending: string; overdraft_limit: string }

/** Locks the wallet; nothing if it is not there or can't pay. */
async function lock({ client, account, amount }: Side): Promise<Row | undefined> {
  const [row] = await sqlOn(client)<Row[]>`
    SELECT sequence, credits_posted - debits_posted AS posted, debits_pending AS pending, overdraft_limit
    FROM accounts WHERE id = ${account} FOR UPDATE`
  if (!row || amount > 0n) return row
  return BigInt(row.posted) - BigInt(row.pending) + amount < -BigInt(row.overdraft_limit) ? undefined : row
}

/** Moves the locked wallet of one side, and promises. */
async function writeAndPromise({ client, name, account, amount }: Side, request: Request, row: Row): Promise<void> {
  const sql = sqlOn(client)
  const [inserted] = await sql<{ block: string }[]>`
    INSERT INTO requests (block, item, id, tenant_id, scope, key, kind, payload, leaf)
    VALUES (nextval('classic_number'), 0, ${request.id}, ${request.tenantId}, ${request.scope}, ${request.key},
            'transfer', ${request.payload}::text::json, decode(repeat('00', 32), 'hex'))
    RETURNING block`
  const block = inserted?.block
  await sql`
    INSERT INTO entries
      (block, item, line, account_id, sequence, currency, layer, amount, posted, pending_out, pending_in)
    VALUES
      (${block}, 0, 0, ${account}, ${BigInt(row.sequence) + 1n}, 'USD', 'posted', ${amount},
       ${BigInt(row.posted) + amount}, 0, 0),
      (${block}, 0, 1, ${TRANSIT}, ${block}, 'USD', 'posted', ${-amount}, 0, 0, 0)`
  await sql`
    UPDATE accounts SET sequence = sequence + 1,
      debits_posted = debits_posted + greatest(-${amount}::int8, 0),
      credits_posted = credits_posted + greatest(${amount}::int8, 0)
    WHERE id = ${account}`
  await client.query(`PREPARE TRANSACTION '${name}'`)
}

/** Undoes a side, however far it came. */
async function takeBack({ client, name }: Side): Promise<void> {
  await client.query('ROLLBACK').catch(() => {})
  // It is not there if it was not promised.
  await client.query(`ROLLBACK PREPARED '${name}'`).catch(() => {})
}

/** All of them, also when one fails; then throws what that one threw. */
async function settled(works: Promise<void>[]): Promise<void> {
  await Promise.allSettled(works)
  await Promise.all(works)
}

/** After a coordinator died: what has a decision is committed, the rest is rolled back. How many of each. */
export async function recover(urls: Pair<string>): Promise<{ committed: number; rolledBack: number }> {
  const pools = urls.map((url) => connect(url, { max: 1, role: null })) as unknown as Pair<ReturnType<typeof connect>>
  const count = { committed: 0, rolledBack: 0 }
  try {
    const decided = new Set((await pools[0]<{ id: string }[]>`SELECT id FROM decisions`).map(({ id }) => id))
    const settle = async (sql: Tag) => {
      const open = await sql<{ gid: string }[]>`
        SELECT gid FROM pg_prepared_xacts WHERE database = current_database()`
      for (const { gid } of open) {
        const isDecided = decided.has(gid.split('/')[0] ?? '')
        await sql.unsafe(`${isDecided ? 'COMMIT' : 'ROLLBACK'} PREPARED '${gid}'`)
        count[isDecided ? 'committed' : 'rolledBack'] += 1
      }
    }
    await Promise.all(pools.map(settle))
    return count
  } finally {
    await Promise.all(pools.map((pool) => pool.end()))
  }
}

/** Whom to draw transfers from: wallets on A and on B, and a source of random numbers in [0, 1). */
export type CrossLoad = { tenantId: string; onA: string[]; onB: string[]; random: () => number }

/** Draws transfers of 5 cents between any wallet on A and any on B, either way, each as likely as any other. */
export function drawCross({ tenantId, onA, onB, random }: CrossLoad): () => Request {
  const any = (list: string[]) => list[Math.floor(random() * list.length)] ?? ''
  return () => {
    const [here, there] = [any(onA), any(onB)]
    return random() < 0.5 ? transfer(tenantId, here, there, AMOUNT) : transfer(tenantId, there, here, AMOUNT)
  }
}

/**
 * Measures that many transfers, 64 in the air. `retries` counts attempts that a lock ended; a latency is that of all
 * attempts of a transfer together.
 * @param draw makes each transfer, between a wallet on A and one on B
 * @throws if a transfer is refused, or finds no lock in ten attempts
 */
export async function runTwoPhase(
  twoPhase: TwoPhase,
  draw: () => Request,
  count: number,
): Promise<Measure & { retries: number }> {
  const run = measureRun('two-phase commit')
  let left = count
  let retries = 0
  const client = async () => {
    while (left > 0) {
      left -= 1
      const request = draw()
      const began = performance.now()
      let outcome = await twoPhase.transfer(request)
      for (let tries = 1; outcome === 'retry' && tries < TRIES_MAX; tries++) {
        retries += 1
        outcome = await twoPhase.transfer(request)
      }
      if (outcome !== 'done') {
        left = 0
        throw new Error(`a funded transfer ended as ${outcome}`)
      }
      run.sample(performance.now() - began)
    }
  }
  await Promise.all(Array.from({ length: CLIENTS }, client))
  return { ...run.end(count), retries }
}

/**
 * Looks whether each database's entries sum to zero, and whether what left A has come to B.
 * @returns how much is between the two: 0 when every transfer is whole
 * @throws if a database's entries don't sum to zero
 */
export async function betweenDatabases(urls: Pair<string>): Promise<bigint> {
  let between = 0n
  for (const url of urls) {
    const sql = connect(url, { max: 1, role: null })
    const [sums] = await sql<{ all: bigint; transit: bigint }[]>`
      SELECT sum(amount)::int8 AS all, coalesce(sum(amount) FILTER (WHERE account_id = ${TRANSIT}), 0)::int8 AS transit
      FROM entries`
    await sql.end()
    if (sums?.all !== 0n) throw new Error(`entries that don't sum to zero: ${sums?.all}`)
    between += sums.transit
  }
  return between
}

function sqlOn(client: PoolClient): Tag {
  return tagFor(executeOn(client))
}

/** 55P03: the lock did not come in time. 40P01: a deadlock within one database. */
function isLockTrouble(error: unknown): boolean {
  return error instanceof pg.DatabaseError && (error.code === '55P03' || error.code === '40P01')
}
