import { setTimeout as sleep } from 'node:timers/promises'
import { connect } from '../src/postgres/connect.ts'

/** How many there were when looked at. */
export type Level = { average: number; max: number }

/** What was held on a server while something ran. */
export type LockLevels = {
  samples: number
  /** Granted locks on transactions and tuples. A transaction that has written holds one on itself, for its rows. */
  held: Level
  /** Of those, the ones of prepared transactions: nobody's connection holds them. */
  heldPrepared: Level
  /** Those that wait for one. */
  waiting: Level
  /** Prepared transactions. */
  prepared: Level
}

const EVERY_MS = 200

/** Looks at the locks of a whole server five times a second, until it is told to stop. */
export function watchLocks(url: string): { stop(): Promise<LockLevels> } {
  const sql = connect(url, { max: 1, role: null, name: 'zerosum-bench-locks' })
  const seen: { held: bigint; heldPrepared: bigint; waiting: bigint; prepared: bigint }[] = []
  const stopped = new AbortController()
  const watching = (async () => {
    while (!stopped.signal.aborted) {
      seen.push(
        ...(await sql<typeof seen>`
          SELECT count(*) FILTER (WHERE granted) AS held,
                 -- a prepared transaction's locks have no process
                 count(*) FILTER (WHERE granted AND pid IS NULL) AS "heldPrepared",
                 count(*) FILTER (WHERE NOT granted) AS waiting,
                 (SELECT count(*) FROM pg_prepared_xacts) AS prepared
          FROM pg_locks WHERE locktype IN ('transactionid', 'tuple')`),
      )
      await sleep(EVERY_MS, undefined, { signal: stopped.signal }).catch(() => {})
    }
  })()
  const level = (of: (one: (typeof seen)[number]) => bigint): Level => {
    const numbers = seen.map((one) => Number(of(one)))
    return { average: numbers.reduce((a, b) => a + b, 0) / Math.max(1, numbers.length), max: Math.max(0, ...numbers) }
  }
  return {
    async stop() {
      stopped.abort()
      await watching.finally(() => sql.end())
      return {
        samples: seen.length,
        held: level(({ held }) => held),
        heldPrepared: level(({ heldPrepared }) => heldPrepared),
        waiting: level(({ waiting }) => waiting),
        prepared: level(({ prepared }) => prepared),
      }
    },
  }
}

/** Lock levels, one line each. */
export function lockText({ samples, held, heldPrepared, waiting, prepared }: LockLevels): string {
  const line = (name: string, { average, max }: Level) => `  ${name}: ${average.toFixed(0)} on average, ${max} at most`
  return [
    `locks, looked at ${samples} times:`,
    line('held on transactions and tuples', held),
    line('of those by prepared transactions', heldPrepared),
    line('waited for', waiting),
    line('prepared transactions', prepared),
  ].join('\n')
}
