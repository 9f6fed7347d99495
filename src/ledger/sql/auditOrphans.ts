import type { Finding } from '../../core/audit.ts'
import type { Tx } from '../../postgres/connect.ts'

type Row = { block: bigint; item: number; id: string | null; account_id: string | null }

/**
 * Finds the first request or entry that stands in no block.
 * @param last the number of the last block of a chain without gaps
 */
export async function findOrphan(sql: Tx, last: number): Promise<Finding | undefined> {
  const [row] = await sql<Row[]>`
    SELECT o.block, o.item, o.id, coalesce(o.account_id, e.account_id) AS account_id FROM (
      (SELECT block, item, id, NULL::uuid AS account_id FROM requests WHERE block < 1 ORDER BY block, item LIMIT 1)
      UNION ALL
      (SELECT block, item, id, NULL FROM requests WHERE block > ${last} ORDER BY block, item LIMIT 1)
      UNION ALL
      (SELECT block, item, NULL, account_id FROM entries WHERE block < 1 ORDER BY block, item, line LIMIT 1)
      UNION ALL
      (SELECT block, item, NULL, account_id FROM entries WHERE block > ${last} ORDER BY block, item, line LIMIT 1)) AS o
    LEFT JOIN entries e ON o.id IS NOT NULL AND (e.block, e.item) = (o.block, o.item)
    ORDER BY o.block, o.item, o.id NULLS LAST, e.line LIMIT 1`
  if (!row) return undefined
  const block = Number(row.block)
  const what = row.id === null ? 'an entry stands' : 'a request stands'
  const problem = `${what} in block ${block}, which is not there: the chain has the blocks 1 to ${last}`
  return { block, item: row.item, transaction: row.id, account: row.account_id, problem }
}
