import type { Tx } from '../../postgres/connect.ts'
import type { Total } from '../totals.ts'

/** Adds to the totals. @param totals in the order of their keys, so that two who add to the same wait for each other one way round only */
export async function addTotals(sql: Tx, totals: readonly Total[]): Promise<void> {
  if (totals.length === 0) return
  const rows = totals.map((total) => ({ ...total, number: `${total.number}`, amount: `${total.amount}` }))
  await sql`
    INSERT INTO daily_totals AS t (tenant_id, day, currency, kind, number, amount)
    SELECT "tenantId", day, currency, kind, number, amount
    FROM json_to_recordset(${JSON.stringify(rows)}::json) AS n
      ("tenantId" uuid, day date, currency text, kind text, number int8, amount numeric)
    ON CONFLICT (tenant_id, day, currency, kind)
    DO UPDATE SET number = t.number + EXCLUDED.number, amount = t.amount + EXCLUDED.amount`
}
