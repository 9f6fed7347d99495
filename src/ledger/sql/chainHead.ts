import type { ChainHead } from '../../core/block.ts'
import type { Sql, Tx } from '../../postgres/connect.ts'

type Row = { number: bigint; hash: Buffer; time_us: bigint; layout_block: bigint }

/** The last block, and the one that changed the shard map, or what is under way with it, last. */
export type LockedHead = ChainHead & { readonly layoutBlock: number }

/** The last block of the shard's chain, as of now. */
export async function readHead(sql: Sql): Promise<ChainHead> {
  const [row] = await sql<Omit<Row, 'layout_block'>[]>`SELECT number, hash, time_us FROM chain_head`
  return headOf(row)
}

/** The wallets that blocks from number `after` + 1 to number `upTo` have changed, with the number of the last entry in them. */
export async function listChangedWallets(
  sql: Sql,
  { after, upTo, limit }: { after: number; upTo: number; limit: number },
): Promise<{ walletId: string; version: number }[]> {
  const rows = await sql<{ account_id: string; version: bigint }[]>`
    SELECT e.account_id, max(e.sequence) AS version FROM entries e JOIN accounts a ON a.id = e.account_id
    WHERE e.block > ${after}::int8 AND e.block <= ${upTo}::int8 AND a.kind = 'wallet'
    GROUP BY e.account_id LIMIT ${limit}`
  return rows.map(({ account_id, version }) => ({ walletId: account_id, version: Number(version) }))
}

/** The last block of the shard's chain; until the transaction ends, nobody else can add one. */
export async function lockHead(sql: Tx): Promise<LockedHead> {
  const [row] = await sql<Row[]>`SELECT number, hash, time_us, layout_block FROM lock_head()`
  return { ...headOf(row), layoutBlock: Number(row?.layout_block) }
}

function headOf(row: Omit<Row, 'layout_block'> | undefined): ChainHead {
  if (!row) throw new Error('the chain has no head: this is not a migrated database')
  return { number: Number(row.number), hash: row.hash, timeUs: Number(row.time_us) }
}
