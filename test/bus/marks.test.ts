import { readFile } from 'node:fs/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { seededRandom } from '../../bench/load.ts'
import { ENTRIES, type LedgerEvent, TRANSACTIONS } from '../../src/bus/events.ts'
import { partitionOf } from '../../src/bus/kafkaPartition.ts'
import { beginReplay, endReplay, marksOfBlocks, marksOfPartitions } from '../../src/bus/marks.ts'
import { connect, type Sql } from '../../src/postgres/connect.ts'
import { migratedDatabase } from '../support/database.ts'

const PARTITIONS = new Map([
  [TRANSACTIONS, 3],
  [ENTRIES, 4],
])
const SHARDS = [0, 1]

let url: string
let sql: Sql
beforeAll(async () => {
  url = await migratedDatabase()
  sql = connect(url, { max: 4, name: 'test' })
})
afterAll(() => sql?.end())

/** Some events of two shards, in the order of each. */
function someEvents(random: () => number, count: number): LedgerEvent[] {
  const next = SHARDS.map(() => ({ block: 1, index: 0 }))
  return Array.from({ length: count }, () => {
    const shard = Math.floor(random() * SHARDS.length)
    const place = next[shard] ?? { block: 1, index: 0 }
    if (random() < 0.4) Object.assign(place, { block: place.block + 1, index: 0 })
    const { block, index } = place
    place.index += 1
    const topic = random() < 0.4 ? TRANSACTIONS : ENTRIES
    const key = `key ${Math.floor(random() * 9)} of ${shard}`
    return { topic, key, id: `${shard}.${block}.${index}`, place: { shard, block, index } } as LedgerEvent
  })
}

/** Events as they come by way of the blocks of a shard, or of a partition, again and again from some place on. */
function streamsOf(events: readonly LedgerEvent[]) {
  const partition = (event: LedgerEvent) => partitionOf(event.key, PARTITIONS.get(event.topic) ?? 1)
  const blocks = [...Map.groupBy(events, ({ place }) => `${place.shard}`).values()]
  const partitions = [...Map.groupBy(events, (event) => `${event.topic} ${partition(event)}`).values()]
  return { blocks, partitions, partition }
}

test.each([1, 2, 3, 4])(
  'a group that changes its bus now and then does each event once, in order, seed %i',
  async (seed) => {
    const random = seededRandom(seed)
    const group = `changing ${seed}`
    const all = someEvents(random, 400)
    const { blocks, partitions, partition } = streamsOf(all)
    const done: LedgerEvent[] = []
    const offsets = new Map<readonly LedgerEvent[], number>()
    let isKafka = seed % 2 === 0
    const goOn = async (streams: readonly (readonly LedgerEvent[])[]) => {
      const stream = streams[Math.floor(random() * streams.length)] ?? []
      const at = offsets.get(stream) ?? 0
      const begin = Math.max(0, at - (random() < 0.3 ? Math.floor(random() * 30) : 0))
      const batch = stream.slice(begin, begin + Math.floor(random() * 25))
      offsets.set(stream, Math.max(at, begin + batch.length))
      const delivered = batch.map((event) => ({ event, partition: partition(event) }))
      const marks = isKafka ? marksOfPartitions(group, delivered, PARTITIONS) : marksOfBlocks(group, batch)
      await sql.begin(async (tx) => {
        done.push(...(await marks.fresh(tx)))
      })
    }
    for (let step = 0; step < 150; step++) {
      if (random() < 0.15) isKafka = !isKafka
      await goOn(isKafka ? partitions : blocks)
    }
    const before = done.length
    expect(before).toBeGreaterThan(100)
    for (const stream of isKafka ? partitions : blocks) {
      while ((offsets.get(stream) ?? 0) < stream.length) await goOn([stream])
    }
    expect(done.map(({ id }) => id).sort()).toEqual(all.map(({ id }) => id).sort())
    const keys = (events: readonly LedgerEvent[]) => Map.groupBy(events, ({ topic, key }) => `${topic} ${key}`)
    const inOrder = keys(all)
    for (const [key, events] of keys(done))
      expect(events.map(({ id }) => id)).toEqual(inOrder.get(key)?.map(({ id }) => id))
  },
)

test('what comes from Kafka and from the blocks at once is done once', async () => {
  const all = someEvents(seededRandom(7), 200)
  const { blocks, partitions, partition } = streamsOf(all)
  const done: string[] = []
  await Promise.all(
    [blocks, partitions].flatMap((streams) =>
      streams.map(async (stream) => {
        for (let begin = 0; begin < stream.length; begin += 5) {
          const batch = stream.slice(begin, begin + 5)
          const delivered = batch.map((event) => ({ event, partition: partition(event) }))
          const marks =
            streams === blocks ? marksOfBlocks('both', batch) : marksOfPartitions('both', delivered, PARTITIONS)
          const fresh = await sql.begin(async (tx) => await marks.fresh(tx))
          done.push(...fresh.map(({ id }) => id))
        }
      }),
    ),
  )
  expect(done.sort()).toEqual(all.map(({ id }) => id).sort())
})

test('marks of Kafka that do not say of how many partitions are not guessed about', async () => {
  const [event] = someEvents(seededRandom(1), 1) as [LedgerEvent]
  const owner = connect(url, { max: 1, role: null })
  await owner`INSERT INTO consumer_marks VALUES ('unsaid', ${event.topic}, 0, ${event.place.shard}, 0, 0)`
  await owner.end()
  const take = sql.begin(async (tx) => await marksOfBlocks('unsaid', [event]).fresh(tx))
  await expect(take).rejects.toThrow(/earlier version.*KAFKA_BROKERS/)
  const kafka = marksOfPartitions('unsaid', [{ event, partition: 0 }], PARTITIONS)
  expect(await sql.begin(async (tx) => await kafka.fresh(tx))).toEqual([event])
  expect(await sql.begin(async (tx) => await marksOfBlocks('unsaid', [event]).fresh(tx))).toHaveLength(
    partitionOf(event.key, PARTITIONS.get(event.topic) ?? 1) === 0 ? 0 : 1,
  )
})

test('while a group is made again from the blocks, nothing that comes from Kafka is done', async () => {
  const events = someEvents(seededRandom(3), 20)
  const { partition } = streamsOf(events)
  const delivered = events.map((event) => ({ event, partition: partition(event) }))
  const fromKafka = () => sql.begin(async (tx) => await marksOfPartitions('again', delivered, PARTITIONS).fresh(tx))
  await sql.begin((tx) => beginReplay(tx, 'again'))
  await expect(fromKafka()).rejects.toThrow('zerosum replay again')
  await sql.begin(async (tx) => await marksOfBlocks('again', events.slice(0, 15)).fresh(tx))
  await expect(fromKafka()).rejects.toThrow('zerosum replay again')
  await endReplay(sql, 'again')
  expect(await fromKafka()).toEqual(events.slice(15))
})

test('marks of the version before go on where they were', async () => {
  const old = await migratedDatabase()
  const owner = connect(old, { max: 1, role: null })
  const file = new URL('../../migrations/0012_marks_of_blocks.sql', import.meta.url)
  await owner`ALTER TABLE consumer_marks DROP COLUMN partitions`
  await owner`INSERT INTO block_readers (reader, block, time_us, holder, leased_until) VALUES
    ('group embedded', 9, 900, '', 'now'), ('group left', 5, 500, '', 'now'), ('relay', 8, 800, '', 'now')`
  await owner`INSERT INTO consumer_marks (consumer_group, stream, partition, shard, block, index) VALUES
    ('embedded', 'a', 0, 0, 9, 1), ('embedded', 'b', 0, 0, 9, 3), ('embedded', 'a', 0, 1, 4, 2), ('embedded', 'a', 2, 1, 7, 2),
    ('left', 'a', 0, 0, 7, 1), ('left', 'a', 1, 0, 8, 0), ('kafka', 'a', 0, 0, 3, 0)`
  await owner.unsafe(await readFile(file, 'utf8'))
  const rows = await owner`
    SELECT concat_ws(' ', consumer_group, stream, partition, shard, block, index) AS mark FROM consumer_marks ORDER BY 1`
  expect(rows.map(({ mark }) => mark)).toEqual([
    ...['embedded blocks 0 0 9 3', 'embedded blocks 0 1 4 2'],
    ...['kafka a 0 0 3 0', 'left a 0 0 7 1', 'left a 1 0 8 0'],
  ])
  await owner.end()
})
