import postgres from 'postgres'

/** A pool of connections to one database; rows come with `int8` as bigint. */
export type Sql = postgres.Sql<{ bigint: bigint }>
/** The same inside `begin`: name it `sql` there, so that no query can leave the transaction. */
export type Tx = postgres.TransactionSql<{ bigint: bigint }>

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
}

/**
 * Opens a pool. It connects when first used.
 * @param url `postgres://user:password@host:port/database`
 */
export function connect(url: string, { max, role = APP_ROLE, name = 'zerosum' }: PoolOptions): Sql {
  return postgres(url, {
    max,
    types: { bigint: { to: 20, from: [20], serialize: String, parse: BigInt } },
    connection: {
      application_name: name,
      // A node that stalls while it holds the chain must not stop the others for long.
      idle_in_transaction_session_timeout: 5_000,
      ...(role === null ? {} : { role }),
    },
    connect_timeout: 5,
    idle_timeout: 0,
    max_lifetime: null,
    fetch_types: false,
    onnotice: () => {},
  })
}

/** What PostgreSQL, or the way to it, says went wrong. */
export type Failure = 'chain_moved' | 'unreachable' | 'refused'

const UNREACHABLE_CODES = new Set(['CONNECTION_CLOSED', 'CONNECTION_ENDED', 'CONNECTION_DESTROYED', 'CONNECT_TIMEOUT'])

/**
 * Sorts an error of a query: `chain_moved`, another writer was faster (ZS001, or a serialization failure); `unreachable`, the
 * connection broke or the server is not taking work, so the fate of what was sent is unknown; `refused`, the database
 * looked at it and said no, as it will again.
 */
export function failureOf(error: unknown): Failure {
  const code = (error as { code?: unknown } | null)?.code
  if (typeof code !== 'string') return 'refused'
  if (code === 'ZS001' || code === '40001' || code === '40P01') return 'chain_moved'
  // 08 connection, 53 resources, 57 operator intervention and shutdown, 25P03 idle in transaction, 58 system errors
  if (/^(08|53|57|58)/.test(code) || code === '25P03' || UNREACHABLE_CODES.has(code)) return 'unreachable'
  return /^E[A-Z]+$/.test(code) ? 'unreachable' : 'refused'
}

/**
 * A PostgreSQL array literal made in one native call. For numbers, bigints as text, `null`, and text without control characters
 * (JSON escapes those in a way that PostgreSQL doesn't read): ids, keys, JSON documents.
 */
export function arrayLiteral(values: readonly (string | number | null)[]): string {
  return `{${JSON.stringify(values).slice(1, -1)}}`
}
