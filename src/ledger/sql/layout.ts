import { SLOT_COUNT } from '../../core/ids.ts'
import type { Layout, MapChange } from '../../core/mapChange.ts'
import type { ShardMap } from '../../core/shardMap.ts'
import type { Tag } from '../../postgres/sql.ts'

/** What a shard's chain has come to say of where things are, and the number of the block that changed it last. */
export type StoredLayout = Layout & {
  readonly block: number
  /** When the change that is under way began here, microseconds since 1970. */
  readonly sinceUs: number | undefined
  /** Slots have come here with their history; before the first, there is nothing to look for. */
  readonly hasCopies: boolean
}

type Row = {
  layout_block: bigint
  epoch: bigint | null
  shard_count: number
  slots: number[]
  drained: number[]
  phase: 'closed' | 'departing' | null
  change: MapChange
  since_us: bigint
  has_copies: boolean
}

/** Reads the layout as of now. Where no map is stored, everything is on this shard. */
export async function readLayout(sql: Tag, shard: number): Promise<StoredLayout> {
  const [row] = await sql<Row[]>`
    SELECT h.layout_block, m.epoch, m.shard_count, m.slots, m.drained, c.phase, c.change, c.since_us,
           EXISTS (SELECT FROM moved_requests) AS has_copies
    FROM chain_head h
    LEFT JOIN (SELECT * FROM shard_map ORDER BY epoch DESC LIMIT 1) AS m ON true
    LEFT JOIN map_change c ON true`
  if (!row) throw new Error('the chain has no head: this is not a migrated database')
  const map: ShardMap =
    row.epoch === null
      ? { epoch: 0, shardCount: shard + 1, shards: new Array<number>(SLOT_COUNT).fill(shard), drained: [] }
      : { epoch: Number(row.epoch), shardCount: row.shard_count, shards: row.slots, drained: row.drained }
  return {
    map,
    open: row.phase === null ? undefined : { change: row.change, phase: row.phase },
    block: Number(row.layout_block),
    sinceUs: row.phase === null ? undefined : Number(row.since_us),
    hasCopies: row.has_copies,
  }
}

/** Whether a slot that was on a shard by the map of an epoch has not begun to leave since. */
export async function readHasStayed(
  sql: Tag,
  { shard, slot, epoch }: { shard: number; slot: number; epoch: number },
): Promise<boolean> {
  const [row] = await sql<{ has_stayed: boolean }[]>`
    SELECT NOT EXISTS (SELECT FROM shard_map WHERE epoch > ${epoch} AND slots[${slot}::int + 1] <> ${shard})
       AND NOT EXISTS (SELECT FROM map_change c, json_array_elements_text(c.change->'slots') AS s (slot)
                       WHERE c.phase = 'departing' AND s.slot::int = ${slot}) AS has_stayed`
  return row?.has_stayed ?? false
}

/** The number of the block that changed the layout last: who knows what it was after that block, knows what it is. */
export async function readLayoutBlock(sql: Tag): Promise<number> {
  const [row] = await sql<{ layout_block: bigint }[]>`SELECT layout_block FROM chain_head`
  return Number(row?.layout_block ?? 0)
}
