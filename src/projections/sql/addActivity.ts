import type { Tx } from '../../postgres/connect.ts'
import type { Activity } from '../activity.ts'

/** Adds rows to the feeds. @throws if one is there already: marks have let something through twice */
export async function addActivity(sql: Tx, rows: readonly Activity[]): Promise<void> {
  if (rows.length === 0) return
  await sql`
    INSERT INTO wallet_activity
      (wallet_id, time_us, transaction_id, leg, tenant_id, kind, direction, counterparty, amount, currency, transfer_id, hold_id, reverses,
       memo, reference)
    SELECT "walletId", "timeUs", "transactionId", leg, "tenantId", kind, direction, counterparty, amount, currency, "transferId", "holdId",
           reverses, memo, reference
    FROM json_to_recordset(${JSON.stringify(rows)}::json) AS a
      ("walletId" uuid, "timeUs" int8, "transactionId" uuid, leg int, "tenantId" uuid, kind text, direction text, counterparty uuid,
       amount int8, currency text, "transferId" uuid, "holdId" uuid, reverses uuid, memo text, reference text)`
}
