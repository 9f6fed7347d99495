import type { Sql, Tx } from '../../postgres/connect.ts'
import type { PreviousSecret } from './takeDue.ts'

/** Where a tenant wants to hear of what happens. Its secrets are kept apart. */
export type Endpoint = {
  readonly id: string
  readonly url: string
  readonly description: string | null
  readonly eventTypes: readonly string[]
  readonly disabledUs: number | null
  /** `manual`: by its owner. `gone`: it answered 410. `failing`: nothing went through for days. */
  readonly disabledReason: 'manual' | 'gone' | 'failing' | null
  readonly failingSinceUs: number | null
  readonly restingUntilUs: number
  readonly createdUs: number
  /** As much waits for it as may: what happens now it does not get. */
  readonly isFull: boolean
  /** What it did not get because it was full, of all time; when that happened, the last time. `null`: it got all. */
  readonly missed: { readonly count: number; readonly fromUs: number; readonly untilUs: number } | null
}

export type Secrets = {
  readonly current: string
  readonly sinceUs: number
  readonly previous: readonly PreviousSecret[]
}

type Row = {
  id: string
  url: string
  description: string | null
  event_types: string[]
  disabled_us: bigint | null
  disabled_reason: Endpoint['disabledReason']
  failing_since_us: bigint | null
  resting_until_us: bigint
  created_us: bigint
  is_full: boolean
  missed: bigint
  missed_from_us: bigint
  missed_until_us: bigint
}

/** For pg_advisory_xact_lock with two numbers; the second is of the tenant. */
const LOCK_KEY = 8_203_721

function columns(sql: Tx) {
  return sql`id, url, description, array_to_json(event_types) AS event_types, disabled_us, disabled_reason,
             failing_since_us, resting_until_us, created_us, coalesce(is_full, false) AS is_full,
             coalesce(missed, 0) AS missed, missed_from_us, missed_until_us`
}

function endpoints(sql: Tx) {
  return sql`webhook_endpoints e LEFT JOIN webhook_backlogs b ON b.endpoint_id = e.id`
}

/** Whoever makes something for a tenant waits for whoever else does, until the end of the transaction. */
export async function lockTenant(sql: Tx, tenantId: string): Promise<void> {
  await sql`SELECT pg_advisory_xact_lock(${LOCK_KEY}, hashtext(${tenantId}))`
}

export async function addEndpoint(sql: Tx, tenantId: string, endpoint: Endpoint, secret: string): Promise<void> {
  const { id, url, description, eventTypes, createdUs } = endpoint
  await sql`
    INSERT INTO webhook_endpoints (id, tenant_id, url, description, event_types, secret, secret_since_us, created_us)
    VALUES (${id}, ${tenantId}, ${url}, ${description}, ${eventTypes}::text[], ${secret}, ${createdUs}, ${createdUs})`
}

export async function countEndpoints(sql: Tx, tenantId: string): Promise<number> {
  const [row] = await sql<{ count: bigint }[]>`
    SELECT count(*) FROM webhook_endpoints WHERE tenant_id = ${tenantId} AND deleted_us IS NULL`
  return Number(row?.count)
}

/** A tenant's endpoint; `undefined` if it has none with this id. */
export async function findEndpoint(sql: Tx, tenantId: string, id: string): Promise<Endpoint | undefined> {
  const [row] = await sql<Row[]>`
    SELECT ${columns(sql)} FROM ${endpoints(sql)} WHERE id = ${id} AND tenant_id = ${tenantId} AND deleted_us IS NULL`
  return row && endpointOf(row)
}

/** The same, and nobody else changes it until the end of the transaction. */
export async function lockEndpoint(sql: Tx, tenantId: string, id: string): Promise<Endpoint | undefined> {
  const [row] = await sql<Row[]>`
    SELECT ${columns(sql)} FROM ${endpoints(sql)} WHERE id = ${id} AND tenant_id = ${tenantId} AND deleted_us IS NULL
    FOR NO KEY UPDATE OF e`
  return row && endpointOf(row)
}

/** A tenant's endpoints, newest first, after the one with id `before`. */
export async function listEndpoints(
  sql: Sql,
  tenantId: string,
  { limit, before }: { limit: number; before: string | null },
): Promise<Endpoint[]> {
  const rows = await sql<Row[]>`
    SELECT ${columns(sql)} FROM ${endpoints(sql)}
    WHERE tenant_id = ${tenantId} AND deleted_us IS NULL AND (${before}::uuid IS NULL OR id < ${before}::uuid)
    ORDER BY id DESC LIMIT ${limit}`
  return rows.map(endpointOf)
}

/** Writes what can be changed of an endpoint; its secrets too, if there are new ones. Of another URL it is not known whether it is quick. */
export async function writeEndpoint(sql: Tx, endpoint: Endpoint, secrets?: Secrets): Promise<void> {
  await sql`
    UPDATE webhook_endpoints SET
      url = ${endpoint.url}, description = ${endpoint.description}, event_types = ${endpoint.eventTypes}::text[],
      disabled_us = ${endpoint.disabledUs}, disabled_reason = ${endpoint.disabledReason},
      failing_since_us = ${endpoint.failingSinceUs}, resting_until_us = ${endpoint.restingUntilUs},
      slow_until_us = CASE WHEN url = ${endpoint.url} THEN slow_until_us ELSE nullif(slow_until_us, 0) END
    WHERE id = ${endpoint.id}`
  if (!secrets) return
  await sql`
    UPDATE webhook_endpoints SET
      secret = ${secrets.current}, secret_since_us = ${secrets.sinceUs},
      previous_secrets = ${JSON.stringify(secrets.previous)}::text::json
    WHERE id = ${endpoint.id}`
}

/** The secrets of an endpoint that was not deleted. */
export async function secretsOf(sql: Tx, id: string): Promise<Secrets | undefined> {
  const [row] = await sql<{ secret: string; secret_since_us: bigint; previous_secrets: PreviousSecret[] }[]>`
    SELECT secret, secret_since_us, previous_secrets FROM webhook_endpoints WHERE id = ${id} AND deleted_us IS NULL`
  return row && { current: row.secret, sinceUs: Number(row.secret_since_us), previous: row.previous_secrets }
}

/** Takes an endpoint away, with its secrets; its row goes with the last of its deliveries. @returns whether there was one */
export async function removeEndpoint(sql: Sql, tenantId: string, id: string, nowUs: number): Promise<boolean> {
  const { count } = await sql`
    UPDATE webhook_endpoints SET deleted_us = ${nowUs}, secret = NULL, previous_secrets = '[]'
    WHERE id = ${id} AND tenant_id = ${tenantId} AND deleted_us IS NULL`
  return count > 0
}

function endpointOf(row: Row): Endpoint {
  return {
    id: row.id,
    url: row.url,
    description: row.description,
    eventTypes: row.event_types,
    disabledUs: row.disabled_us === null ? null : Number(row.disabled_us),
    disabledReason: row.disabled_reason,
    failingSinceUs: row.failing_since_us === null ? null : Number(row.failing_since_us),
    restingUntilUs: Number(row.resting_until_us),
    createdUs: Number(row.created_us),
    isFull: row.is_full,
    missed:
      row.missed === 0n
        ? null
        : {
            count: Number(row.missed),
            fromUs: Number(row.missed_from_us),
            untilUs: Number(row.missed_until_us),
          },
  }
}
