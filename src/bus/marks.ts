import { arrayLiteral, type Sql, type Tx } from '../postgres/connect.ts'
import type { LedgerEvent, Place } from './events.ts'
import { partitionOf } from './kafkaPartition.ts'

/**
 * How far a consumer group's effects have come, whichever way its events come to it.
 *
 * From the blocks, all events of a shard come in order: one mark for each shard (stream `blocks`), and all up to it is done. From Kafka they
 * come in order within a partition of a topic: a mark for each topic, partition and shard. An event is done if either says so. So a group
 * may change from one way to the other, and back, at any time, also while events are on their way: nothing is skipped, and nothing is done
 * twice. Whoever looks at the marks of a shard holds its mark in `blocks`: alone for the blocks, together for partitions.
 */

/** An event as Kafka delivered it: in a partition, where the events of one shard come in the order of their places. */
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

/** The stream that stands for the shards' own blocks; topics have other names. */
const BLOCKS = 'blocks'
/** A group with such a mark is read from the blocks again, and Kafka's members wait for that. */
const REPLAY = 'replay'

/**
 * The marks of a group for events of blocks, in order.
 * @param confirm throws if the group was sent back since the batch was read. Marks that were forgotten meanwhile would take it for the
 *   beginning, and everything before it for done
 */
export function marksOfBlocks(
  group: string,
  events: readonly LedgerEvent[],
  confirm: () => Promise<void> = async () => {},
): Marks {
  return { fresh: (tx, upTo) => takeFreshOfBlocks(tx, group, events.slice(0, upTo), confirm) }
}

/**
 * The marks of a group for what came from Kafka.
 * @param partitions how many each topic has
 */
export function marksOfPartitions(
  group: string,
  delivered: readonly Delivered[],
  partitions: ReadonlyMap<string, number>,
): Marks {
  return { fresh: (tx, upTo) => takeFreshOfPartitions(tx, group, delivered.slice(0, upTo), partitions) }
}

/**
 * Forgets what a group has done, so that it does all again that is delivered again: for a replay into emptied tables. While the group runs,
 * call it in a transaction that keeps the group's handlers out, and rewind before that is committed (projections/replay.ts).
 */
export async function forgetMarks(sql: Sql | Tx, group: string): Promise<void> {
  await sql`DELETE FROM consumer_marks WHERE consumer_group = ${group}`
}

/** Has a group do nothing that comes from Kafka until `endReplay`: it is read from the blocks, and what came from Kafka before is to be done by then. */
export async function beginReplay(tx: Tx, group: string): Promise<void> {
  await tx`INSERT INTO consumer_marks (consumer_group, stream, partition, shard, block, index)
    VALUES (${group}, ${REPLAY}, 0, 0, 0, 0) ON CONFLICT DO NOTHING`
}

export async function endReplay(sql: Sql, group: string): Promise<void> {
  await sql`DELETE FROM consumer_marks WHERE consumer_group = ${group} AND stream = ${REPLAY}`
}

/** Whether a replay of a group from the blocks has begun, and is not over, or was broken off. */
export async function isReplaying(sql: Sql | Tx, group: string): Promise<boolean> {
  const [row] = await sql<{ there: boolean }[]>`
    SELECT EXISTS (SELECT FROM consumer_marks WHERE consumer_group = ${group} AND stream = ${REPLAY}) AS there`
  return row?.there ?? false
}

type Mark = {
  stream: string
  partition: number
  shard: number
  block: number
  index: number
  partitions: number | null
}

const isDone = ({ block, index }: Place, mark: Pick<Mark, 'block' | 'index'> | undefined): boolean =>
  mark !== undefined && (block < mark.block || (block === mark.block && index <= mark.index))

const nameOf = ({ stream, partition, shard }: Pick<Mark, 'stream' | 'partition' | 'shard'>): string =>
  `${stream} ${partition} ${shard}`

async function takeFreshOfBlocks(
  tx: Tx,
  group: string,
  events: readonly LedgerEvent[],
  confirm: () => Promise<void>,
): Promise<LedgerEvent[]> {
  const shards = shardsOf(events)
  const lines = shards.map((shard) => lineOf(BLOCKS, 0, shard))
  await addMissing(tx, group, lines)
  await tx`
    SELECT FROM consumer_marks WHERE (consumer_group, stream, partition) = (${group}, ${BLOCKS}, 0)
      AND shard = ANY(${arrayLiteral(shards)}::int[]) ORDER BY shard FOR UPDATE`
  // Asked while the marks are held: whoever forgets them and sends the group back does it before this, or after what follows.
  await confirm()
  const marks = await readMarks(tx, group, shards)
  const isFromKafka = [...marks.values()].some(({ stream }) => stream !== BLOCKS)
  const counts = isFromKafka ? await partitionCounts(tx, group) : new Map<string, number>()
  const fresh: LedgerEvent[] = []
  const moved = new Map<number, Mark>()
  for (const event of events) {
    const { place, topic, key } = event
    const line = marks.get(nameOf(lineOf(BLOCKS, 0, place.shard)))
    if (!line || isDone(place, line)) continue
    Object.assign(line, { block: place.block, index: place.index })
    moved.set(place.shard, line)
    const count = counts.get(topic)
    if (count === undefined || !isDone(place, marks.get(nameOf(lineOf(topic, partitionOf(key, count), place.shard)))))
      fresh.push(event)
  }
  await moveMarks(tx, group, [...moved.values()])
  return fresh
}

async function takeFreshOfPartitions(
  tx: Tx,
  group: string,
  delivered: readonly Delivered[],
  partitions: ReadonlyMap<string, number>,
): Promise<LedgerEvent[]> {
  const shards = shardsOf(delivered.map(({ event }) => event))
  const own = new Map<string, Mark>()
  for (const { event, partition } of delivered) {
    const line = lineOf(event.topic, partition, event.place.shard, partitions.get(event.topic))
    own.set(nameOf(line), line)
  }
  // In one order for all, so that no two transactions wait for each other.
  const lines = [...own.keys()].sort().flatMap((name) => own.get(name) ?? [])
  await addMissing(tx, group, [...shards.map((shard) => lineOf(BLOCKS, 0, shard)), ...lines])
  const [waiting] = await tx<{ replay: boolean }[]>`
    SELECT bool_or(stream = ${REPLAY}) AS replay FROM (
      SELECT stream FROM consumer_marks
      WHERE consumer_group = ${group} AND (stream = ${REPLAY} OR (stream = ${BLOCKS} AND shard = ANY(${arrayLiteral(shards)}::int[])))
      ORDER BY stream, shard FOR SHARE) AS held`
  if (waiting?.replay) {
    throw new Error(`${group} waits for a replay; if none is under way one was broken off: run zerosum replay ${group}`)
  }
  const columns = columnsOf(lines)
  await tx`
    SELECT FROM consumer_marks WHERE consumer_group = ${group} AND (stream, partition, shard) IN (
      SELECT * FROM unnest(${columns.streams}::text[], ${columns.partitions}::int[], ${columns.shards}::int[]))
    ORDER BY stream, partition, shard FOR UPDATE`
  const marks = await readMarks(tx, group, shards)
  const fresh: LedgerEvent[] = []
  const moved = new Set<Mark>()
  for (const { event, partition } of delivered) {
    const { shard, block, index } = event.place
    const line = marks.get(nameOf(lineOf(event.topic, partition, shard)))
    if (!line || isDone(event.place, line)) continue
    Object.assign(line, { block, index, partitions: partitions.get(event.topic) ?? null })
    moved.add(line)
    if (!isDone(event.place, marks.get(nameOf(lineOf(BLOCKS, 0, shard))))) fresh.push(event)
  }
  await moveMarks(tx, group, [...moved])
  return fresh
}

function shardsOf(events: readonly LedgerEvent[]): number[] {
  return [...new Set(events.map(({ place }) => place.shard))].sort((a, b) => a - b)
}

function lineOf(stream: string, partition: number, shard: number, partitions: number | null = null): Mark {
  return { stream, partition, shard, partitions, block: 0, index: 0 }
}

function columnsOf(lines: readonly Mark[]) {
  return {
    streams: arrayLiteral(lines.map(({ stream }) => stream)),
    partitions: arrayLiteral(lines.map(({ partition }) => partition)),
    shards: arrayLiteral(lines.map(({ shard }) => shard)),
    blocks: arrayLiteral(lines.map(({ block }) => block)),
    indexes: arrayLiteral(lines.map(({ index }) => index)),
    counts: arrayLiteral(lines.map(({ partitions }) => partitions ?? 0)),
  }
}

async function addMissing(tx: Tx, group: string, lines: readonly Mark[]): Promise<void> {
  const { streams, partitions, shards, counts } = columnsOf(lines)
  await tx`
    INSERT INTO consumer_marks (consumer_group, stream, partition, shard, block, index, partitions)
    SELECT ${group}, stream, partition, shard, 0, 0, nullif(partitions, 0)
    FROM unnest(${streams}::text[], ${partitions}::int[], ${shards}::int[], ${counts}::int[]) AS l (stream, partition, shard, partitions)
    ON CONFLICT DO NOTHING`
}

/** All that is marked of these shards, by name. */
async function readMarks(tx: Tx, group: string, shards: readonly number[]): Promise<Map<string, Mark>> {
  const rows = await tx<(Omit<Mark, 'block'> & { block: bigint })[]>`
    SELECT stream, partition, shard, block, index, partitions FROM consumer_marks
    WHERE consumer_group = ${group} AND shard = ANY(${arrayLiteral(shards)}::int[]) AND stream <> ${REPLAY}`
  return new Map(rows.map((row) => [nameOf(row), { ...row, block: Number(row.block) }]))
}

/**
 * How many partitions the topics had from which a group was fed by Kafka.
 * @throws Error if that can't be said: then it is not known which events were done
 */
async function partitionCounts(tx: Tx, group: string): Promise<Map<string, number>> {
  const rows = await tx<{ stream: string; least: number | null; most: number | null }[]>`
    SELECT stream, min(partitions) AS least, max(partitions) AS most FROM consumer_marks
    WHERE consumer_group = ${group} AND stream NOT IN (${BLOCKS}, ${REPLAY}) GROUP BY stream`
  return new Map(
    rows.map(({ stream, least, most }) => {
      if (most !== null && least === most) return [stream, most]
      const why = most === null ? 'were made by an earlier version' : `say ${least} and ${most} partitions`
      throw new Error(
        `the marks of ${group} in ${stream} ${why}: it can't be told what was done from Kafka. Let a node work with KAFKA_BROKERS ` +
          'until it has caught up, then change',
      )
    }),
  )
}

async function moveMarks(tx: Tx, group: string, lines: readonly Mark[]): Promise<void> {
  if (lines.length === 0) return
  const { streams, partitions, shards, blocks, indexes, counts } = columnsOf(lines)
  await tx`
    UPDATE consumer_marks m SET block = n.block, index = n.index, partitions = nullif(n.partitions, 0)
    FROM unnest(${streams}::text[], ${partitions}::int[], ${shards}::int[], ${blocks}::int8[], ${indexes}::int[], ${counts}::int[])
      AS n (stream, partition, shard, block, index, partitions)
    WHERE m.consumer_group = ${group} AND (m.stream, m.partition, m.shard) = (n.stream, n.partition, n.shard)`
}
