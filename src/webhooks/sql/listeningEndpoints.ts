import type { Sql, Tx } from '../../postgres/connect.ts'

/** Who may want an event. */
export type Listener = {
  readonly id: string
  readonly tenantId: string
  readonly eventTypes: readonly string[]
  readonly createdUs: number
  /** How much more may wait for it, as far as that was counted; `null`: it never was. */
  readonly backlog: { readonly room: number; readonly isFull: boolean; readonly countedUs: number } | null
}

type Row = {
  id: string
  tenant_id: string
  event_types: string[]
  created_us: bigint
  room: number | null
  is_full: boolean | null
  counted_us: bigint | null
}

/** The enabled endpoints of these tenants. */
export async function listeningEndpoints(sql: Tx, tenantIds: readonly string[]): Promise<Listener[]> {
  const rows = await sql<Row[]>`
    SELECT e.id, e.tenant_id, array_to_json(e.event_types) AS event_types, e.created_us, b.room, b.is_full, b.counted_us
    FROM webhook_endpoints e LEFT JOIN webhook_backlogs b ON b.endpoint_id = e.id
    WHERE tenant_id = ANY (${tenantIds}::uuid[]) AND deleted_us IS NULL AND disabled_us IS NULL`
  return rows.map((row) => ({
    id: row.id,
    tenantId: row.tenant_id,
    eventTypes: row.event_types,
    createdUs: Number(row.created_us),
    backlog:
      row.room === null ? null : { room: row.room, isFull: row.is_full === true, countedUs: Number(row.counted_us) },
  }))
}

/** Whether anybody wants anything. */
export async function hasEndpoints(sql: Sql): Promise<boolean> {
  const { count } = await sql`SELECT FROM webhook_endpoints WHERE deleted_us IS NULL AND disabled_us IS NULL LIMIT 1`
  return count > 0
}
