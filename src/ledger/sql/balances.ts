import { RELOCATIONS } from '../../core/relocation.ts'
import { arrayLiteral, type Sql } from '../../postgres/connect.ts'

/** What a wallet has, as of its entry number `version`; minor units. */
export type Balance = {
  readonly currency: string
  readonly posted: bigint
  readonly pendingIn: bigint
  readonly pendingOut: bigint
  readonly version: number
  readonly asOfUs: number
}

type Row = {
  currency: string
  posted: bigint
  pending_in: bigint
  pending_out: bigint
  sequence: bigint
  time_us: bigint
}

/** The balance now; `asOfUs` is the time of the last block, which it includes. */
export async function readBalance(sql: Sql, tenantId: string, walletId: string): Promise<Balance | undefined> {
  const [row] = await sql<Row[]>`
    SELECT a.currency, a.credits_posted - a.debits_posted AS posted, a.credits_pending AS pending_in,
           a.debits_pending AS pending_out, a.sequence, h.time_us
    FROM accounts a, chain_head h WHERE a.id = ${walletId} AND a.tenant_id = ${tenantId} AND a.kind = 'wallet'`
  return row && balanceOf(row)
}

/** The balance after the last block at or before a time (microseconds since 1970); nothing before the first entry. */
export async function readBalanceAt(
  sql: Sql,
  query: { tenantId: string; walletId: string; atUs: number },
): Promise<Balance | undefined> {
  const [row] = await sql<Row[]>`
    SELECT a.currency, coalesce(e.posted, 0) AS posted, coalesce(e.pending_in, 0) AS pending_in,
           coalesce(e.pending_out, 0) AS pending_out, coalesce(e.sequence, 0) AS sequence, ${query.atUs}::int8 AS time_us
    FROM accounts a LEFT JOIN LATERAL (
      SELECT e.* FROM known_entries e
      JOIN LATERAL (
        SELECT * FROM known_requests r WHERE (r.shard, r.block, r.item) = (e.shard, e.block, e.item) OFFSET 0
      ) AS r ON true
      WHERE e.account_id = a.id AND r.time_us <= ${query.atUs} AND r.kind <> ALL (${arrayLiteral(RELOCATIONS)}::text[])
      ORDER BY e.sequence DESC LIMIT 1) e ON true
    WHERE a.id = ${query.walletId} AND a.tenant_id = ${query.tenantId} AND a.kind = 'wallet'`
  return row && balanceOf(row)
}

function balanceOf(row: Row): Balance {
  return {
    currency: row.currency,
    posted: row.posted,
    pendingIn: row.pending_in,
    pendingOut: row.pending_out,
    version: Number(row.sequence),
    asOfUs: Number(row.time_us),
  }
}
