import { SLOT_COUNT } from '../core/ids.ts'
import type { MapChange } from '../core/mapChange.ts'
import type { ShardMap } from '../core/shardMap.ts'
import { arrayLiteral, connect } from '../postgres/connect.ts'
import type { Tag } from '../postgres/sql.ts'

/** A map with the time at which it was made, in microseconds since 1970: the same in all shards of an installation. */
export type StoredMap = ShardMap & { readonly createdUs: bigint }

/** What a database says of its place among the shards. */
export type Stored = {
  /** Its number, if it was given one. */
  readonly shard: number | undefined
  readonly hasBlocks: boolean
  /** The map with the highest epoch. Databases of versions before the map have none. */
  readonly map: StoredMap | undefined
  /** A change of the map that is under way there. */
  readonly change: MapChange | undefined
}

type MapRow = { epoch: bigint; shard_count: number; slots: number[]; created_us: bigint; drained?: number[] }

/** Reads a database of any version; one without the schema is one without anything. */
export async function readStored(sql: Tag): Promise<Stored> {
  const [tables] = await sql<{ ledger: boolean; map: boolean; change: boolean }[]>`
    SELECT to_regclass('chain_head') IS NOT NULL AS ledger, to_regclass('shard_map') IS NOT NULL AS map,
           to_regclass('map_change') IS NOT NULL AS change`
  if (!tables?.ledger) return { shard: undefined, hasBlocks: false, map: undefined, change: undefined }
  const [used] = await sql<{ shard: number | null; has_blocks: boolean }[]>`
    SELECT (SELECT shard FROM chain_head) AS shard, EXISTS (SELECT FROM blocks) AS has_blocks`
  const [row] = tables.map ? await sql<MapRow[]>`SELECT * FROM shard_map ORDER BY epoch DESC LIMIT 1` : []
  const [open] = tables.change ? await sql<{ change: MapChange }[]>`SELECT change FROM map_change` : []
  return {
    ...{ shard: used?.shard ?? undefined, hasBlocks: used?.has_blocks ?? false },
    ...{ map: row && mapOf(row), change: open?.change },
  }
}

function mapOf({
  epoch,
  shard_count: shardCount,
  slots: shards,
  created_us: createdUs,
  drained = [],
}: MapRow): StoredMap {
  if (shards.length !== SLOT_COUNT) throw new Error(`a shard map with ${shards.length} slots`)
  return { epoch: Number(epoch), shardCount, shards, createdUs, drained }
}

/** Gives a database its number and its map, as the owner; what it has already stays. */
export async function writeStored(
  sql: Tag,
  shard: number,
  { epoch, shardCount, shards, createdUs, drained }: StoredMap,
) {
  await writeNumber(sql, shard)
  await sql`
    INSERT INTO shard_map (epoch, shard_count, slots, created_us, drained)
    VALUES (${epoch}, ${shardCount}, ${arrayLiteral(shards)}, ${createdUs}, ${arrayLiteral(drained)}) ON CONFLICT (epoch) DO NOTHING`
}

/** Gives a database its number, as the owner, if it has none. */
export async function writeNumber(sql: Tag, shard: number): Promise<void> {
  await sql`UPDATE chain_head SET shard = ${shard} WHERE shard IS NULL`
}

/** When the first map of an installation was made, of which this database is shard 0: microseconds since 1970. It never changes. */
export async function firstMapMadeUs(url: string): Promise<bigint> {
  const sql = connect(url, { max: 1, role: null, name: 'zerosum shard map' })
  try {
    const [row] = await sql<{ created_us: bigint }[]>`SELECT created_us FROM shard_map ORDER BY epoch LIMIT 1`
    if (!row) throw new Error('there is no shard map yet: start a node, or run zerosum migrate')
    return row.created_us
  } finally {
    await sql.end()
  }
}

/** How many shards the installation has of which this database is shard 0; `undefined` if nothing says so yet. */
export async function shardCountOf(url: string): Promise<number | undefined> {
  const sql = connect(url, { max: 1, role: null, name: 'zerosum shard map' })
  try {
    const { map, hasBlocks } = await readStored(sql)
    // Blocks without a map are of a version that had one shard.
    return map?.shardCount ?? (hasBlocks ? 1 : undefined)
  } finally {
    await sql.end()
  }
}
