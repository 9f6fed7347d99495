import { afterAll, beforeAll } from 'vitest'
import { createKafkaBus } from '../../src/bus/kafkaBus.ts'
import { startRelay } from '../../src/bus/relay.ts'
import { describeWith } from '../services/available.ts'
import { type KafkaCluster, startKafka } from '../services/kafka.ts'
import { busOf } from './consumer.ts'
import { busContract } from './contract.ts'
import { openLedgerStage } from './stage.ts'

describeWith('kafka', 'the bus on Kafka', () => {
  let kafka: KafkaCluster
  beforeAll(async () => {
    kafka = await startKafka({ brokers: 1 })
  }, 180_000)
  afterAll(() => kafka?.stop(), 60_000)

  busContract(async () => {
    const ledger = await openLedgerStage()
    const node = { urls: ledger.urls, brokers: [...kafka.brokers] }
    const bus = createKafkaBus({ brokers: node.brokers, partitions: 4, onTrouble: () => {} })
    const relay = startRelay({
      shards: () => ledger.urls.map((_, shard) => shard),
      urlOf: (shard) => ledger.urls[shard],
      openPublisher: bus.openPublisher,
      onTrouble: () => {},
    })
    return {
      ...{ ...ledger, node, openBus: () => busOf(node) },
      async close() {
        await relay.stop()
        await bus.close()
        await ledger.close()
      },
    }
  })
})
