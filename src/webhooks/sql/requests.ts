import type { Tx } from '../../postgres/connect.ts'

/** A call that made something, under its idempotency key. */
export type Known = {
  /** Canonical JSON: a replay must equal it. */
  readonly payload: string
  readonly subject: string
  readonly createdUs: number
}

export async function findKnown(sql: Tx, tenantId: string, key: string): Promise<Known | undefined> {
  const [row] = await sql<{ payload: string; subject: string; created_us: bigint }[]>`
    SELECT payload::text, subject, created_us FROM webhook_requests WHERE tenant_id = ${tenantId} AND key = ${key}`
  return row && { payload: row.payload, subject: row.subject, createdUs: Number(row.created_us) }
}

export async function addKnown(
  sql: Tx,
  known: { tenantId: string; key: string; payload: string; subject: string; nowUs: number },
): Promise<void> {
  const { tenantId, key, payload, subject, nowUs } = known
  await sql`
    INSERT INTO webhook_requests (tenant_id, key, payload, subject, created_us)
    VALUES (${tenantId}, ${key}, ${payload}::text::json, ${subject}, ${nowUs})`
}
