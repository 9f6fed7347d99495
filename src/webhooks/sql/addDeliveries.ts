import type { Tx } from '../../postgres/connect.ts'

/** An event with the deliveries that are to be made of it. */
export type NewEvent = {
  readonly id: string
  readonly tenantId: string
  readonly type: string
  readonly body: string
  readonly traceparent?: string
  readonly deliveries: readonly { readonly id: string; readonly endpointId: string }[]
}

/**
 * Stores events that are not there yet, with their deliveries, due at once.
 * @param events in the order of their ids, so that two who bring the same events wait for each other one way round only
 * @returns how many deliveries were made
 */
export async function addDeliveries(sql: Tx, events: readonly NewEvent[], nowUs: number): Promise<number> {
  const deliveries = events.flatMap(({ id: eventId, deliveries }) => deliveries.map((one) => ({ ...one, eventId })))
  const { count } = await sql`
    WITH added AS (
      INSERT INTO webhook_events (id, tenant_id, type, body, traceparent, created_us)
      SELECT id, tenant_id, type, body, traceparent, ${nowUs}
      FROM unnest(${events.map(({ id }) => id)}::uuid[], ${events.map(({ tenantId }) => tenantId)}::uuid[],
                  ${events.map(({ type }) => type)}::text[], ${events.map(({ body }) => body)}::text[],
                  ${events.map(({ traceparent }) => traceparent ?? null)}::text[])
        AS e (id, tenant_id, type, body, traceparent)
      ON CONFLICT (id) DO NOTHING
      RETURNING id
    )
    INSERT INTO webhook_deliveries (id, endpoint_id, event_id, due_us, created_us, touched_us)
    SELECT d.id, d.endpoint_id, d.event_id, ${nowUs}, ${nowUs}, ${nowUs}
    FROM unnest(${deliveries.map(({ id }) => id)}::uuid[], ${deliveries.map(({ endpointId }) => endpointId)}::uuid[],
                ${deliveries.map(({ eventId }) => eventId)}::uuid[]) AS d (id, endpoint_id, event_id)
    JOIN added ON added.id = d.event_id
    ON CONFLICT ON CONSTRAINT webhook_deliveries_once DO NOTHING`
  return count
}
