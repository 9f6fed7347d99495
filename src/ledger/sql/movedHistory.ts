import { END_KEY, PART_KEY } from '../../core/saga.ts'
import { arrayLiteral, type Sql } from '../../postgres/connect.ts'
import type { Statement } from '../../postgres/sql.ts'

/** Recorded requests and their entries, as rows to be copied: by the shard, block and item where they were recorded. */
export type HistoryPage = { readonly requests: readonly RequestRow[]; readonly entries: readonly object[] }

type RequestRow = { readonly shard: number; readonly block: string; readonly item: number }

/** Where a page of copies ends. */
export type HistoryPlace = { readonly shard: number; readonly block: number; readonly item: number }

/** Before the first that there can be. */
export const HISTORY_START: HistoryPlace = { shard: -1, block: 0, item: -1 }

/** The last of the blocks after one that have so many requests together, or the next if that alone has more; none after `upTo`. */
export async function lastOfBlocks(
  sql: Sql,
  { after, upTo, requests }: { after: number; upTo: number; requests: number },
): Promise<number | undefined> {
  const [row] = await sql<{ number: bigint | null }[]>`
    SELECT max(number) AS number FROM (
      SELECT number, sum(request_count) OVER (ORDER BY number) AS total, row_number() OVER (ORDER BY number) AS place
      FROM (SELECT number, request_count FROM blocks WHERE number > ${after} AND number <= ${upTo} ORDER BY number LIMIT ${requests}) AS b
    ) AS counted WHERE total <= ${requests} OR place = 1`
  return row?.number === null || row === undefined ? undefined : Number(row.number)
}

/** What blocks of this shard's chain say of slots: requests made there, ends of their sagas, whatever moved one of their wallets. */
export async function readOwnHistory(
  sql: Sql,
  { slots, after, last }: { slots: readonly number[]; after: number; last: number },
): Promise<HistoryPage> {
  const wanted = sql`${arrayLiteral(slots)}::int[]`
  const requests = await sql<RequestRow[]>`
    WITH touched AS MATERIALIZED (
      SELECT DISTINCT block, item FROM entries
      WHERE block > ${after} AND block <= ${last} AND slot_of(account_id) = ANY (${wanted})
    )
    SELECT (SELECT shard FROM chain_head) AS shard, r.block::text, r.item, b.time_us::text, ${columns(sql)}
    FROM requests r JOIN blocks b ON b.number = r.block
    WHERE r.block > ${after} AND r.block <= ${last} AND left(r.kind, 4) <> 'map-'
      AND (${belongs(sql, wanted)} OR (r.block, r.item) IN (SELECT block, item FROM touched))
    ORDER BY r.block, r.item`
  return await withEntries(
    sql,
    requests,
    sql`(SELECT (SELECT shard FROM chain_head) AS shard, e.*, concat_ws(':', a.kind, a.peer) AS account_name
         FROM entries e JOIN accounts a ON a.id = e.account_id WHERE e.block > ${after} AND e.block <= ${last})`,
  )
}

/** The same of what was copied here when the slots came; not what was recorded on the shard that it is read for. */
export async function readMovedHistory(
  sql: Sql,
  { slots, to, after, limit }: { slots: readonly number[]; to: number; after: HistoryPlace; limit: number },
): Promise<{ page: HistoryPage; last: HistoryPlace | undefined }> {
  const wanted = sql`${arrayLiteral(slots)}::int[]`
  const place = sql`(${after.shard}::int, ${after.block}::int8, ${after.item}::int)`
  const [end] = await sql<{ shard: number; block: bigint; item: number }[]>`
    SELECT shard, block, item FROM (
      SELECT shard, block, item FROM moved_requests WHERE (shard, block, item) > ${place} ORDER BY 1, 2, 3 LIMIT ${limit}) AS p
    ORDER BY 1 DESC, 2 DESC, 3 DESC LIMIT 1`
  if (!end) return { page: { requests: [], entries: [] }, last: undefined }
  const last = { shard: end.shard, block: Number(end.block), item: end.item }
  const range = (name: string) => sql`
    (${sql(name)}.shard, ${sql(name)}.block, ${sql(name)}.item) > ${place}
    AND (${sql(name)}.shard, ${sql(name)}.block, ${sql(name)}.item) <= (${last.shard}::int, ${last.block}::int8, ${last.item}::int)`
  const requests = await sql<RequestRow[]>`
    WITH touched AS MATERIALIZED (
      SELECT DISTINCT shard, block, item FROM moved_entries e WHERE ${range('e')} AND slot_of(account_id) = ANY (${wanted})
    )
    SELECT r.shard, r.block::text, r.item, r.time_us::text, ${columns(sql)}
    FROM moved_requests r
    WHERE ${range('r')} AND r.shard <> ${to}
      AND (${belongs(sql, wanted)} OR (r.shard, r.block, r.item) IN (SELECT shard, block, item FROM touched))
    ORDER BY r.shard, r.block, r.item`
  return { page: await withEntries(sql, requests, sql`moved_entries`), last }
}

type Fragment = Statement<Record<string, unknown>[]>

function columns(sql: Sql): Fragment {
  return sql`r.id, r.tenant_id, r.scope, r.key, r.kind, r.target, r.payload::text AS payload, r.refusal, r.result::text AS result,
             encode(r.leaf, 'hex') AS leaf`
}

function belongs(sql: Sql, wanted: Fragment): Fragment {
  return sql`(slot_of(r.id) = ANY (${wanted})
              OR (r.key = ANY (${arrayLiteral([PART_KEY, END_KEY])}::text[]) AND slot_of(r.scope) = ANY (${wanted})))`
}

async function withEntries(sql: Sql, requests: readonly RequestRow[], source: Fragment): Promise<HistoryPage> {
  if (requests.length === 0) return { requests, entries: [] }
  const column = (value: (row: RequestRow) => string | number) => arrayLiteral(requests.map(value))
  const entries = await sql<object[]>`
    SELECT e.shard, e.block::text, e.item, e.line, e.account_id, e.account_name, e.sequence::text, e.currency, e.layer,
           e.amount::text, e.posted::text, e.pending_out::text, e.pending_in::text
    FROM unnest(${column(({ shard }) => shard)}::int[], ${column(({ block }) => block)}::int8[],
                ${column(({ item }) => item)}::int[]) AS p (shard, block, item)
    JOIN ${source} AS e USING (shard, block, item)`
  return { requests, entries }
}

/** Takes a page in; what is there already stays. @param upTo if it is the last of the slots up to that block of the shard */
export async function writeHistory(
  sql: Sql,
  { shard, slots, upTo, page }: { shard: number; slots: readonly number[]; upTo: number | null; page: HistoryPage },
): Promise<void> {
  await sql`SELECT copy_history(${shard}::int, ${arrayLiteral(slots)}::int[], ${upTo}::int8,
                                ${JSON.stringify(page.requests)}::text::json, ${JSON.stringify(page.entries)}::text::json)`
}

/** Up to which block of a shard all of these slots' history is here; 0 at the beginning. */
export async function readCopied(sql: Sql, shard: number, slots: readonly number[]): Promise<number> {
  const [row] = await sql<{ block: bigint | null; count: bigint }[]>`
    SELECT min(block) AS block, count(*) AS count FROM moved_history WHERE shard = ${shard} AND slot = ANY (${arrayLiteral(slots)}::int[])`
  return Number(row?.count) === slots.length ? Number(row?.block ?? 0) : 0
}
