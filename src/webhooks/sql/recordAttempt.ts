import type { Sql } from '../../postgres/connect.ts'
import type { Verdict } from '../schedule.ts'
import type { Reply } from '../send.ts'

export type Attempt = {
  readonly deliveryId: string
  readonly number: number
  readonly beganUs: number
  readonly tookMs: number
  /** It took longer than an endpoint should. */
  readonly isSlow: boolean
  readonly reply: Reply
  readonly verdict: Verdict
}

/** An endpoint to which nothing has gone through for so long is disabled. */
export const FAILING_US_MAX = 5 * 24 * 3600 * 1_000_000
/** An endpoint that fails is left alone after each failure: for this part of the time that it has been failing, up to a bound. */
const REST_PART = 10
const REST_US_MAX = 60_000_000
/** An endpoint that was slow counts as that for so long. */
export const SLOW_US = 5 * 60 * 1_000_000
/** The attempts of a delivery that are kept. */
const ATTEMPTS_KEPT = 50

/**
 * Writes down what came of an attempt: on the delivery, if it is still in the hands of this attempt; in the log; on its endpoint.
 * @returns whether it was still in its hands
 */
export async function recordAttempt(sql: Sql, attempt: Attempt, nowUs: number): Promise<boolean> {
  const { deliveryId, number, beganUs, tookMs, isSlow, reply, verdict } = attempt
  const { kind } = verdict
  const status = kind === 'retry' ? 'pending' : kind === 'delivered' ? 'delivered' : 'dead'
  const dueUs = kind === 'retry' ? Math.round(verdict.atMs * 1000) : nowUs
  const restMs = kind === 'retry' || kind === 'dead' ? verdict.restUntilMs : null
  const restUntilUs = restMs === null ? 0 : Math.round(restMs * 1000)
  const hasFailed = kind !== 'delivered'
  // What was not tried tells neither how quick an endpoint is, nor that it should be given up.
  const isTried = reply.putOffMs === undefined
  const [row] = await sql<{ settled: boolean }[]>`
    WITH settled AS (
      UPDATE webhook_deliveries
      SET status = ${status}, due_us = ${dueUs}, is_taken = false, touched_us = ${nowUs},
          delivered_us = CASE WHEN ${status} = 'delivered' THEN ${nowUs}::int8 END
      WHERE id = ${deliveryId} AND attempts = ${number} AND is_taken
      RETURNING endpoint_id
    ), logged AS (
      INSERT INTO webhook_attempts (delivery_id, number, began_us, took_ms, status_code, error, response)
      SELECT id, ${number}, ${beganUs}, ${tookMs}, ${reply.status}, ${reply.error}, ${reply.response}
      FROM webhook_deliveries WHERE id = ${deliveryId}
      ON CONFLICT DO NOTHING
    ), forgotten AS (
      DELETE FROM webhook_attempts WHERE delivery_id = ${deliveryId} AND number <= ${number - ATTEMPTS_KEPT}
    ), told AS (
      UPDATE webhook_endpoints SET
        failing_since_us = CASE WHEN ${hasFailed} THEN coalesce(failing_since_us, ${beganUs}) END,
        resting_until_us = CASE WHEN ${hasFailed} THEN greatest(resting_until_us, ${restUntilUs}, ${nowUs} +
          least(${REST_US_MAX}, (${nowUs} - coalesce(failing_since_us, ${nowUs})) / ${REST_PART})) ELSE resting_until_us END,
        disabled_us = coalesce(disabled_us, CASE
          WHEN ${kind} = 'gone' OR ${hasFailed && isTried} AND failing_since_us <= ${nowUs - FAILING_US_MAX}
          THEN ${nowUs}::int8 END),
        disabled_reason = coalesce(disabled_reason, CASE
          WHEN ${kind} = 'gone' THEN 'gone'
          WHEN ${hasFailed && isTried} AND failing_since_us <= ${nowUs - FAILING_US_MAX} THEN 'failing' END),
        slow_until_us = CASE
          WHEN ${!isTried} THEN slow_until_us
          WHEN ${isSlow} THEN ${nowUs + SLOW_US}
          WHEN slow_until_us > ${nowUs} THEN slow_until_us ELSE 0 END
      WHERE id = (SELECT endpoint_id FROM settled)
        -- Of the many outcomes of one endpoint most have nothing to add.
        AND (CASE WHEN ${hasFailed} THEN true ELSE failing_since_us IS NOT NULL END
             OR CASE WHEN ${isSlow} THEN coalesce(slow_until_us, 0) < ${nowUs + SLOW_US / 2}
                     ELSE coalesce(slow_until_us, 1) BETWEEN 1 AND ${nowUs} END)
    )
    SELECT EXISTS (SELECT FROM settled) AS settled`
  return row?.settled ?? false
}

/** Gives back what was taken and not made: any node may have it, from then on. */
export async function giveBack(sql: Sql, deliveryId: string, number: number, dueUs: number): Promise<void> {
  await sql`
    UPDATE webhook_deliveries SET due_us = ${Math.round(dueUs)}, is_taken = false, tries = tries - 1
    WHERE id = ${deliveryId} AND attempts = ${number} AND is_taken`
}
