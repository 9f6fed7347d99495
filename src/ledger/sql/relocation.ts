import type { Hold, HoldStatus } from '../../core/hold.ts'
import { arrayLiteral, type Sql } from '../../postgres/connect.ts'

type Slots = readonly number[]

/** How many wallets each of these slots has on a shard; slots without any are left out. */
export async function countWallets(sql: Sql, slots: Slots): Promise<Map<number, number>> {
  const rows = await sql<{ slot: number; count: bigint }[]>`
    SELECT slot_of(id) AS slot, count(*) AS count FROM wallets WHERE slot_of(id) = ANY (${arrayLiteral(slots)}::int[]) GROUP BY 1`
  return new Map(rows.map(({ slot, count }) => [slot, Number(count)]))
}

/** A wallet's row, as far as the ledger does not know it. */
export type WalletRow = {
  readonly id: string
  readonly tenantId: string
  readonly currency: string
  readonly holderId: string
  readonly name: string | null
  readonly metadata: Record<string, string> | null
  readonly openedUs: number
}

/** The wallets of slots, by id, after one. */
export async function listSlotWallets(
  sql: Sql,
  { slots, after, limit }: { slots: Slots; after: string | undefined; limit: number },
): Promise<WalletRow[]> {
  const rows = await sql<
    {
      id: string
      tenant_id: string
      currency: string
      holder_id: string
      name: string | null
      metadata: Record<string, string> | null
      opened_us: bigint
    }[]
  >`
    SELECT w.id, w.tenant_id, a.currency, w.holder_id, w.name, w.metadata, w.opened_us FROM wallets w JOIN accounts a USING (id)
    WHERE slot_of(w.id) = ANY (${arrayLiteral(slots)}::int[]) AND (${after ?? null}::uuid IS NULL OR w.id > ${after ?? null}::uuid)
    ORDER BY w.id LIMIT ${limit}`
  return rows.map(({ tenant_id: tenantId, holder_id: holderId, opened_us, ...rest }) => ({
    ...rest,
    ...{ tenantId, holderId, openedUs: Number(opened_us) },
  }))
}

/** How many sagas that began on this shard and are not over have to do with slots. */
export async function countSagasOf(sql: Sql, slots: Slots): Promise<number> {
  const [row] = await sql<{ count: bigint }[]>`
    SELECT count(*) AS count FROM sagas_in_flight s JOIN requests r USING (id)
    WHERE slot_of(s.id) = ANY (${arrayLiteral(slots)}::int[]) OR EXISTS (
      SELECT FROM json_array_elements(r.result->'saga'->'legs') AS leg
      WHERE slot_of((leg->>'from')::uuid) = ANY (${arrayLiteral(slots)}::int[])
         OR slot_of((leg->>'to')::uuid) = ANY (${arrayLiteral(slots)}::int[]))`
  return Number(row?.count ?? 0)
}

/** The open holds of this shard's payers that have an end in one of these slots. While they are closed, these stay the same. */
export async function listHoldsOf(sql: Sql, slots: Slots): Promise<Hold[]> {
  const rows = await sql<
    {
      id: string
      tenant_id: string
      from_account: string
      to_account: string
      amount: bigint
      currency: string
      expires_at_us: bigint
      status: HoldStatus
      captured: bigint
    }[]
  >`
    SELECT id, tenant_id, from_account, to_account, amount, currency, expires_at_us, status, captured FROM holds
    WHERE status = 'held' AND (slot_of(from_account) = ANY (${arrayLiteral(slots)}::int[])
                               OR slot_of(to_account) = ANY (${arrayLiteral(slots)}::int[]))
    ORDER BY id`
  return rows.map((row) => ({
    ...{ id: row.id, tenantId: row.tenant_id, from: row.from_account, to: row.to_account },
    ...{ amount: row.amount, currency: row.currency, expiresAtUs: Number(row.expires_at_us) },
    ...{ status: row.status, captured: row.captured },
  }))
}

/** The larger of the two counters of posted money of each wallet of these slots that ever was here, and what it holds. */
export async function listGross(
  sql: Sql,
  slots: Slots,
): Promise<{ id: string; tenantId: string; currency: string; gross: bigint; posted: bigint }[]> {
  const rows = await sql<{ id: string; tenant_id: string; currency: string; gross: bigint; posted: bigint }[]>`
    SELECT a.id, a.tenant_id, a.currency, greatest(a.debits_posted, a.credits_posted) AS gross,
           a.credits_posted - a.debits_posted AS posted
    FROM wallets w JOIN accounts a USING (id) WHERE slot_of(w.id) = ANY (${arrayLiteral(slots)}::int[])`
  return rows.map(({ tenant_id: tenantId, ...row }) => ({ ...row, tenantId }))
}

/** The same of the accounts for money between this shard and another, by tenant and currency. */
export async function readTransitGross(sql: Sql, peer: number): Promise<Map<string, bigint>> {
  const rows = await sql<{ name: string; gross: bigint }[]>`
    SELECT tenant_id || ' ' || currency AS name, greatest(debits_posted, credits_posted) AS gross
    FROM accounts WHERE kind = 'transit' AND peer = ${peer}`
  return new Map(rows.map(({ name, gross }) => [name, gross]))
}
