import { afterAll, beforeAll, expect, test } from 'vitest'
import type { LedgerEvent } from '../../src/bus/events.ts'
import { TOPICS } from '../../src/bus/events.ts'
import { partitionOf } from '../../src/bus/kafkaPartition.ts'
import { describeWith } from '../services/available.ts'
import { type KafkaCluster, startKafka } from '../services/kafka.ts'
import { busOf, consumeOnce, EFFECTS, effectsOf } from './consumer.ts'
import { relayOf } from './relayProcess.ts'
import { allEvents, byKey, openLedgerStage, until } from './stage.ts'

const PARTITIONS = 4

describeWith('kafka', 'an installation that changes between Kafka and its own blocks', () => {
  let kafka: KafkaCluster
  let ledger: Awaited<ReturnType<typeof openLedgerStage>>
  beforeAll(async () => {
    kafka = await startKafka({ brokers: 1 })
    ledger = await openLedgerStage()
    await ledger.api.query(EFFECTS)
    await ledger.live(30)
  }, 240_000)
  afterAll(async () => {
    await ledger?.close()
    await kafka?.stop()
  }, 60_000)

  test.each([
    ['the blocks', false],
    ['Kafka', true],
  ])(
    'beginning with %s, does each event once and in order, also those that were under way at the change',
    async (_, first) => {
      const { urls } = ledger
      const url = urls[0] ?? ''
      const name = `changing-${first}`
      const count = async () => (await effectsOf(url, name)).length
      for (let phase = 0; phase < 5; phase++) {
        const isKafka = (phase % 2 === 0) === first
        const node = isKafka ? { urls, brokers: kafka.brokers } : { urls }
        const relay = isKafka ? relayOf({ urls, brokers: kafka.brokers }) : undefined
        const bus = busOf(node)
        const before = await count()
        const consumer = consumeOnce(bus, url, name)
        const living = ledger.live(20)
        await until(async () => (await count()) > before)
        // The last phase ends when all is done; the others in the middle of things.
        await living
        if (phase === 4) {
          const all = await allEvents(urls)
          await until(
            async () => (await count()) >= all.length,
            async () => `${await count()} of ${all.length}`,
          )
        }
        await consumer.stop()
        await bus.close()
        await relay?.stop()
        await ledger.live(10)
      }
      const all = await allEvents(urls)
      const effects = (await effectsOf(url, name)) as LedgerEvent[]
      const done = new Set(effects.map(({ id }) => id))
      expect(effects).toHaveLength(done.size)
      expect(byKey(effects)).toEqual(byKey(all.filter(({ id }) => done.has(id))))
    },
    400_000,
  )

  test('knows the partition of a key as the brokers have it', async () => {
    const node = { urls: ledger.urls, brokers: kafka.brokers }
    const relay = relayOf(node)
    const bus = busOf(node)
    const consumer = consumeOnce(bus, node.urls[0] ?? '', 'partitions')
    const all = await allEvents(node.urls)
    await until(async () => (await effectsOf(node.urls[0] ?? '', 'partitions')).length >= all.length)
    await consumer.stop()
    await bus.close()
    await relay.stop()
    const rows = await ledger.api.query<{ stream: string; partition: number; shard: number; partitions: number }>(
      `SELECT stream, partition, shard, partitions FROM consumer_marks WHERE consumer_group = 'partitions' AND stream <> 'blocks'`,
    )
    const expected = all.map(({ topic, key, place }) => `${topic} ${partitionOf(key, PARTITIONS)} ${place.shard}`)
    expect(new Set(rows.map(({ stream, partition, shard }) => `${stream} ${partition} ${shard}`))).toEqual(
      new Set(expected),
    )
    expect(new Set(rows.map(({ partitions }) => partitions))).toEqual(new Set([PARTITIONS]))
    expect(TOPICS.length).toBeGreaterThan(1)
  }, 300_000)
})
