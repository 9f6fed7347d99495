import type { Sql } from '../postgres/connect.ts'

/** Any number will do, as long as everybody takes the same. */
const LOCK_KEY = 8_203_719
const BEAT_MS = 2_000

/**
 * Works while nobody else changes the map. It saves two from getting into each other's way; that a change is made once, and whole, does
 * not depend on it. So whoever gives no sign of life for ten seconds, stopped or cut off, loses it: others must be able to end what
 * that one left half done.
 * @param sql on shard 0; one connection of it is kept meanwhile
 * @returns `undefined`, and nothing was done, if somebody else is at it
 */
export async function alone<T>(sql: Sql, work: () => Promise<T>): Promise<T | undefined> {
  let done: { value: T } | undefined
  try {
    return await sql.begin(async (sql) => {
      await sql`SET LOCAL idle_in_transaction_session_timeout = '10s'`
      const [lock] = await sql<{ taken: boolean }[]>`SELECT pg_try_advisory_xact_lock(${LOCK_KEY}) AS taken`
      if (!lock?.taken) return undefined
      const beat = setInterval(() => void sql`SELECT 1`.catch(() => {}), BEAT_MS)
      try {
        done = { value: await work() }
        return done.value
      } finally {
        clearInterval(beat)
      }
    })
  } catch (error) {
    // What was done is done, though the lock was lost meanwhile.
    if (done) return done.value
    throw error
  }
}
