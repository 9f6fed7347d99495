import type { Sql } from '../../postgres/connect.ts'

/** A delivery that this node has taken, with all that is needed to make it. */
export type Taken = {
  readonly id: string
  readonly endpointId: string
  readonly tenantId: string
  readonly eventId: string
  readonly url: string
  /** The current one first. */
  readonly secrets: readonly string[]
  readonly body: string
  /** W3C trace context of the event, if it is traced. */
  readonly traceparent?: string
  /** The number of this attempt. */
  readonly attempt: number
  /** Attempts since it was made or resent, this one included. */
  readonly tries: number
  /** Of its endpoint. */
  readonly pace: Pace
}

/** How long an endpoint lets calls wait: `slow`, too long, lately; `unknown`, it has not been seen to be quick since it was new or slow. */
export type Pace = 'quick' | 'unknown' | 'slow'

export type PreviousSecret = { readonly secret: string; readonly untilUs: number }

export type TakeOptions = {
  readonly nowUs: number
  /** Whoever does not say by then what came of it loses it. */
  readonly untilUs: number
  readonly countMax: number
  /** At once of one endpoint; of one that fails, or is not known to be quick, 1. */
  readonly perEndpointMax: number
  /** How many more may be taken of endpoints that are slow, and of all that are not known to be quick. */
  readonly room: { readonly slow: number; readonly notQuick: number }
  /** Endpoints that keep a call of this node waiting too long now: they are slow. */
  readonly slow: ReadonlySet<string>
  /** At once of one tenant. */
  readonly perTenantMax: number
  /** How many this node is delivering to each endpoint, and for each tenant. */
  readonly busy: { readonly endpoints: ReadonlyMap<string, number>; readonly tenants: ReadonlyMap<string, number> }
}

type Row = {
  id: string
  endpoint_id: string
  tenant_id: string
  event_id: string
  url: string
  secret: string
  previous_secrets: PreviousSecret[]
  body: string
  traceparent: string | null
  attempts: number
  tries: number
  pace: Pace
}

/**
 * Takes deliveries that are due, passing by what others are taking. Tenants for which the least is under way come first, of each the
 * endpoints to which the least is, and of each of these the oldest deliveries: one with a long queue keeps nobody waiting.
 *
 * The first part hops over the index from endpoint to endpoint: its cost is that of the endpoints that wait for something, not of
 * the deliveries.
 */
export async function takeDue(sql: Sql, options: TakeOptions): Promise<Taken[]> {
  const { nowUs, untilUs, countMax, perEndpointMax, perTenantMax, room, slow, busy } = options
  const { endpoints, tenants } = busy
  const rows = await sql<Row[]>`
    WITH RECURSIVE waiting AS (
      (SELECT endpoint_id, due_us FROM webhook_deliveries WHERE status = 'pending'
       ORDER BY endpoint_id, due_us LIMIT 1)
      UNION ALL
      SELECT next.* FROM waiting w CROSS JOIN LATERAL (
        SELECT endpoint_id, due_us FROM webhook_deliveries
        WHERE status = 'pending' AND endpoint_id > w.endpoint_id ORDER BY endpoint_id, due_us LIMIT 1
      ) next
    ), wanted AS (
      SELECT e.*, w.due_us, p.pace, coalesce(b.count, 0) AS busy, coalesce(t.count, 0) AS tenant_busy,
             CASE WHEN p.pace = 'quick' AND e.failing_since_us IS NULL THEN ${perEndpointMax}::int ELSE 1 END
               - coalesce(b.count, 0) AS room
      FROM waiting w JOIN webhook_endpoints e ON e.id = w.endpoint_id
      CROSS JOIN LATERAL (
        SELECT CASE WHEN e.slow_until_us > ${nowUs} OR e.id = ANY (${[...slow]}::uuid[]) THEN 'slow'
                    WHEN e.slow_until_us = 0 THEN 'quick' ELSE 'unknown' END AS pace
      ) p
      LEFT JOIN unnest(${[...endpoints.keys()]}::uuid[], ${[...endpoints.values()]}::int[]) AS b (id, count)
        ON b.id = e.id
      LEFT JOIN unnest(${[...tenants.keys()]}::uuid[], ${[...tenants.values()]}::int[]) AS t (id, count)
        ON t.id = e.tenant_id
      WHERE w.due_us <= ${nowUs} AND e.disabled_us IS NULL AND e.deleted_us IS NULL
        AND e.resting_until_us <= ${nowUs} AND coalesce(t.count, 0) < ${perTenantMax}::int
    ), ranked AS (
      SELECT *, tenant_busy + row_number() OVER (PARTITION BY tenant_id, pace ORDER BY busy, due_us) AS tenant_place
      FROM wanted WHERE room > 0
    ), ready AS (
      SELECT * FROM (
        SELECT *, row_number() OVER (PARTITION BY pace ORDER BY tenant_place, due_us) AS place,
               row_number() OVER (PARTITION BY pace = 'quick' ORDER BY pace = 'slow', tenant_place, due_us) AS shared_place
        FROM ranked
      ) r
      WHERE pace = 'quick'
         OR (shared_place <= ${room.notQuick}::int AND (pace = 'unknown' OR place <= ${room.slow}::int))
      ORDER BY tenant_place, due_us LIMIT ${countMax}
    ), locked AS MATERIALIZED (
      SELECT d.id, d.due_us, r.id AS endpoint_id, r.tenant_id, r.url, r.secret, r.previous_secrets, r.pace, r.busy,
             r.tenant_busy
      FROM ready r CROSS JOIN LATERAL (
        SELECT id, due_us FROM webhook_deliveries
        WHERE endpoint_id = r.id AND status = 'pending' AND due_us <= ${nowUs}
        ORDER BY due_us LIMIT r.room
        FOR NO KEY UPDATE SKIP LOCKED
      ) d
    ), chosen AS (
      SELECT * FROM (
        SELECT *, tenant_busy + row_number() OVER (PARTITION BY tenant_id ORDER BY turn, due_us) AS tenant_turn FROM (
          SELECT *, busy + row_number() OVER (PARTITION BY endpoint_id ORDER BY due_us) AS turn FROM locked
        ) l
      ) m
      WHERE tenant_turn <= ${perTenantMax}::int
      ORDER BY turn, due_us LIMIT ${countMax}
    )
    UPDATE webhook_deliveries d
    SET attempts = d.attempts + 1, tries = d.tries + 1, due_us = ${untilUs}, is_taken = true, touched_us = ${nowUs}
    FROM chosen c JOIN webhook_events e ON true
    WHERE d.id = c.id AND e.id = d.event_id
    RETURNING d.id, d.endpoint_id, c.tenant_id, d.event_id, c.url, c.secret, c.previous_secrets, e.body, e.traceparent, d.attempts,
              d.tries, c.pace`
  return rows.map((row) => ({
    id: row.id,
    endpointId: row.endpoint_id,
    tenantId: row.tenant_id,
    eventId: row.event_id,
    url: row.url,
    secrets: [row.secret, ...row.previous_secrets.filter((old) => old.untilUs > nowUs).map(({ secret }) => secret)],
    body: row.body,
    ...(row.traceparent === null ? {} : { traceparent: row.traceparent }),
    attempt: row.attempts,
    tries: row.tries,
    pace: row.pace,
  }))
}
