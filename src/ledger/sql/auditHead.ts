import type { ChainHead } from '../../core/block.ts'
import type { Tx } from '../../postgres/connect.ts'

type Row = { shard: number | null; number: bigint; hash: Buffer; time_us: bigint; is_whole: boolean }

/** The head of the chain as its row has it. */
export type StoredHead = ChainHead & {
  readonly shard: number | null
  /** Whether its block was given all that its header says. */
  readonly isWhole: boolean
}

/** The row of the head; `undefined` if there is none. */
export async function readStoredHead(sql: Tx): Promise<StoredHead | undefined> {
  const [row] = await sql<Row[]>`
    SELECT shard, number, hash, time_us, requests_left = 0 AND entries_left = 0 AS is_whole FROM chain_head`
  if (!row) return undefined
  const { shard, number, hash, time_us, is_whole: isWhole } = row
  return { shard, number: Number(number), hash, timeUs: Number(time_us), isWhole }
}
