import type { Tx } from '../../postgres/connect.ts'

/** One event on its way to one endpoint. */
export type Delivery = {
  readonly id: string
  readonly endpointId: string
  readonly eventId: string
  readonly eventType: string
  readonly status: 'pending' | 'delivered' | 'dead'
  readonly attempts: number
  /** `null`: there is none to come, or it is under way. */
  readonly nextAttemptUs: number | null
  readonly createdUs: number
  readonly deliveredUs: number | null
  readonly lastAttempt: LoggedAttempt | null
}

export type LoggedAttempt = {
  readonly number: number
  readonly beganUs: number
  readonly tookMs: number
  readonly statusCode: number | null
  readonly error: string | null
  readonly response: string | null
}

/** With all that is kept of it. */
export type LoggedDelivery = Delivery & {
  /** What is sent, to the byte. */
  readonly body: string
  /** Newest first. */
  readonly log: readonly LoggedAttempt[]
}

type AttemptRow = {
  number: number
  began_us: bigint
  took_ms: number
  status_code: number | null
  error: string | null
  response: string | null
}
type Row = {
  id: string
  endpoint_id: string
  event_id: string
  type: string
  status: Delivery['status']
  attempts: number
  due_us: bigint
  is_taken: boolean
  created_us: bigint
  delivered_us: bigint | null
}
type ListedRow = Row & { [Column in keyof AttemptRow]: AttemptRow[Column] | null }

function columns(sql: Tx) {
  return sql`d.id, d.endpoint_id, d.event_id, e.type, d.status, d.attempts, d.due_us, d.is_taken, d.created_us,
             d.delivered_us`
}

const STATUSES: readonly Delivery['status'][] = ['pending', 'delivered', 'dead']
/** No id comes after it. */
const LAST_ID = 'ffffffff-ffff-ffff-ffff-ffffffffffff'

/**
 * The deliveries to an endpoint, newest first, after the one with id `before`; with that status, if one is named. It reads no more than
 * `limit` of each status, however many there are.
 */
export async function listDeliveries(
  sql: Tx,
  endpointId: string,
  { limit, before }: { limit: number; before: string | null },
  status: Delivery['status'] | null,
): Promise<Delivery[]> {
  const rows = await sql<ListedRow[]>`
    SELECT ${columns(sql)}, a.number, a.began_us, a.took_ms, a.status_code, a.error, a.response
    FROM (
      SELECT d.* FROM unnest(${status === null ? STATUSES : [status]}::text[]) AS wanted (status) CROSS JOIN LATERAL (
        SELECT * FROM webhook_deliveries
        WHERE endpoint_id = ${endpointId} AND status = wanted.status AND id < ${before ?? LAST_ID}
        ORDER BY id DESC LIMIT ${limit}
      ) d ORDER BY d.id DESC LIMIT ${limit}
    ) d JOIN webhook_events e ON e.id = d.event_id
    LEFT JOIN LATERAL (
      SELECT * FROM webhook_attempts WHERE delivery_id = d.id ORDER BY number DESC LIMIT 1
    ) a ON true
    ORDER BY d.id DESC`
  return rows.map((row) => deliveryOf(row, row.number === null ? null : attemptOf(row as AttemptRow)))
}

/** One delivery to an endpoint; `undefined` if it has none with this id. */
export async function findDelivery(sql: Tx, endpointId: string, id: string): Promise<LoggedDelivery | undefined> {
  const [row] = await sql<(Row & { body: string })[]>`
    SELECT ${columns(sql)}, e.body FROM webhook_deliveries d JOIN webhook_events e ON e.id = d.event_id
    WHERE d.id = ${id} AND d.endpoint_id = ${endpointId}`
  if (!row) return undefined
  const attempts = await sql<AttemptRow[]>`
    SELECT number, began_us, took_ms, status_code, error, response FROM webhook_attempts
    WHERE delivery_id = ${id} ORDER BY number DESC`
  const log = attempts.map(attemptOf)
  return { ...deliveryOf(row, log[0] ?? null), body: row.body, log }
}

/** Keeps others from taking a delivery, or recording an attempt at it, until the end of the transaction. */
export async function lockDelivery(sql: Tx, endpointId: string, id: string): Promise<void> {
  await sql`SELECT FROM webhook_deliveries WHERE id = ${id} AND endpoint_id = ${endpointId} FOR NO KEY UPDATE`
}

/** Makes a delivery due now, as if it had not been tried. One that is under way only begins its schedule anew. */
export async function resendDelivery(sql: Tx, id: string, nowUs: number): Promise<void> {
  await sql`
    UPDATE webhook_deliveries SET
      status = 'pending', tries = 0, touched_us = ${nowUs}, delivered_us = NULL,
      due_us = CASE WHEN is_taken THEN due_us ELSE ${nowUs} END
    WHERE id = ${id}`
}

function deliveryOf(row: Row, lastAttempt: LoggedAttempt | null): Delivery {
  return {
    id: row.id,
    endpointId: row.endpoint_id,
    eventId: row.event_id,
    eventType: row.type,
    status: row.status,
    attempts: row.attempts,
    nextAttemptUs: row.status === 'pending' && !row.is_taken ? Number(row.due_us) : null,
    createdUs: Number(row.created_us),
    deliveredUs: row.delivered_us === null ? null : Number(row.delivered_us),
    lastAttempt,
  }
}

function attemptOf(row: AttemptRow): LoggedAttempt {
  return {
    number: row.number,
    beganUs: Number(row.began_us),
    tookMs: row.took_ms,
    statusCode: row.status_code,
    error: row.error,
    response: row.response,
  }
}
