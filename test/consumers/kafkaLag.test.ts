import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { ENTRIES } from '../../src/bus/events.ts'
import { createKafkaBus } from '../../src/bus/kafkaBus.ts'
import { startConsumers } from '../../src/consumers/consumers.ts'
import { madeUpEntry } from '../bus/madeUp.ts'
import { describeWith } from '../services/available.ts'
import { type KafkaCluster, startKafka } from '../services/kafka.ts'

describeWith('kafka', 'with Kafka', () => {
  let kafka: KafkaCluster
  beforeAll(async () => {
    kafka = await startKafka({ brokers: 1 })
  }, 180_000)
  afterAll(() => kafka?.stop(), 60_000)

  test('a group that a node works for is behind, though none ever came to it, and others that none did are not', async () => {
    const onKafka = { brokers: kafka.brokers, partitions: 1, onTrouble: () => {} }
    const bus = createKafkaBus(onKafka)
    const publisher = bus.openPublisher()
    onTestFinished(async () => {
      await publisher.close()
      await bus.close()
    })
    await publisher.publish([madeUpEntry(1)], AbortSignal.timeout(60_000))
    // It works for none when it begins, so none ever joins.
    let working = ''
    const consumers = startConsumers({
      ...{ ...onKafka, shards: () => [], urlOf: () => undefined, worksFor: (name) => name === working },
      groups: ['a', 'b'].map((name) => ({ name, topics: [ENTRIES], handle: async () => {} })),
    })
    onTestFinished(() => consumers.stop())
    expect((await consumers.lag()).groups).toEqual([])
    working = 'a'
    expect((await consumers.lag()).groups).toEqual([{ group: 'a', messages: 1 }])
  })
})
