import type { Finding } from '../../core/audit.ts'
import { END_KEY } from '../../core/saga.ts'
import type { Tx } from '../../postgres/connect.ts'

/**
 * Finds the first saga that is in flight though it is over, or that is forgotten though it is not; else one whose last step has
 * recorded another saga than its beginning.
 */
export async function findWrongSaga(sql: Tx): Promise<Finding | undefined> {
  return (await findWronglyInFlight(sql)) ?? (await findChanged(sql))
}

async function findChanged(sql: Tx): Promise<Finding | undefined> {
  const [row] = await sql<{ id: string; block: bigint; item: number }[]>`
    SELECT e.id, e.block, e.item FROM requests b
    JOIN requests e ON (e.tenant_id, e.scope, e.key) = (b.tenant_id, b.id, ${END_KEY})
    WHERE b.refusal IS NULL AND (e.payload->'saga')::text <> (b.result->'saga')::text
    ORDER BY e.block, e.item LIMIT 1`
  return (
    row && {
      ...{ block: Number(row.block), item: row.item, transaction: row.id, account: null },
      problem: 'the last step of a saga has recorded another saga than its beginning',
    }
  )
}

async function findWronglyInFlight(sql: Tx): Promise<Finding | undefined> {
  const [row] = await sql<{ id: string; block: bigint | null; item: number | null; is_in_flight: boolean }[]>`
    SELECT coalesce(o.id, s.id) AS id, o.block, o.item, s.id IS NOT NULL AS is_in_flight
    FROM (SELECT b.id, b.block, b.item FROM requests b
          WHERE b.refusal IS NULL AND b.result->'saga' IS NOT NULL AND NOT EXISTS (
            SELECT FROM requests e WHERE (e.tenant_id, e.scope, e.key) = (b.tenant_id, b.id, ${END_KEY}))) AS o
    FULL JOIN sagas_in_flight s ON s.id = o.id
    WHERE o.id IS NULL OR s.id IS NULL
    ORDER BY o.block NULLS LAST, o.item LIMIT 1`
  if (!row) return undefined
  return {
    ...{ block: row.block === null ? null : Number(row.block), item: row.item, transaction: row.id, account: null },
    problem: row.is_in_flight
      ? 'the saga stands as in flight, but no accepted request began it, or it is over'
      : 'the saga is not over, but it does not stand as in flight: nobody would end it',
  }
}
