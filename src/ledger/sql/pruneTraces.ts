import type { Sql } from '../../postgres/connect.ts'

/**
 * Removes the trace contexts of old blocks, a portion at a time.
 * @param beforeUs what was posted before that, microseconds since 1970, is old
 * @returns how many were removed: if that is `limit`, there may be more
 */
export async function pruneTraces(sql: Sql, { beforeUs, limit }: { beforeUs: number; limit: number }): Promise<number> {
  const { count } = await sql`
    DELETE FROM request_traces WHERE (block, item) IN (
      SELECT block, item FROM request_traces
      WHERE block <= (SELECT number FROM blocks WHERE time_us < ${beforeUs} ORDER BY time_us DESC LIMIT 1)
      ORDER BY block, item LIMIT ${limit})`
  return count
}
