import type { Refusal } from '../core/refusal.ts'
import type { Kind, Payload } from '../core/request.ts'
import type { Layer } from '../core/workspace.ts'
import { arrayLiteral, type Sql } from '../postgres/connect.ts'
import { type BlockEntry, type BlockItem, type StoredBlock, TOLD_WHEN_REFUSED } from './events.ts'

/** A block, and the departures on other shards that must have been read before it: wallets arrive in it. */
export type ReadBlock = StoredBlock & { readonly departures: readonly Departure[] }
export type Departure = { readonly shard: number; readonly timeUs: number }

const BLOCKS_MAX = 100
/** Requests and entries in what is read at a time, unless a single block has more; the batcher bounds that. */
const ROWS_MAX = 4_000

/** The committed blocks that come next after a number, in order and without a gap; none if there is nothing new. */
export async function readBlocks(sql: Sql, shard: number, after: number): Promise<ReadBlock[]> {
  const headers = await readHeaders(sql, after)
  const last = headers.at(-1)
  if (!last) return []
  const items = await readItems(sql, after, last.number)
  return headers.map(({ number, timeUs }) => {
    const mine = items.get(number) ?? []
    return { shard, number, timeUs, items: mine, departures: mine.flatMap(departureOf) }
  })
}

/** Blocks become visible in the order of their numbers: each commits only after the one before it. */
async function readHeaders(sql: Sql, after: number): Promise<{ number: number; timeUs: number }[]> {
  const rows = await sql<{ number: bigint; time_us: bigint; rows: number }[]>`
    SELECT number, time_us, request_count + entry_count AS rows FROM blocks WHERE number > ${after}
    ORDER BY number LIMIT ${BLOCKS_MAX}`
  let sum = 0
  return rows
    .filter((row, i) => {
      sum += row.rows
      return i === 0 || sum <= ROWS_MAX
    })
    .map(({ number, time_us }) => ({ number: Number(number), timeUs: Number(time_us) }))
}

type Row = {
  block: bigint
  item: number
  id: string
  tenant_id: string
  kind: Kind
  payload: string
  result: string | null
  refusal: Refusal | null
  traceparent: string | null
  line: number | null
  account_id: string
  account_name: string
  sequence: bigint
  currency: string
  layer: Layer
  amount: bigint
  posted: bigint
  pending_out: bigint
  pending_in: bigint
}

async function readItems(sql: Sql, after: number, last: number): Promise<Map<number, BlockItem[]>> {
  const rows = await sql<Row[]>`
    SELECT r.block, r.item, r.id, r.tenant_id, r.kind, r.payload::text, r.result::text, r.refusal, t.traceparent, e.line, e.account_id,
           concat_ws(':', a.kind, a.peer) AS account_name, e.sequence, e.currency, e.layer, e.amount, e.posted, e.pending_out, e.pending_in
    FROM requests r
    LEFT JOIN entries e ON (e.block, e.item) = (r.block, r.item) AND e.block > ${after} AND e.block <= ${last}
    LEFT JOIN accounts a ON a.id = e.account_id
    LEFT JOIN request_traces t ON (t.block, t.item) = (r.block, r.item) AND t.block > ${after} AND t.block <= ${last}
    WHERE r.block > ${after} AND r.block <= ${last}
      AND (r.refusal IS NULL OR r.kind = ANY (${arrayLiteral(TOLD_WHEN_REFUSED)}::text[]))
    ORDER BY r.block, r.item, e.line`
  const blocks = new Map<number, BlockItem[]>()
  let place: { block: bigint; item: number; entries: BlockEntry[] } | undefined
  for (const row of rows) {
    if (place?.block !== row.block || place.item !== row.item) {
      place = { block: row.block, item: row.item, entries: [] }
      const { id, tenant_id: tenantId, kind, payload, result, refusal, traceparent } = row
      const items = blocks.get(Number(row.block)) ?? []
      const traced = traceparent === null ? {} : { traceparent }
      items.push({ id, tenantId, kind, payload, result, refusal, entries: place.entries, ...traced })
      blocks.set(Number(row.block), items)
    }
    if (row.line !== null) place.entries.push(entryOf(row, row.line))
  }
  return blocks
}

function entryOf(row: Row, line: number): BlockEntry {
  const { account_id, account_name, sequence, currency, layer, amount, posted, pending_out, pending_in } = row
  return {
    ...{ line, accountId: account_id, accountName: account_name, sequence: Number(sequence), currency, layer, amount },
    ...{ posted, pendingOut: pending_out, pendingIn: pending_in },
  }
}

function departureOf({ kind, payload }: BlockItem): Departure[] {
  if (kind !== 'wallet-arrive') return []
  const { fromShard, departedUs } = JSON.parse(payload) as Payload
  return fromShard === undefined || departedUs === undefined ? [] : [{ shard: fromShard, timeUs: departedUs }]
}
