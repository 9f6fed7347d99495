import type { BlockHeader } from '../../core/block.ts'
import type { Sql } from '../../postgres/connect.ts'

type Row = {
  number: bigint
  previous_hash: Buffer
  root: Buffer
  hash: Buffer
  time_us: bigint
  writer: string
  request_count: number
  entry_count: number
}

function columns(sql: Sql) {
  return sql`number, previous_hash, root, hash, time_us, writer, request_count, entry_count`
}

/** The headers of a shard's chain, newest first, before block `before`. */
export async function listBlocks(
  sql: Sql,
  shard: number,
  query: { limit: number; before: number | null },
): Promise<BlockHeader[]> {
  const rows = await sql<Row[]>`
    SELECT ${columns(sql)} FROM blocks WHERE ${query.before}::int8 IS NULL OR number < ${query.before}::int8
    ORDER BY number DESC LIMIT ${query.limit}`
  return rows.map((row) => headerOf(row, shard))
}

/** One block's header. */
export async function findBlock(sql: Sql, shard: number, number: number): Promise<BlockHeader | undefined> {
  const [row] = await sql<Row[]>`SELECT ${columns(sql)} FROM blocks WHERE number = ${number}`
  return row && headerOf(row, shard)
}

/** A tenant's requests in a block, in order: other tenants' are none of its business. */
export async function listBlockRequests(
  sql: Sql,
  query: { tenantId: string; block: number },
): Promise<{ item: number; id: string; kind: string; refusal: string | null; leaf: string }[]> {
  return await sql<{ item: number; id: string; kind: string; refusal: string | null; leaf: string }[]>`
    SELECT item, id, kind, refusal, encode(leaf, 'hex') AS leaf FROM requests
    WHERE block = ${query.block} AND tenant_id = ${query.tenantId} ORDER BY item`
}

function headerOf(row: Row, shard: number): BlockHeader {
  return {
    shard,
    number: Number(row.number),
    previousHash: row.previous_hash,
    root: row.root,
    hash: row.hash,
    timeUs: Number(row.time_us),
    writer: row.writer,
    requestCount: row.request_count,
    entryCount: row.entry_count,
  }
}
