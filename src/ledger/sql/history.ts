import type { Account } from '../../core/account.ts'
import { RELOCATIONS } from '../../core/relocation.ts'
import type { Kind, Payload } from '../../core/request.ts'
import { END_KEY, type SagaJson, sagaOf } from '../../core/saga.ts'
import type { Layer } from '../../core/workspace.ts'
import { arrayLiteral, type Sql } from '../../postgres/connect.ts'
import type { Statement } from '../../postgres/sql.ts'

/** An entry of an account, with what it was part of. */
export type HistoryEntry = {
  readonly accountId: string
  readonly sequence: number
  readonly transactionId: string
  /** The request behind it, and what it asked for; of a step of a saga, what began the saga. */
  readonly requestId: string
  readonly kind: Kind
  readonly amount: bigint
  readonly layer: Layer
  /** After the entry: `posted` on the posted layer; on the pending one, pending in - pending out. */
  readonly balanceAfter: bigint
  readonly counterpartyId: string
  readonly counterpartyKind: Account['kind']
  readonly memo: string | null
  readonly timeUs: number
}

type Row = {
  account_id: string
  sequence: bigint
  id: string
  tenant_id: string
  shard: number
  kind: Kind
  line: number
  saga: SagaJson | null
  amount: bigint
  layer: Layer
  balance_after: bigint
  other_id: string
  other_kind: Account['kind']
  memo: string | null
  time_us: bigint
}

/**
 * A wallet's entries, newest first, before entry number `before`. Lines come in pairs, so the other side is one away. A transfer
 * between shards shows as any other: the lines that reserve its amount meanwhile are left out. So are those of a hold that the
 * payee's shard refused, and what moved the wallet from shard to shard.
 *
 * OFFSET 0 here and elsewhere: PostgreSQL looks up a row of the views by an index only where the condition stands inside; it would
 * read all of the ledger for a join.
 */
export async function listEntries(
  sql: Sql,
  { walletId, limit, before }: { walletId: string; limit: number; before: number | null },
): Promise<HistoryEntry[]> {
  const range = sql`(${before}::int8 IS NULL OR e.sequence < ${before}::int8)`
  return await readEntries(sql, walletId, range, sql`ORDER BY e.sequence DESC LIMIT ${limit}`)
}

/** The same entries from number `after` + 1 to number `upTo`, oldest first. */
export async function listEntriesAfter(
  sql: Sql,
  { walletId, after, upTo, limit }: { walletId: string; after: number; upTo: number; limit: number },
): Promise<HistoryEntry[]> {
  const range = sql`e.sequence > ${after}::int8 AND e.sequence <= ${upTo}::int8`
  return await readEntries(sql, walletId, range, sql`ORDER BY e.sequence LIMIT ${limit}`)
}

type Fragment = Statement<Record<string, unknown>[]>

async function readEntries(sql: Sql, walletId: string, range: Fragment, order: Fragment): Promise<HistoryEntry[]> {
  const rows = await sql<Row[]>`
    SELECT e.account_id, e.sequence, e.line, r.shard, r.id, r.tenant_id, r.kind, coalesce(r.payload->'saga', r.result->'saga') AS saga,
           e.amount, e.layer, r.payload->>'memo' AS memo, r.time_us,
           CASE e.layer WHEN 'posted' THEN e.posted ELSE e.pending_in - e.pending_out END AS balance_after,
           other.account_id AS other_id, split_part(other.account_name, ':', 1) AS other_kind
    FROM known_entries e
    JOIN LATERAL (
      SELECT * FROM known_requests r WHERE (r.shard, r.block, r.item) = (e.shard, e.block, e.item) OFFSET 0
    ) AS r ON true
    JOIN LATERAL (
      SELECT * FROM known_entries o WHERE (o.shard, o.block, o.item, o.line) = (e.shard, e.block, e.item, e.line # 1) OFFSET 0
    ) AS other ON true
    WHERE e.account_id = ${walletId} AND ${range}
      AND NOT (e.layer = 'pending' AND CASE coalesce(r.payload->'saga'->>'as', r.kind)
        WHEN 'transfer' THEN true
        WHEN 'reversal' THEN true
        WHEN 'hold' THEN EXISTS (
          SELECT FROM known_requests c
          WHERE (c.tenant_id, c.scope, c.key) = (r.tenant_id, coalesce((r.payload->'saga'->>'id')::uuid, r.id), ${END_KEY})
            AND c.shard = r.shard AND c.kind = 'saga-release')
        ELSE false END)
      AND r.kind <> ALL (${arrayLiteral(RELOCATIONS)}::text[])
    ${order}`
  return rows.map((row) => ({
    accountId: row.account_id,
    sequence: Number(row.sequence),
    transactionId: row.id,
    amount: row.amount,
    layer: row.layer,
    balanceAfter: row.balance_after,
    ...(row.saga ? behindSaga(row, row.saga) : behindRequest(row)),
    timeUs: Number(row.time_us),
  }))
}

type Behind = Pick<HistoryEntry, 'requestId' | 'kind' | 'counterpartyId' | 'counterpartyKind' | 'memo'>

function behindRequest({ id, kind, memo, other_id, other_kind }: Row): Behind {
  return { requestId: id, kind, memo, counterpartyId: other_id, counterpartyKind: other_kind }
}

/** The other side of a line of a saga may live elsewhere, behind a transit account; the saga knows. */
function behindSaga({ tenant_id, account_id, line, shard }: Row, json: SagaJson): Behind {
  const saga = sagaOf(tenant_id, json)
  const mine = saga.legs.filter(({ fromShard, toShard }) => fromShard === shard || toShard === shard)
  const leg = mine[(line >> 1) % mine.length]
  if (!leg) throw new Error(`saga ${saga.id} has entries on shard ${shard}, but no leg there`)
  return {
    requestId: saga.id,
    kind: saga.as,
    memo: saga.memo ?? null,
    counterpartyId: leg.from === account_id ? leg.to : leg.from,
    counterpartyKind: 'wallet',
  }
}

/** A transaction and its entries, in order. */
export type Transaction = {
  readonly id: string
  readonly kind: Kind
  readonly payload: Payload
  /** Where it was recorded; wallets may have moved since. */
  readonly shard: number
  readonly block: number
  readonly item: number
  readonly timeUs: number
  readonly entries: readonly {
    accountId: string
    /** `wallet`, or the name of a system account: `cash`, `transit:1`. */
    accountName: string
    sequence: number
    currency: string
    amount: bigint
    layer: Layer
    balanceAfter: bigint
  }[]
}

/** A tenant's transaction: an accepted request that moved money. */
export async function findTransaction(sql: Sql, tenantId: string, id: string): Promise<Transaction | undefined> {
  const rows = await sql<
    {
      kind: Kind
      payload: Payload
      shard: number
      block: bigint
      item: number
      time_us: bigint
      account_id: string
      account_name: string
      sequence: bigint
      currency: string
      amount: bigint
      layer: Layer
      balance_after: bigint
    }[]
  >`
    SELECT r.kind, r.payload, r.shard, r.block, r.item, r.time_us, e.account_id, e.account_name, e.sequence, e.currency,
           e.amount, e.layer,
           CASE e.layer WHEN 'posted' THEN e.posted ELSE e.pending_in - e.pending_out END AS balance_after
    FROM known_requests r
    JOIN LATERAL (
      SELECT * FROM known_entries e WHERE (e.shard, e.block, e.item) = (r.shard, r.block, r.item) OFFSET 0) AS e ON true
    WHERE r.id = ${id} AND r.tenant_id = ${tenantId}
    ORDER BY e.line`
  const [first] = rows
  if (!first) return undefined
  return {
    id,
    kind: first.kind,
    payload: first.payload,
    shard: first.shard,
    block: Number(first.block),
    item: first.item,
    timeUs: Number(first.time_us),
    entries: rows.map((row) => ({
      accountId: row.account_id,
      accountName: row.account_name,
      sequence: Number(row.sequence),
      currency: row.currency,
      amount: row.amount,
      layer: row.layer,
      balanceAfter: row.balance_after,
    })),
  }
}
