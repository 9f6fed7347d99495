import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { consumeKafka } from '../../src/bus/kafkaConsumer.ts'
import { createKafkaSender } from '../../src/bus/kafkaSender.ts'
import { ensureTopics } from '../../src/bus/kafkaTopics.ts'
import { describeWith } from '../services/available.ts'
import { type KafkaCluster, startKafka } from '../services/kafka.ts'
import { until } from './stage.ts'

describeWith('kafka', 'a member of a group', () => {
  let kafka: KafkaCluster
  beforeAll(async () => {
    kafka = await startKafka({ brokers: 1 })
  }, 180_000)
  afterAll(() => kafka?.stop(), 60_000)

  test('lets go of what sleeps when another takes its place, and that one has it at once', async () => {
    const { brokers } = kafka
    const topics = [{ name: 'sleepy', configs: {} }]
    const ready = () => ensureTopics({ brokers, security: {}, partitions: 1, topics })
    const sender = createKafkaSender({ brokers, clientId: 'test', ready })
    onTestFinished(() => sender.close())
    await sender.send([{ topic: 'sleepy', key: 'who', value: 'what' }])
    let tries = 0
    let isLetGo = false
    const member = consumeKafka(
      {
        ...{ groupId: 'sleepers', topics: ['sleepy'], onLost: () => {} },
        async handle(_messages, signal) {
          if (++tries > 1) return
          await sleep(300_000, undefined, { signal }).finally(() => {
            isLetGo = true
          })
        },
      },
      { brokers, security: {}, sessionMs: 6_000, ready, onTrouble: () => {} },
    )
    onTestFinished(() => member.stop())
    await until(() => tries === 1)
    await kafka.broker(0).kill()
    await until(() => isLetGo)
    await kafka.broker(0).restart()
    await until(() => tries === 2)
    expect(tries).toBe(2)
  }, 300_000)
})
