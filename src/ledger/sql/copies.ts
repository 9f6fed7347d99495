import { arrayLiteral, type Sql } from '../../postgres/connect.ts'

/** A request as it was recorded on a shard: where, and its hash, in hex. */
export type Copy = {
  readonly id: string
  readonly shard: number
  readonly block: bigint
  readonly item: number
  readonly timeUs: bigint
  readonly leaf: string
}

type Row = Omit<Copy, 'timeUs'> & { time_us: bigint }

const PAGE = 2_000

/** What came to this shard from others, in the order of shard, block and item. */
export async function* readCopies(sql: Sql): AsyncGenerator<Copy[]> {
  let after = { shard: -1, block: 0n, item: -1 }
  for (;;) {
    const rows = await sql<Row[]>`
      SELECT id, shard, block, item, time_us, encode(leaf, 'hex') AS leaf FROM moved_requests
      WHERE (shard, block, item) > (${after.shard}::int, ${after.block}::int8, ${after.item}::int)
      ORDER BY shard, block, item LIMIT ${PAGE}`
    const last = rows.at(-1)
    if (!last) return
    yield rows.map(copyOf)
    after = last
  }
}

/** What this shard has recorded at the places of copies, by id. */
export async function readOriginals(sql: Sql, copies: readonly Copy[]): Promise<Map<string, Copy>> {
  const rows = await sql<Row[]>`
    SELECT r.id, c.shard, r.block, r.item, b.time_us, encode(r.leaf, 'hex') AS leaf
    FROM unnest(${arrayLiteral(copies.map(({ shard }) => shard))}::int[], ${arrayLiteral(copies.map(({ block }) => `${block}`))}::int8[],
                ${arrayLiteral(copies.map(({ item }) => item))}::int[]) AS c (shard, block, item)
    JOIN requests r ON (r.block, r.item) = (c.block, c.item) JOIN blocks b ON b.number = r.block`
  return new Map(rows.map((row) => [row.id, copyOf(row)]))
}

function copyOf({ time_us: timeUs, ...rest }: Row): Copy {
  return { ...rest, timeUs }
}
