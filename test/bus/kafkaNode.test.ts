import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { type LedgerEvent, TOPICS } from '../../src/bus/events.ts'
import { describeWith } from '../services/available.ts'
import { type KafkaCluster, startKafka } from '../services/kafka.ts'
import { clientOf, type Transfer } from '../support/api.ts'
import { migratedDatabase } from '../support/database.ts'
import { startNode } from '../support/node.ts'
import { busOf } from './consumer.ts'
import { until } from './stage.ts'

describeWith('kafka', 'a node with Kafka', () => {
  let kafka: KafkaCluster
  beforeAll(async () => {
    kafka = await startKafka({ brokers: 1 })
  }, 180_000)
  afterAll(() => kafka?.stop(), 60_000)

  test('publishes what happens, starts and answers without a broker too, and stops in time', async () => {
    const databaseUrl = await migratedDatabase()
    const demoKey = 'zs_test_0123456789abcdef'
    await kafka.broker(0).kill()
    const node = await startNode({ databaseUrl, demoKey, kafkaBrokers: kafka.brokers.join(',') })
    onTestFinished(() => node.kill())
    const client = clientOf(node.send, demoKey)
    const [from, to] = [await client.wallet(100), await client.wallet()]
    const paid = await client.pay(from, to, 30)
    expect(paid.status, paid.text).toBe(201)
    const { id }: Transfer = paid.body

    await kafka.broker(0).restart()
    const bus = busOf({ urls: [databaseUrl], brokers: kafka.brokers })
    onTestFinished(() => bus.close())
    const received: LedgerEvent[] = []
    bus.subscribe({
      name: 'test',
      topics: TOPICS,
      handle: async (events) => {
        received.push(...events)
      },
    })
    await until(() => received.some(({ data }) => data.transferId === id && 'status' in data))
    const event = received.find(({ data }) => data.transferId === id && 'status' in data)
    expect(event?.data).toMatchObject({ status: 'completed', kind: 'transfer' })
    expect(await node.stop()).toBe(0)
  }, 240_000)

  test('stops in time while no broker is there', async () => {
    await kafka.broker(0).kill()
    const databaseUrl = await migratedDatabase()
    const demoKey = 'zs_test_0123456789abcdef'
    const node = await startNode({ databaseUrl, demoKey, kafkaBrokers: kafka.brokers.join(',') })
    onTestFinished(() => node.kill())
    await until(() => node.output().includes('events could not be passed on'))
    expect(await node.stop()).toBe(0)
  }, 240_000)
})
