import type { Hold } from '../../core/hold.ts'
import type { Refusal } from '../../core/refusal.ts'
import type { Kind, RequestRecord } from '../../core/request.ts'
import { END_KEY } from '../../core/saga.ts'
import { arrayLiteral, type Sql } from '../../postgres/connect.ts'

export type RecordRow = {
  id: string
  tenant_id: string
  kind: Kind
  payload: string
  refusal: Refusal | null
  result: string | null
  time_us: bigint
}

/** A tenant's request as it was recorded, if it is of one of these kinds. */
export async function findRecord(
  sql: Sql,
  query: { tenantId: string; id: string; kinds: readonly Kind[] },
): Promise<RequestRecord | undefined> {
  const [row] = await sql<RecordRow[]>`
    SELECT r.id, r.tenant_id, r.kind, r.payload::text, r.refusal, r.result::text, r.time_us FROM known_requests r
    WHERE r.id = ${query.id} AND r.tenant_id = ${query.tenantId} AND r.kind = ANY (${arrayLiteral(query.kinds)}::text[])`
  return row && recordOf(row)
}

export function recordOf({ tenant_id, time_us, ...rest }: RecordRow): RequestRecord {
  return { ...rest, tenantId: tenant_id, timeUs: Number(time_us) }
}

/** The id of the last reversal of a transfer; not of one that came to nothing. */
export async function findReversal(sql: Sql, transferId: string): Promise<string | undefined> {
  const [row] = await sql<{ id: string }[]>`
    SELECT id FROM known_requests r WHERE target = ${transferId} AND kind = 'reversal' AND refusal IS NULL AND NOT EXISTS (
      SELECT FROM known_requests e
      WHERE (e.tenant_id, e.scope, e.key) = (r.tenant_id, r.id, ${END_KEY}) AND e.shard = r.shard AND e.kind = 'saga-release' OFFSET 0)
    ORDER BY time_us DESC, block DESC, item DESC LIMIT 1`
  return row?.id
}

/** How a hold stands now. */
export async function findHold(sql: Sql, tenantId: string, id: string): Promise<Hold | undefined> {
  const [row] = await sql<
    {
      from_account: string
      to_account: string
      amount: bigint
      currency: string
      expires_at_us: bigint
      status: Hold['status']
      captured: bigint
    }[]
  >`
    SELECT from_account, to_account, amount, currency, expires_at_us, status, captured
    FROM holds WHERE id = ${id} AND tenant_id = ${tenantId} AND status <> 'moved'`
  if (!row) return undefined
  const { from_account: from, to_account: to, amount, currency, status, captured } = row
  return { id, tenantId, from, to, amount, currency, status, captured, expiresAtUs: Number(row.expires_at_us) }
}

/** Holds of any tenant that are past their time and still held, the oldest first. */
export async function listExpiredHolds(
  sql: Sql,
  query: { nowUs: number; limit: number },
): Promise<{ id: string; tenantId: string }[]> {
  const rows = await sql<{ id: string; tenant_id: string }[]>`
    SELECT id, tenant_id FROM holds WHERE status = 'held' AND expires_at_us <= ${query.nowUs}
    ORDER BY expires_at_us LIMIT ${query.limit}`
  return rows.map(({ id, tenant_id }) => ({ id, tenantId: tenant_id }))
}
