import type { Kind } from '../core/request.ts'
import { arrayLiteral, type Sql } from '../postgres/connect.ts'

/**
 * How a request ended that was accepted to be posted later, where the ledger has no record under its id: its key had been used before. These
 * are a table of the first shard; all else is the ledger's.
 */
export type AsyncEnd = {
  readonly id: string
  readonly tenantId: string
  readonly kind: Kind
  /** Canonical JSON. */
  readonly payload: string
  /** The same request, as it is in the ledger; `null` if the key was used for another one. */
  readonly recordId: string | null
  /** Microseconds since 1970. */
  readonly timeUs: number
}

/** Writes ends down; what is there stays as it is. */
export async function addEnds(sql: Sql, ends: readonly AsyncEnd[]): Promise<void> {
  const column = (of: (end: AsyncEnd) => string | number | null) => arrayLiteral(ends.map(of))
  await sql`
    INSERT INTO async_ends (id, tenant_id, kind, payload, record_id, time_us)
    SELECT * FROM unnest(
      ${column(({ id }) => id)}::uuid[], ${column(({ tenantId }) => tenantId)}::uuid[], ${column(({ kind }) => kind)}::text[],
      ${column(({ payload }) => payload)}::text[], ${column(({ recordId }) => recordId)}::uuid[],
      ${column(({ timeUs }) => timeUs)}::int8[])
    ON CONFLICT (id) DO NOTHING`
}

/** So long it is known how a request ended; then it is said to wait, as if nothing were known of it. */
export const ENDS_KEPT_US = 90 * 24 * 3600 * 1_000_000

/** Removes the oldest ends from before a time, up to so many. @returns how many there were */
export async function pruneEnds(sql: Sql, { beforeUs, limit }: { beforeUs: number; limit: number }): Promise<number> {
  const { count } = await sql`
    DELETE FROM async_ends WHERE id = ANY (ARRAY(
      SELECT id FROM async_ends WHERE time_us < ${beforeUs} ORDER BY time_us LIMIT ${limit}))`
  return count
}

export async function findEnd(sql: Sql, tenantId: string, id: string): Promise<AsyncEnd | undefined> {
  const [row] = await sql<{ kind: Kind; payload: string; record_id: string | null; time_us: bigint }[]>`
    SELECT kind, payload, record_id, time_us FROM async_ends WHERE id = ${id} AND tenant_id = ${tenantId}`
  return (
    row && { id, tenantId, kind: row.kind, payload: row.payload, recordId: row.record_id, timeUs: Number(row.time_us) }
  )
}
