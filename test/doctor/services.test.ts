import { Admin, ConfigResourceTypes, IncrementalAlterConfigOperationTypes } from '@platformatic/kafka'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { DEAD, QUEUE_TOPICS, REQUESTS, RETRY } from '../../src/async/kafkaQueue.ts'
import { TOPICS } from '../../src/bus/events.ts'
import { ensureTopics } from '../../src/bus/kafkaTopics.ts'
import type { Finding } from '../../src/doctor/finding.ts'
import { checkKafka } from '../../src/doctor/kafka.ts'
import { checkDisk, checkNode } from '../../src/doctor/machine.ts'
import { checkRedis } from '../../src/doctor/redis.ts'
import { until } from '../bus/stage.ts'
import { describeWith } from '../services/available.ts'
import { type KafkaCluster, startKafka } from '../services/kafka.ts'
import { type RedisServer, startRedis } from '../services/redis.ts'

const QUEUE = QUEUE_TOPICS.map(({ name }) => name)
const linesOf = (findings: readonly Finding[]) => findings.map(({ level, says }) => `${level} ${says}`)

test('the Node that the packages pin is well, another is a warning, an old one fails', async () => {
  expect(linesOf(await checkNode())).toEqual([`ok Node ${process.version}`])
  expect(linesOf(await checkNode('v24.0.0'))).toEqual([expect.stringMatching(/^warn Node v24.0.0 is not 24\./)])
  expect(linesOf(await checkNode('v20.20.2'))).toEqual([expect.stringMatching(/^fail Node v20.20.2 is too old/)])
})

test('the room on the disk is told, and one that is not there is a warning', async () => {
  expect(linesOf(await checkDisk('.'))[0]).toMatch(/GiB are free in \.$/)
  expect(linesOf(await checkDisk('/no/such/place'))[0]).toMatch(/^warn the room in \/no\/such\/place is not known/)
})

describeWith('redis', 'Redis', () => {
  let redis: RedisServer
  beforeAll(async () => {
    redis = await startRedis()
  })
  afterAll(() => redis.stop())

  test('is told by version, role, and what it does when it is full', async () => {
    const look = async () => linesOf(await checkRedis({ url: redis.url }))
    expect(await look()).toEqual([
      expect.stringMatching(/^ok it answers, version \d+\./),
      'warn it may take all of the memory',
    ])
    await redis.ask('CONFIG', 'SET', 'maxmemory', '100mb')
    expect(await look()).toContain('warn when it is full it refuses to write (noeviction)')
    await redis.ask('CONFIG', 'SET', 'maxmemory-policy', 'allkeys-lru')
    expect((await look()).filter((line) => !line.startsWith('ok'))).toEqual([])
    await redis.ask('REPLICAOF', '127.0.0.1', '1')
    expect(await look()).toContain('fail it is a replica, and takes no writes')
    await redis.ask('REPLICAOF', 'NO', 'ONE')
    await redis.kill()
    expect(await look()).toEqual([expect.stringMatching(/^fail it does not answer: connect ECONNREFUSED/)])
  })
})

describeWith('kafka', 'Kafka', () => {
  let kafka: KafkaCluster
  beforeAll(async () => {
    kafka = await startKafka({ brokers: 1 })
  })
  afterAll(() => kafka.stop())

  test('is told by brokers, version and topics', async () => {
    const { brokers } = kafka
    const look = async () => linesOf(await checkKafka({ brokers, partitions: 12 }))
    await expect
      .poll(look)
      .toEqual([
        'warn 1 of them answer',
        'ok version 4.0 or newer',
        ...[...TOPICS, ...QUEUE].map((topic) => `warn the topic ${topic} is not there`),
      ])
    await ensureTopics({ brokers, partitions: 3 })
    await ensureTopics({ brokers, partitions: 3, topics: QUEUE_TOPICS })
    // Brokers tell of a topic a moment after it was made.
    await expect
      .poll(async () => (await look()).slice(2))
      .toEqual(
        [...TOPICS, ...QUEUE].flatMap((topic) => [
          `ok ${topic}: 3 partitions, 1 replicas, min.insync.replicas 1`,
          `warn ${topic} has 3 partitions, KAFKA_PARTITIONS says 12`,
        ]),
      )
    const admin = new Admin({ clientId: 'test', bootstrapBrokers: [...brokers] })
    const set = (resourceName: string, name: string, value: string) => ({
      ...{ resourceType: ConfigResourceTypes.TOPIC, resourceName },
      configs: [{ name, configOperation: IncrementalAlterConfigOperationTypes.SET, value }],
    })
    await admin.incrementalAlterConfigs({
      resources: [
        set(REQUESTS, 'cleanup.policy', 'compact'),
        set(RETRY, 'retention.ms', '3600000'),
        set(DEAD, 'cleanup.policy', 'delete'),
      ],
    })
    await admin.close()
    const said = (lines: readonly string[]) => [
      lines.includes(`fail ${REQUESTS} is compacted: requests are lost`),
      lines.some((line) => line.startsWith(`warn ${RETRY} keeps requests that were put off for 0.0 days`)),
      lines.includes(`fail ${DEAD} forgets letters (cleanup.policy)`),
    ]
    await until(async () => said(await look()).every(Boolean))
    await kafka.broker(0).kill()
    expect(await look()).toEqual([expect.stringMatching(/^fail the brokers do not answer: /)])
  })
})
