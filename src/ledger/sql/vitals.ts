import type { Sql } from '../../postgres/connect.ts'

/** How a shard is, as an operator wants to know it. */
export type Vitals = {
  /** Sagas that began here and are not over; 10,000 means that many or more. */
  readonly sagas: number
  /** The age of the oldest of them, by the database's clock; 0 if there is none. */
  readonly oldestSagaSeconds: number
  /** How far the replica that is furthest behind is; `undefined` if there is none, or this role may not see it (`pg_read_all_stats`). */
  readonly replicaLagSeconds: number | undefined
}

const SAGAS_MAX = 10_000

/** One small statement: by keys alone, a bounded number of rows. Ids of sagas begin with the time at which they were made. */
export async function readVitals(sql: Sql): Promise<Vitals> {
  const [row] = await sql<{ sagas: bigint; age: number; lag: number | null }[]>`
    SELECT (SELECT count(*) FROM (SELECT FROM sagas_in_flight LIMIT ${SAGAS_MAX}::int8) AS few) AS sagas,
           coalesce((SELECT greatest(0, extract(epoch FROM clock_timestamp()) - b.time_us / 1e6)
                     FROM (SELECT id FROM sagas_in_flight ORDER BY id LIMIT 1) AS s
                     JOIN requests r USING (id) JOIN blocks b ON b.number = r.block), 0)::float8 AS age,
           (SELECT max(coalesce(extract(epoch FROM replay_lag), 0)) FROM pg_stat_replication WHERE state IS NOT NULL)::float8 AS lag`
  return { sagas: Number(row?.sagas), oldestSagaSeconds: row?.age ?? 0, replicaLagSeconds: row?.lag ?? undefined }
}
