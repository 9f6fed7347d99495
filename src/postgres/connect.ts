import pg, { type PoolClient } from 'pg'
import { executeOn, oneByOne, type Tag, tagFor } from './sql.ts'
import { securedUrl } from './tls.ts'

/** Inside a transaction. Name it `sql` there, so that no query can leave the transaction. */
export type Tx = Tag
/** A pool of connections to one database; each statement runs on any of them. Rows come with `int8` as bigint. */
export type Sql = Tag & {
  /**
   * Runs `work` in a transaction: committed when it returns, rolled back when it throws.
   * @param mode as after BEGIN: `isolation level repeatable read read only`
   */
  begin<T>(work: (sql: Tx) => Promise<T>): Promise<T>
  begin<T>(mode: string, work: (sql: Tx) => Promise<T>): Promise<T>
  /** Closes the pool, after what is running; at most after `timeout` seconds (default 5). */
  end(options?: { timeout: number }): Promise<void>
}

/** The role that the application works as. It can read all, and append to the ledger; migrations create it. */
export const APP_ROLE = 'zerosum_app'

/** How a pool is to behave. */
export type PoolOptions = {
  /** Connections at most. */
  max: number
  /** The role to work as; `null` is the one that the URL logs in as. */
  role?: string | null
  /** Shown in `pg_stat_activity`. */
  name?: string
  /**
   * How long to wait for an answer; then the connection is given up, and the fate of what was sent is unknown. The server ends a statement
   * that nobody waits for any more soon after (`statement_timeout`).
   */
  answerMsMax?: number
  /** Stands before each statement and each transaction. */
  guard?: <T>(work: () => Promise<T>) => Promise<T>
  /**
   * Blocks are committed over it. Then the server never ends a statement by the clock, whatever is set for the role or the database: a COMMIT
   * that was cut has an unknown fate. It gives up waiting for a lock instead, before the answer is given up: that fate is known. Connections
   * stay open when they are idle.
   */
  postsBlocks?: boolean
}

/** How the connections of all pools of a name are used now; `waiting` is work that waits for one. */
export type PoolUse = { readonly name: string; readonly idle: number; readonly used: number; readonly waiting: number }

/** The pools of this process that are open. */
const open = new Set<{ readonly name: string; readonly pool: pg.Pool }>()

/** How the pools that are open in this process are used, by the names that they were given. */
export function poolUse(): PoolUse[] {
  return [...Map.groupBy(open, ({ name }) => name)].map(([name, pools]) => {
    const sum = (count: (pool: pg.Pool) => number) => pools.reduce((total, { pool }) => total + count(pool), 0)
    const idle = sum((pool) => pool.idleCount)
    return { name, idle, used: sum((pool) => pool.totalCount) - idle, waiting: sum((pool) => pool.waitingCount) }
  })
}

/** The connection could not be made, or broke: the fate of what was sent is unknown. */
export class ConnectionLost extends Error {}

const CONNECT_MS_MAX = 5_000
const END_SECONDS_MAX = 5
/** A connection that nobody has used for so long is closed; the next use opens one. */
const IDLE_MS_MAX = 30_000
/** How much longer than its caller the server has patience with a statement. */
const STATEMENT_MS_MORE = 1_000
/** How much less, with waiting for a lock. */
const LOCK_MS_LESS = 2_000
/** A node that stalls while it holds the chain must not stop the others for long. */
const IDLE_IN_TRANSACTION_MS_MAX = 5_000

/** Types whose text form is read otherwise than `pg` does by itself: int8 as bigint. */
const INT8 = 20
const types: pg.CustomTypesConfig = {
  getTypeParser: ((oid: number, format?: 'text' | 'binary') =>
    oid === INT8 ? BigInt : pg.types.getTypeParser(oid, format as 'text')) as typeof pg.types.getTypeParser,
}

/**
 * Opens a pool. It connects when first used, and anew after a connection broke.
 * @param url `postgres://user:password@host:port/database`, with `?sslmode=verify-full` for TLS (tls.ts)
 * @throws Error if what the URL says of TLS can not be done
 */
export function connect(url: string, options: PoolOptions): Sql {
  const { max, name = 'zerosum', answerMsMax, postsBlocks = false, guard = (work) => work() } = options
  const { url: connectionString, ssl } = securedUrl(url)
  const pool = new pg.Pool({
    connectionString,
    // Said in any case: otherwise `pg` reads PGSSLMODE.
    ssl,
    max,
    application_name: name,
    options: serverSettings(options),
    connectionTimeoutMillis: CONNECT_MS_MAX,
    idleTimeoutMillis: postsBlocks ? 0 : IDLE_MS_MAX,
    keepAlive: true,
    ...(answerMsMax === undefined ? {} : { query_timeout: answerMsMax }),
    types,
  })
  const known = { name, pool }
  open.add(known)
  // A connection that breaks while nobody waits on it is replaced by the next use; without listeners it would end the process.
  pool.on('error', () => {})
  pool.on('connect', (client) => client.on('error', () => {}))

  const execute = executeOn({ query: pool.query.bind(pool) as typeof pool.query })
  const tag = tagFor((query) => guard(() => execute(query).catch(rethrow)))

  function begin<T>(...args: [(sql: Tx) => Promise<T>] | [string, (sql: Tx) => Promise<T>]): Promise<T> {
    const [mode, work] = args.length === 1 ? ['', args[0]] : args
    return guard(() => transact(mode, work))
  }

  async function transact<T>(mode: string, work: (sql: Tx) => Promise<T>): Promise<T> {
    const client = await pool.connect().catch(rethrow)
    const run = oneByOne(executeOn(client))
    let isBroken = false
    try {
      await client.query(`BEGIN ${mode}`)
      const result = await work(tagFor((query) => run(query).catch(rethrow)))
      const { command } = await client.query('COMMIT')
      // PostgreSQL says so, without an error, when a statement failed and nobody minded.
      if (command !== 'COMMIT') throw new Error('the transaction was rolled back: one of its statements had failed')
      return result
    } catch (error) {
      isBroken = isOfConnection(error) || !(await rolledBack(client))
      return rethrow(error)
    } finally {
      client.release(isBroken)
    }
  }

  let ending: Promise<void> | undefined
  function end({ timeout } = { timeout: END_SECONDS_MAX }): Promise<void> {
    open.delete(known)
    ending ??= endWithin(pool, timeout * 1000)
    return ending
  }
  return Object.assign(tag, { begin, end })
}

/** A pool of its own for a URL; or one that others use too, and that whoever opened it ends. */
export function connectOrShare(place: string | Sql, options: PoolOptions): Sql {
  if (typeof place === 'string') return connect(place, options)
  return Object.assign(place.bind(undefined) as Sql, place, { end: async () => {} })
}

/** What a session begins with; it goes before what is set for the role and the database. */
function serverSettings({ role = APP_ROLE, answerMsMax, postsBlocks = false }: PoolOptions): string {
  const settings: Record<string, string | number> = {
    idle_in_transaction_session_timeout: IDLE_IN_TRANSACTION_MS_MAX,
    ...(role === null ? {} : { role }),
    ...(answerMsMax === undefined || postsBlocks ? {} : { statement_timeout: answerMsMax + STATEMENT_MS_MORE }),
    ...(postsBlocks ? { statement_timeout: 0 } : {}),
    ...(answerMsMax !== undefined && postsBlocks ? { lock_timeout: Math.max(1, answerMsMax - LOCK_MS_LESS) } : {}),
  }
  return Object.entries(settings)
    .map(([name, value]) => `-c ${name}=${value}`)
    .join(' ')
}

async function rolledBack(client: PoolClient): Promise<boolean> {
  return await client.query('ROLLBACK').then(
    () => true,
    () => false,
  )
}

async function endWithin(pool: pg.Pool, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<void>((done) => {
    timer = setTimeout(done, ms)
  })
  await Promise.race([pool.end(), late])
  clearTimeout(timer)
}

/** Errors of the server stay what they are; `pg` marks what the connection itself met by nothing but not being one. */
function rethrow(error: unknown): never {
  throw isOfConnection(error) ? new ConnectionLost('the connection to PostgreSQL failed', { cause: error }) : error
}

/** How OpenSSL's and Node's reasons begin, or what is in them, when a certificate or a handshake is not right. */
const TLS_CODES = /^(ERR_(TLS|SSL|OSSL)_|UNABLE_TO_|INVALID_CA|INVALID_PURPOSE|PATH_LENGTH_|HOSTNAME_)|CERT|CRL/

function isOfConnection(error: unknown): boolean {
  if (!(error instanceof Error) || error instanceof pg.DatabaseError) return false
  // The second: several addresses were tried.
  if (error instanceof ConnectionLost || error instanceof AggregateError) return true
  const code = `${(error as NodeJS.ErrnoException).code}`
  return (
    /^E(?!RR_)[A-Z_]+$/.test(code) ||
    TLS_CODES.test(code) ||
    /connection|connect|pool|client|timeout/i.test(error.message)
  )
}

/** What PostgreSQL, or the way to it, says went wrong. */
export type Failure = 'chain_moved' | 'unreachable' | 'refused'

/**
 * Sorts an error of a query: `chain_moved`, another writer was faster (ZS001, or a serialization failure); `unreachable`, the
 * connection broke or the server is not taking work, so the fate of what was sent is unknown; `refused`, the database
 * looked at it and said no, as it will again.
 */
export function failureOf(error: unknown): Failure {
  if (error instanceof ConnectionLost) return 'unreachable'
  if (!(error instanceof pg.DatabaseError)) return 'refused'
  const code = error.code ?? ''
  if (code === 'ZS001' || code === '40001' || code === '40P01') return 'chain_moved'
  // 08 connection, 25006 read-only after a failover, 25P03 idle in transaction, 28 log-in, 3D no such database,
  // 53 resources, 55P03 a lock was not to be had, 57 shutdown or out of time, 58 system
  return /^(08|25006|25P03|28|3D|53|55P03|57|58)/.test(code) ? 'unreachable' : 'refused'
}

/**
 * A PostgreSQL array literal made in one native call. For numbers, bigints as text, `null`, and text without control characters
 * (JSON escapes those in a way that PostgreSQL doesn't read): ids, keys, JSON documents.
 */
export function arrayLiteral(values: readonly (string | number | null)[]): string {
  return `{${JSON.stringify(values).slice(1, -1)}}`
}
