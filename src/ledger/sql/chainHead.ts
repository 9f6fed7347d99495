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

/** The last block of the shard's chain; until the transaction ends, nobody else can add one. */
export async function lockHead(sql: Tx): Promise<LockedHead> {
  const [row] = await sql<Row[]>`SELECT number, hash, time_us, layout_block FROM lock_head()`
  return { ...headOf(row), layoutBlock: Number(row?.layout_block) }
}

function headOf(row: Omit<Row, 'layout_block'> | undefined): ChainHead {
  if (!row) throw new Error('the chain has no head: this is not a migrated database')
  return { number: Number(row.number), hash: row.hash, timeUs: Number(row.time_us) }
}
