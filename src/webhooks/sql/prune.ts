import type { Tx } from '../../postgres/connect.ts'

/**
 * Removes what is older than it has to be, a portion at a time: deliveries (with their attempts) that nobody has touched since, those
 * of deleted endpoints at once; then what they leave behind, endpoints and events; idempotency keys. Nothing that is under way. Not
 * for two at once: they would wait for each other.
 * @param before what was last touched before that, microseconds since 1970, is old
 * @param keysBefore the same for idempotency keys
 * @returns the most rows that one of the statements removed: if that is `limit`, there may be more
 */
export async function pruneWebhooks(
  sql: Tx,
  { before, keysBefore, nowUs, limit }: { before: number; keysBefore: number; nowUs: number; limit: number },
): Promise<number> {
  const old = await sql`
    DELETE FROM webhook_deliveries WHERE id IN (
      SELECT id FROM webhook_deliveries WHERE touched_us < ${before} AND NOT (is_taken AND due_us > ${nowUs})
      ORDER BY touched_us LIMIT ${limit} FOR UPDATE SKIP LOCKED)`
  const orphaned = await sql`
    DELETE FROM webhook_deliveries WHERE id IN (
      SELECT d.id FROM webhook_endpoints e JOIN webhook_deliveries d ON d.endpoint_id = e.id
      WHERE e.deleted_us IS NOT NULL AND NOT (d.is_taken AND d.due_us > ${nowUs})
      LIMIT ${limit} FOR UPDATE OF d SKIP LOCKED)`
  const endpoints = await sql`
    DELETE FROM webhook_endpoints WHERE id IN (
      SELECT id FROM webhook_endpoints e
      WHERE deleted_us < ${before} AND NOT EXISTS (SELECT FROM webhook_deliveries WHERE endpoint_id = e.id)
      LIMIT ${limit} FOR UPDATE SKIP LOCKED)`
  const events = await sql`
    DELETE FROM webhook_events WHERE id IN (
      SELECT id FROM webhook_events e
      WHERE created_us < ${before} AND NOT EXISTS (SELECT FROM webhook_deliveries WHERE event_id = e.id)
      ORDER BY created_us LIMIT ${limit})`
  const keys = await sql`
    DELETE FROM webhook_requests WHERE (tenant_id, key) IN (
      SELECT tenant_id, key FROM webhook_requests WHERE created_us < ${keysBefore}
      ORDER BY created_us LIMIT ${limit})`
  return Math.max(...[old, orphaned, endpoints, events, keys].map(({ count }) => count))
}
