import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  Admin,
  Consumer,
  type Message,
  ProduceAcks,
  Producer,
  stringDeserializers,
  stringSerializers,
} from '@platformatic/kafka'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { describeWith } from './available.ts'
import { type KafkaCluster, startKafka } from './kafka.ts'
import { type RedisServer, startRedis } from './redis.ts'
import { askRedis } from './resp.ts'

/** Three JVMs on two cores that others use too. */
const KAFKA_MS_MAX = 180_000

describeWith('redis', 'Redis for tests', () => {
  let redis: RedisServer
  beforeAll(async () => {
    redis = await startRedis()
  })
  beforeEach(() => redis.flush())
  afterAll(() => redis?.stop())

  test('keeps what it is given, until it is flushed', async () => {
    expect(await redis.ask('SET', 'coin', 'ƒ 1\r\n2')).toBe('OK')
    expect(await redis.ask('GET', 'coin')).toBe('ƒ 1\r\n2')
    await redis.flush()
    expect(await redis.ask('GET', 'coin')).toBe(null)
  })

  test('says what is wrong with a command', async () => {
    await expect(redis.ask('GET')).rejects.toThrow('wrong number of arguments')
  })

  test('paused, it accepts connections and answers nothing until it goes on', async () => {
    await redis.ask('SET', 'coin', '1')
    redis.pause()
    await expect(askRedis(redis.port, ['GET', 'coin'], 200)).rejects.toThrow('no answer within 200 ms')
    redis.resume()
    expect(await redis.ask('GET', 'coin')).toBe('1')
  })

  test('killed, it breaks its connections and takes no new ones; restarted, it is at the same place, and empty', async () => {
    await redis.ask('SET', 'coin', '1')
    const { url, pid } = redis
    const client = connect({ port: redis.port, host: '127.0.0.1' })
    await once(client, 'connect')
    const broken = new Promise((done) => client.once('close', done))
    // Reset or just ended: both are a broken connection.
    client.on('error', () => {}).resume()
    await redis.kill()
    await broken
    await expect(redis.ask('PING')).rejects.toThrow('ECONNREFUSED')
    expect(() => redis.pid).toThrow('does not run')
    await redis.restart()
    expect(redis.url).toBe(url)
    expect(redis.pid).not.toBe(pid)
    expect(await redis.ask('GET', 'coin')).toBe(null)
  })

  test('is killed also while it is paused', async () => {
    redis.pause()
    await redis.restart()
    expect(await redis.ask('PING')).toBe('PONG')
  })

  test('two of them have nothing in common', async () => {
    const other = await startRedis()
    try {
      await redis.ask('SET', 'coin', '1')
      expect(await other.ask('GET', 'coin')).toBe(null)
    } finally {
      await other.stop()
    }
    await expect(other.ask('PING')).rejects.toThrow('ECONNREFUSED')
  })
})

describeWith('kafka', 'Kafka for tests, one broker', () => {
  let kafka: KafkaCluster
  beforeAll(async () => {
    kafka = await startKafka({ brokers: 1 })
  }, KAFKA_MS_MAX)
  afterAll(() => kafka?.stop())

  test(
    'hands on a record with its key and headers, and keeps it over a restart',
    async () => {
      const topic = await newTopic(kafka, 1)
      await send(kafka, topic, 'alice', '1250')
      const [record] = await received(kafka, topic, 1)
      expect(record).toMatchObject({ key: 'alice', value: '1250', topic })
      expect(record?.headers.get('traceparent')).toBe('00-1-2-03')
      await kafka.broker(0).restart()
      const [again] = await received(kafka, topic, 1)
      expect(again).toMatchObject({ key: 'alice', value: '1250', offset: record?.offset })
    },
    KAFKA_MS_MAX,
  )

  test('makes no topic by itself', async () => {
    const producer = new Producer({ ...clientOf(kafka), retries: 1, serializers: stringSerializers })
    try {
      const messages = [{ topic: 'nobody-made-it', value: '1' }]
      await expect(producer.send({ messages, acks: ProduceAcks.ALL, autocreateTopics: true })).rejects.toThrow()
    } finally {
      await producer.close()
    }
  })

  test('has no second broker', () => {
    expect(() => kafka.broker(1)).toThrow('there is no broker 1')
  })
})

describeWith('kafka', 'Kafka for tests, three brokers', () => {
  let kafka: KafkaCluster
  beforeAll(async () => {
    kafka = await startKafka({ brokers: 3 })
  }, KAFKA_MS_MAX)
  afterAll(() => kafka?.stop())

  test(
    'one killed, records still go to all the replicas that are in sync; it comes back to its data',
    async () => {
      const topic = await newTopic(kafka, 3)
      await send(kafka, topic, 'before', '1')
      await kafka.broker(0).kill()
      await send(kafka, topic, 'without it', '2')
      expect((await received(kafka, topic, 2)).map(({ key }) => key)).toEqual(['before', 'without it'])

      // Back in sync, it can stand in for another that is lost.
      await kafka.broker(0).restart()
      await untilInSync(kafka, topic, 3)
      await kafka.broker(1).kill()
      await send(kafka, topic, 'without another', '3')
      expect((await received(kafka, topic, 3)).map(({ value }) => value)).toEqual(['1', '2', '3'])
      await kafka.broker(1).restart()
    },
    KAFKA_MS_MAX,
  )

  test(
    'one paused, the others go on without it; resumed, it catches up',
    async () => {
      const topic = await newTopic(kafka, 3)
      kafka.broker(2).pause()
      await send(kafka, topic, 'without it', '1')
      kafka.broker(2).resume()
      await untilInSync(kafka, topic, 3)
      expect((await received(kafka, topic, 1)).map(({ key }) => key)).toEqual(['without it'])
    },
    KAFKA_MS_MAX,
  )
})

/** What a client may do while brokers are lost: give up on one soon, and try for a minute. */
function clientOf({ brokers }: KafkaCluster) {
  const patience = { connectTimeout: 2_000, requestTimeout: 5_000, retries: 60, retryDelay: 1_000 }
  return { clientId: 'test', bootstrapBrokers: [...brokers], ...patience }
}

/** A topic of one partition; its name. */
async function newTopic(kafka: KafkaCluster, replicas: number): Promise<string> {
  const admin = new Admin(clientOf(kafka))
  try {
    const topic = `test-${randomUUID()}`
    await admin.createTopics({ topics: [topic], partitions: 1, replicas })
    return topic
  } finally {
    await admin.close()
  }
}

/** Resolves when all replicas that are in sync have the record; sent again, it is written once. */
async function send(kafka: KafkaCluster, topic: string, key: string, value: string): Promise<void> {
  const producer = new Producer({ ...clientOf(kafka), serializers: stringSerializers })
  try {
    const headers = { traceparent: '00-1-2-03' }
    await producer.send({ messages: [{ topic, key, value, headers }], acks: ProduceAcks.ALL, idempotent: true })
  } finally {
    await producer.close()
  }
}

/** The first records of a topic, read by a consumer group of its own. */
async function received(
  kafka: KafkaCluster,
  topic: string,
  count: number,
): Promise<Message<string, string, string, string>[]> {
  const groupId = `test-${randomUUID()}`
  const consumer = new Consumer({ ...clientOf(kafka), groupId, deserializers: stringDeserializers })
  try {
    const stream = await consumer.consume({ topics: [topic], mode: 'earliest', autocommit: false, maxWaitTime: 500 })
    const records: Message<string, string, string, string>[] = []
    for await (const record of stream) {
      records.push(record)
      if (records.length === count) break
    }
    return records
  } finally {
    await consumer.close(true)
  }
}

/** Waits until that many replicas of the topic are in sync; the test's own limit ends it. */
async function untilInSync(kafka: KafkaCluster, topic: string, replicas: number): Promise<void> {
  const admin = new Admin(clientOf(kafka))
  try {
    for (;;) {
      const { topics } = await admin.metadata({ topics: [topic], forceUpdate: true })
      if (topics.get(topic)?.partitions[0]?.isr.length === replicas) return
      await sleep(100)
    }
  } finally {
    await admin.close()
  }
}
