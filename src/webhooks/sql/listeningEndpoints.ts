import type { Sql, Tx } from '../../postgres/connect.ts'

/** Who may want an event. */
export type Listener = {
  readonly id: string
  readonly tenantId: string
  readonly eventTypes: readonly string[]
  readonly createdUs: number
}

type Row = { id: string; tenant_id: string; event_types: string[]; created_us: bigint }

/** The enabled endpoints of these tenants. */
export async function listeningEndpoints(sql: Tx, tenantIds: readonly string[]): Promise<Listener[]> {
  const rows = await sql<Row[]>`
    SELECT id, tenant_id, array_to_json(event_types) AS event_types, created_us FROM webhook_endpoints
    WHERE tenant_id = ANY (${tenantIds}::uuid[]) AND deleted_us IS NULL AND disabled_us IS NULL`
  return rows.map((row) => ({
    id: row.id,
    tenantId: row.tenant_id,
    eventTypes: row.event_types,
    createdUs: Number(row.created_us),
  }))
}

/** Whether anybody wants anything. */
export async function hasEndpoints(sql: Sql): Promise<boolean> {
  const { count } = await sql`SELECT FROM webhook_endpoints WHERE deleted_us IS NULL AND disabled_us IS NULL LIMIT 1`
  return count > 0
}
