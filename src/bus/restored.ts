import type { Sql } from '../postgres/connect.ts'
import { rewindReader } from './position.ts'

/** A node is at work: what would be put right here moves on meanwhile. The message says where. */
export class NodesRunning extends Error {}

/** No event stands behind it in its block. */
const LAST_INDEX = 2_147_483_647

/**
 * Puts what consumer groups have recorded in agreement with the chains, after a database was restored from a backup and before nodes start:
 *
 * - marks beyond the end of a chain are of blocks that are gone: they are moved back to its end, or the blocks that come would be taken for done;
 * - readers of the embedded bus that have passed what is not marked, because the first shard's marks are of the backup, are sent back to the
 *   marks; what is marked is not done again.
 * @param pool on a shard's database
 * @param shards all that there are
 * @returns how many marks were moved, and readers sent back
 * @throws NodesRunning
 */
export async function alignWithChains(
  pool: (shard: number) => Sql,
  shards: readonly number[],
): Promise<{ marks: number; readers: number }> {
  for (const shard of shards) await refuseRunning(pool(shard), shard)
  let [marks, readers] = [0, 0]
  for (const shard of shards) {
    marks += await cutMarks(pool(0), shard, await headOf(pool(shard)))
    for (const { reader, block } of await groupReaders(pool(shard))) {
      const done = await doneBlock(pool(0), reader, shard)
      if (block <= done) continue
      const [next] = await pool(shard)<{ time_us: bigint }[]>`SELECT time_us FROM blocks WHERE number = ${done + 1}`
      await rewindReader(pool(shard), reader, Number(next?.time_us ?? 0))
      readers += 1
    }
  }
  return { marks, readers }
}

async function refuseRunning(sql: Sql, shard: number): Promise<void> {
  const rows = await sql<{ reader: string }[]>`
    SELECT reader FROM block_readers WHERE leased_until > clock_timestamp() ORDER BY reader LIMIT 1`
  const [running] = rows
  if (running)
    throw new NodesRunning(
      `a node is at work on shard ${shard} (${running.reader}): stop all nodes, and wait five seconds`,
    )
}

async function headOf(sql: Sql): Promise<number> {
  const [head] = await sql<{ number: bigint }[]>`SELECT number FROM chain_head`
  return Number(head?.number ?? 0)
}

async function cutMarks(sql: Sql, shard: number, head: number): Promise<number> {
  const rows = await sql`
    UPDATE consumer_marks SET block = ${head}, index = ${LAST_INDEX} WHERE shard = ${shard} AND block > ${head} RETURNING shard`
  return rows.length
}

async function groupReaders(sql: Sql): Promise<{ reader: string; block: number }[]> {
  const rows = await sql<{ reader: string; block: bigint }[]>`
    SELECT reader, block FROM block_readers WHERE reader LIKE 'group %' ORDER BY reader`
  return rows.map(({ reader, block }) => ({ reader, block: Number(block) }))
}

/** The last block all of which a group may have done; the one that is marked may have been done in part. */
async function doneBlock(sql: Sql, reader: string, shard: number): Promise<number> {
  const [mark] = await sql<{ block: bigint }[]>`
    SELECT block FROM consumer_marks
    WHERE (consumer_group, stream, partition, shard) = (${reader.slice('group '.length)}, 'blocks', 0, ${shard})`
  return Math.max(0, Number(mark?.block ?? 0) - 1)
}
