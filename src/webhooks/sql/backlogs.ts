import type { Tx } from '../../postgres/connect.ts'

/** What is to be noted of an endpoint, after deliveries were made for it, or were not because it is full. */
export type BacklogChange = {
  readonly endpointId: string
  readonly made: number
  /** What was found when what waits was counted just now; `null`: it was not counted. */
  readonly counted: { readonly room: number; readonly isFull: boolean } | null
  /** The events that it did not get; `null` if it got all. Microseconds since 1970. */
  readonly missed: { readonly count: number; readonly fromUs: number; readonly untilUs: number } | null
}

/** How many deliveries wait for each of these endpoints. Of no endpoint more than `countMax` are counted: so many may be more. */
export async function countPendingOf(
  sql: Tx,
  endpointIds: readonly string[],
  countMax: number,
): Promise<ReadonlyMap<string, number>> {
  const rows = await sql<{ id: string; count: bigint }[]>`
    SELECT e.id, p.count FROM unnest(${endpointIds}::uuid[]) AS e (id) CROSS JOIN LATERAL (
      SELECT count(*) FROM (
        SELECT FROM webhook_deliveries WHERE endpoint_id = e.id AND status = 'pending' LIMIT ${countMax}
      ) waiting
    ) p`
  return new Map(rows.map(({ id, count }) => [id, Number(count)]))
}

/** How many deliveries wait for all endpoints together, up to `countMax`. */
export async function countPending(sql: Tx, countMax: number): Promise<number> {
  const [row] = await sql<{ count: bigint }[]>`
    SELECT count(*) FROM (SELECT FROM webhook_deliveries WHERE status = 'pending' LIMIT ${countMax}) waiting`
  return Number(row?.count)
}

/** Notes it all. To be the last statement of its transaction: others who make deliveries for the same endpoints wait for its end. */
export async function writeBacklogs(sql: Tx, changes: readonly BacklogChange[], nowUs: number): Promise<void> {
  // In the order of their ids, so that two wait for each other one way round only.
  const sorted = changes.toSorted((a, b) => (a.endpointId < b.endpointId ? -1 : 1))
  // Who did not count brings no time of counting, and moves on what was counted before.
  await sql`
    INSERT INTO webhook_backlogs AS b (endpoint_id, room, counted_us, is_full, missed, missed_from_us, missed_until_us)
    SELECT id, coalesce(room, 0) - made, CASE WHEN room IS NULL THEN 0 ELSE ${nowUs}::int8 END, coalesce(is_full, false),
           missed, from_us, until_us
    FROM unnest(${sorted.map(({ endpointId }) => endpointId)}::uuid[], ${sorted.map(({ made }) => made)}::int[],
                ${sorted.map(({ counted }) => counted?.room ?? null)}::int[],
                ${sorted.map(({ counted }) => counted?.isFull ?? null)}::boolean[],
                ${sorted.map(({ missed }) => missed?.count ?? 0)}::int8[],
                ${sorted.map(({ missed }) => missed?.fromUs ?? null)}::int8[],
                ${sorted.map(({ missed }) => missed?.untilUs ?? null)}::int8[])
      AS c (id, made, room, is_full, missed, from_us, until_us)
    ON CONFLICT (endpoint_id) DO UPDATE SET
      room = CASE WHEN EXCLUDED.counted_us = 0 THEN b.room ELSE 0 END + EXCLUDED.room,
      is_full = CASE WHEN EXCLUDED.counted_us = 0 THEN b.is_full ELSE EXCLUDED.is_full END,
      counted_us = greatest(b.counted_us, EXCLUDED.counted_us),
      missed = b.missed + EXCLUDED.missed,
      missed_from_us = CASE
        WHEN EXCLUDED.missed = 0 THEN b.missed_from_us
        WHEN b.is_full THEN least(b.missed_from_us, EXCLUDED.missed_from_us)
        ELSE EXCLUDED.missed_from_us END,
      missed_until_us = CASE
        WHEN EXCLUDED.missed = 0 THEN b.missed_until_us
        WHEN b.is_full THEN greatest(b.missed_until_us, EXCLUDED.missed_until_us)
        ELSE EXCLUDED.missed_until_us END`
}
