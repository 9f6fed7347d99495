import { Admin, Producer, stringSerializers } from '@platformatic/kafka'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { consumeKafka } from '../../src/bus/kafkaConsumer.ts'
import { describeWith } from '../services/available.ts'
import { type KafkaCluster, startKafka } from '../services/kafka.ts'
import { until } from './stage.ts'

const TOPIC = 'things'

describeWith('kafka', 'a member of a group', () => {
  let kafka: KafkaCluster
  beforeAll(async () => {
    kafka = await startKafka({ brokers: 1 })
  }, 180_000)
  afterAll(() => kafka?.stop(), 60_000)

  /** That often it asks whether it is still one: seldom, so that it hears of it when it records progress; or before that. */
  test.each([
    ['when it records progress', 60_000],
    ['while it handles', 6_000],
  ])(
    'that learns %s that it was forgotten leaves what others recorded as it is',
    async (_, sessionMs) => {
      const topic = `${TOPIC}-${sessionMs}`
      const client = { clientId: 'test', bootstrapBrokers: [...kafka.brokers] }
      const admin = new Admin(client)
      const producer = new Producer({ ...client, serializers: stringSerializers })
      onTestFinished(async () => {
        await Promise.all([admin.close(), producer.close()])
      })
      await admin.createTopics({ topics: [topic], partitions: 1, replicas: 1 })
      const send = (count: number) =>
        producer.send({ messages: Array.from({ length: count }, () => ({ topic, key: 'k', value: 'v' })) })
      const recorded = async () => {
        const groups = await admin.listConsumerGroupOffsets({ groups: [topic] })
        return groups[0]?.topics[0]?.partitions[0]?.committedOffset
      }

      const handled: bigint[] = []
      const troubles: string[] = []
      let go = () => {}
      const held = new Promise<void>((resolve) => {
        go = resolve
      })
      const member = consumeKafka(
        {
          ...{ groupId: topic, topics: [topic], onLost: () => {} },
          handle: async (messages) => {
            handled.push(...messages.map(({ offset }) => offset))
            await held
          },
        },
        {
          ...{ brokers: kafka.brokers, security: {}, sessionMs, ready: async () => {} },
          onTrouble: (error) => void troubles.push(String(error)),
        },
      )
      onTestFinished(() => member.stop())
      onTestFinished(() => go())
      await send(1)
      await until(() => handled.length === 1)
      await send(4)
      const idOf = async () =>
        [...((await admin.describeGroups({ groups: [topic] })).get(topic)?.members.keys() ?? [])][0]
      let before: string | undefined
      // As another member that had it meanwhile would have. It can't if this one is back already: then it is sent away once more.
      await until(async () => {
        before = await idOf()
        if (before === undefined) return false
        const topics = [{ name: topic, partitionOffsets: [{ partition: 0, offset: 5n }] }]
        return await admin
          .removeMembersFromConsumerGroup({ groupId: topic, members: [{ memberId: before }] })
          .then(() => admin.alterConsumerGroupOffsets({ groupId: topic, topics }))
          .then(
            () => true,
            () => false,
          )
      })
      if (sessionMs < 10_000) {
        await until(async () => {
          const now = await idOf()
          return now !== undefined && now !== before
        })
      }
      go()
      await until(
        () => troubles.some((trouble) => trouble.includes('forgotten')),
        () => troubles.join('\n'),
      )
      await send(1)
      await until(async () => (await recorded()) === 6n)
      expect(handled).toEqual([0n, 5n])
    },
    300_000,
  )
})
