import type { Finding } from '../../core/audit.ts'
import { canonicalItem, type Item } from '../../core/block.ts'
import { leafHash } from '../../core/merkle.ts'
import type { Refusal } from '../../core/refusal.ts'
import type { Kind } from '../../core/request.ts'
import type { Layer } from '../../core/workspace.ts'
import type { Tx } from '../../postgres/connect.ts'
import { arrayLiteral } from '../../postgres/connect.ts'

const PAGE_ROWS = 1_000

type Row = {
  shard: number
  block: bigint
  item: number
  id: string
  tenant_id: string
  scope: string
  key: string
  kind: Kind
  payload: string
  refusal: Refusal | null
  result: string | null
  leaf: Buffer
}

type LineRow = {
  shard: number
  block: bigint
  item: number
  account_id: string
  sequence: bigint
  currency: string
  layer: Layer
  amount: bigint
  posted: bigint
  pending_out: bigint
  pending_in: bigint
}

/**
 * Finds a copy of what another shard recorded that was changed: it does not make the hash beside it. Then a wallet that has come here, some
 * of whose entries have not.
 */
export async function findWrongCopy(sql: Tx): Promise<Finding | undefined> {
  const pages = sql<Row[]>`
    SELECT shard, block, item, id, tenant_id, scope, key, kind, payload::text, refusal, result::text, leaf
    FROM moved_requests ORDER BY shard, block, item`.cursor(PAGE_ROWS)
  for await (const rows of pages) {
    const lines = await readLines(sql, rows)
    for (const row of rows) {
      const entries = lines.get(nameOf(row)) ?? []
      const { tenant_id: tenantId, leaf, ...rest } = row
      if (leafHash(canonicalItem({ ...rest, tenantId, entries })).equals(leaf)) continue
      return {
        ...{ block: null, item: null, transaction: row.id, account: entries[0]?.accountId ?? null },
        problem: `the copy of request ${row.item} of block ${row.block} of shard ${row.shard} does not make the hash beside it: it was changed`,
      }
    }
  }
  return await findGap(sql)
}

async function readLines(sql: Tx, rows: readonly Row[]): Promise<Map<string, Item['entries'][number][]>> {
  const column = (value: (row: Row) => string | number) => arrayLiteral(rows.map(value))
  const lines = await sql<LineRow[]>`
    SELECT e.shard, e.block, e.item, e.account_id, e.sequence, e.currency, e.layer, e.amount, e.posted, e.pending_out, e.pending_in
    FROM unnest(${column(({ shard }) => shard)}::int[], ${column(({ block }) => `${block}`)}::int8[],
                ${column(({ item }) => item)}::int[]) AS p (shard, block, item)
    JOIN moved_entries e USING (shard, block, item) ORDER BY e.shard, e.block, e.item, e.line`
  const found = new Map<string, Item['entries'][number][]>()
  for (const row of lines) {
    const entry = {
      ...{ accountId: row.account_id, sequence: Number(row.sequence), currency: row.currency, layer: row.layer },
      ...{ amount: row.amount, posted: row.posted, pendingOut: row.pending_out, pendingIn: row.pending_in },
    }
    const known = found.get(nameOf(row))
    if (known) known.push(entry)
    else found.set(nameOf(row), [entry])
  }
  return found
}

function nameOf({ shard, block, item }: Pick<Row, 'shard' | 'block' | 'item'>): string {
  return `${shard} ${block} ${item}`
}

/** The entries of a wallet that lives here are all here, its own and copies: their numbers have no gap. */
async function findGap(sql: Tx): Promise<Finding | undefined> {
  const [row] = await sql<{ id: string; sequence: bigint; count: bigint }[]>`
    SELECT a.id, a.sequence, e.count FROM accounts a
    CROSS JOIN LATERAL (
      SELECT (SELECT count(*) FROM entries o WHERE o.account_id = a.id) + (SELECT count(*) FROM moved_entries m WHERE m.account_id = a.id) AS count
    ) AS e
    WHERE a.id IN (SELECT account_id FROM arrivals) AND a.kind = 'wallet' AND a.sequence <> e.count
      -- One that has left again has gone on elsewhere.
      AND (SELECT slots[slot_of(a.id) + 1] FROM shard_map ORDER BY epoch DESC LIMIT 1) = (SELECT shard FROM chain_head)
    LIMIT 1`
  return (
    row && {
      ...{ block: null, item: null, transaction: null, account: row.id },
      problem: `the wallet's entries are numbered 1 to ${row.sequence}, but ${row.count} are here: copies of those that it came with are missing`,
    }
  )
}
