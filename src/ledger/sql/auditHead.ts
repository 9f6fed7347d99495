import type { ChainHead } from '../../core/block.ts'
import type { Tx } from '../../postgres/connect.ts'

type Row = { shard: number | null; number: bigint; hash: Buffer; time_us: bigint }

/** The head of the chain as its row has it, and the shard that the row names; `undefined` if there is no row. */
export async function readStoredHead(sql: Tx): Promise<(ChainHead & { readonly shard: number | null }) | undefined> {
  const [row] = await sql<Row[]>`SELECT shard, number, hash, time_us FROM chain_head`
  return row && { shard: row.shard, number: Number(row.number), hash: row.hash, timeUs: Number(row.time_us) }
}
