import type { Sql } from '../postgres/connect.ts'
import { arrayLiteral, type Tx } from '../postgres/connect.ts'
import type { LedgerEvent } from './events.ts'

/** An event as it was delivered: in a partition of a stream (a topic), where the events of one shard come in the order of their places. */
export type Delivered = { readonly event: LedgerEvent; readonly partition: number }

/** What a handler asks for to have its effects once. */
export type Marks = {
  /**
   * Those of the batch's events that this group has not marked yet, in order, and marks them. Effects written in the same transaction happen
   * once, however often the events come; two consumers that have the same events wait for each other here.
   * @param upTo of the first so many events of the batch only, for who does it in several transactions, one after the other
   */
  fresh(tx: Tx, upTo?: number): Promise<LedgerEvent[]>
}

/**
 * The marks of a consumer group for a batch.
 * @param confirm throws if the group was sent back since the batch was read. Marks that were forgotten meanwhile would take it for the
 *   beginning, and everything before it for done
 */
export function marksOf(
  group: string,
  delivered: readonly Delivered[],
  confirm: () => Promise<void> = async () => {},
): Marks {
  return { fresh: (tx, upTo) => takeFresh(tx, group, delivered.slice(0, upTo), confirm) }
}

type Line = { stream: string; partition: number; shard: number; block: number; index: number }

async function takeFresh(
  tx: Tx,
  group: string,
  delivered: readonly Delivered[],
  confirm: () => Promise<void>,
): Promise<LedgerEvent[]> {
  const lines = new Map<string, Line>()
  for (const { event, partition } of delivered) {
    const { shard } = event.place
    lines.set(`${event.topic} ${partition} ${shard}`, { stream: event.topic, partition, shard, block: 0, index: 0 })
  }
  // In one order for all, so that no two transactions wait for each other.
  const ordered = [...lines.keys()].sort().flatMap((name) => lines.get(name) ?? [])
  const columns = [
    arrayLiteral(ordered.map(({ stream }) => stream)),
    arrayLiteral(ordered.map(({ partition }) => partition)),
    arrayLiteral(ordered.map(({ shard }) => shard)),
  ] as const
  const [streams, partitions, shards] = columns
  await tx`
    INSERT INTO consumer_marks (consumer_group, stream, partition, shard, block, index)
    SELECT ${group}, stream, partition, shard, 0, 0
    FROM unnest(${streams}::text[], ${partitions}::int[], ${shards}::int[]) AS l (stream, partition, shard)
    ON CONFLICT DO NOTHING`
  const marks = await tx<{ stream: string; partition: number; shard: number; block: bigint; index: number }[]>`
    SELECT stream, partition, shard, block, index FROM consumer_marks
    WHERE consumer_group = ${group} AND (stream, partition, shard) IN (
      SELECT * FROM unnest(${streams}::text[], ${partitions}::int[], ${shards}::int[]))
    ORDER BY stream, partition, shard FOR UPDATE`
  // Asked while the marks are held: whoever forgets them and sends the group back does it before this, or after what follows.
  await confirm()
  for (const { stream, partition, shard, block, index } of marks) {
    lines.set(`${stream} ${partition} ${shard}`, { stream, partition, shard, block: Number(block), index })
  }
  const fresh: LedgerEvent[] = []
  const moved = new Set<Line>()
  for (const { event, partition } of delivered) {
    const { shard, block, index } = event.place
    const line = lines.get(`${event.topic} ${partition} ${shard}`)
    if (!line || block < line.block || (block === line.block && index <= line.index)) continue
    Object.assign(line, { block, index })
    moved.add(line)
    fresh.push(event)
  }
  const after = [...moved]
  if (after.length === 0) return fresh
  await tx`
    UPDATE consumer_marks m SET block = n.block, index = n.index
    FROM unnest(${arrayLiteral(after.map(({ stream }) => stream))}::text[], ${arrayLiteral(after.map(({ partition }) => partition))}::int[],
                ${arrayLiteral(after.map(({ shard }) => shard))}::int[], ${arrayLiteral(after.map(({ block }) => block))}::int8[],
                ${arrayLiteral(after.map(({ index }) => index))}::int[]) AS n (stream, partition, shard, block, index)
    WHERE m.consumer_group = ${group} AND (m.stream, m.partition, m.shard) = (n.stream, n.partition, n.shard)`
  return fresh
}

/**
 * Forgets what a group has done, so that it does all again that is delivered again: for a replay into emptied tables. While the group runs,
 * call it in a transaction that keeps the group's handlers out, and rewind before that is committed (projections/replay.ts).
 */
export async function forgetMarks(sql: Sql | Tx, group: string): Promise<void> {
  await sql`DELETE FROM consumer_marks WHERE consumer_group = ${group}`
}
