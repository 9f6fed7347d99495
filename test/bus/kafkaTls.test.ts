import { Producer, stringSerializers } from '@platformatic/kafka'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { ENTRIES, type LedgerEvent } from '../../src/bus/events.ts'
import { createKafkaBus } from '../../src/bus/kafkaBus.ts'
import { type KafkaSecurity, securityOptions } from '../../src/bus/kafkaSecurity.ts'
import { SASL_MECHANISMS } from '../../src/bus/saslMechanisms.ts'
import { describeWith } from '../services/available.ts'
import { type KafkaCluster, startKafka } from '../services/kafka.ts'
import { createAuthority, writeFiles } from '../support/authority.ts'
import { madeUpEntry } from './madeUp.ts'
import { until } from './stage.ts'

const brokers = createAuthority('brokers')
const clients = createAuthority('clients')
const broker = brokers.issue({ names: ['IP:127.0.0.1'] })
const sasl = { mechanism: 'SCRAM-SHA-512', username: 'zerosum', password: 'correct-horse' } as const
const right = { tls: { ca: brokers.cert, ...clients.issue({ commonName: 'zerosum' }) }, sasl } satisfies KafkaSecurity

describeWith('kafka', 'the bus on a Kafka with TLS and log-in', () => {
  let kafka: KafkaCluster
  const cleaners: (() => Promise<void>)[] = []
  beforeAll(async () => {
    const stores = { keystore: `${broker.key}${broker.cert}`, truststore: `${clients.cert}${brokers.cert}` }
    const files = await writeFiles(stores, (work) => cleaners.push(work))
    kafka = await startKafka({ brokers: 1, secured: { ...files, username: sasl.username, password: sasl.password } })
  }, 180_000)
  afterAll(async () => {
    await kafka?.stop()
    for (const clean of cleaners) await clean()
  }, 60_000)

  /** Sends one event; rejects as the publisher does, or after so long. */
  async function publish(security: KafkaSecurity, number: number, msMax = 60_000): Promise<void> {
    await publishAll(security, [madeUpEntry(number)], msMax)
  }

  async function publishAll(security: KafkaSecurity, events: readonly LedgerEvent[], msMax: number): Promise<void> {
    const bus = createKafkaBus({ brokers: kafka.brokers, security, partitions: 1, onTrouble: () => {} })
    const publisher = bus.openPublisher()
    onTestFinished(async () => {
      await publisher.close()
      await bus.close()
    })
    await publisher.publish(events, AbortSignal.timeout(msMax))
  }

  test.each(SASL_MECHANISMS)('events go there and come back, with %s', async (mechanism) => {
    const number = 100 + SASL_MECHANISMS.indexOf(mechanism)
    const security = { ...right, sasl: { ...sasl, mechanism } }
    await publish(security, number)
    const bus = createKafkaBus({ brokers: kafka.brokers, security, partitions: 1, onTrouble: () => {} })
    onTestFinished(() => bus.close())
    const received: string[] = []
    bus.subscribe({
      ...{ name: `tls-${number}`, topics: [ENTRIES] },
      handle: async (events) => void received.push(...events.map(({ id }) => id)),
    })
    await until(() => received.includes(`0.${number}.0`))
    expect(await bus.lag({ name: `tls-${number}`, topics: [ENTRIES] })).toMatchObject({ members: 1 })
  })

  test.each<[string, KafkaSecurity]>([
    ['brokers whose CA is not trusted', { ...right, tls: { ...right.tls, ca: clients.cert } }],
    ['brokers of no public CA, if no CA is named', { ...right, tls: clients.issue({}) }],
    [
      'a certificate that the brokers do not trust',
      { ...right, tls: { ...right.tls, ...createAuthority('clients').issue({}) } },
    ],
    ['no certificate where one is asked for', { ...right, tls: { ca: brokers.cert } }],
    ['a wrong password', { ...right, sasl: { ...sasl, password: 'wrong' } }],
    ['a wrong password, PLAIN', { ...right, sasl: { ...sasl, mechanism: 'PLAIN', password: 'wrong' } }],
    ['somebody unknown', { ...right, sasl: { ...sasl, username: 'mallory' } }],
    ['nobody', { tls: right.tls }],
    ['plain text', { sasl }],
  ])('nothing is sent with %s', async (_, security) => {
    await expect(publish(security, 1, 30_000)).rejects.toThrow()
  })

  test('messages that are no events are told of, counted and left out; what comes after them is handled', async () => {
    const raw = new Producer({
      ...{ clientId: 'mallory', bootstrapBrokers: [...kafka.brokers], serializers: stringSerializers },
      ...securityOptions(right, kafka.brokers),
    })
    onTestFinished(() => raw.close())
    const headers = {
      ...{ ce_specversion: '1.0', ce_id: '0.1.0', ce_source: 'x', ce_type: 'x', ce_time: 'x', ce_subject: 'x' },
      ce_tenant: 'x',
    }
    await publish(right, 200)
    const poison = [
      { value: '{}' },
      { value: 'no JSON', headers },
      { value: '{}', headers: { ...headers, ce_id: "0.1.0'; DROP TABLE entries" } },
      { value: '{}', headers: { ...headers, ce_id: '1.99999999999999999999.0' } },
      { value: '', headers },
    ]
    await raw.send({ messages: poison.map((message) => ({ topic: ENTRIES, key: 'key', ...message })) })
    // The headers of an event, and other data.
    const { data, ...head } = madeUpEntry(202)
    const bad: LedgerEvent[] = [
      { ...head, data: {} as LedgerEvent['data'] },
      { ...head, data: { ...data, sequence: 'many' } as unknown as LedgerEvent['data'] },
      { ...head, data, tenant: 'nobody' },
      { ...head, data, type: 'zerosum.transaction.v1' },
    ]
    await publishAll(right, bad, 60_000)
    await publish(right, 201)

    const troubles: string[] = []
    const poisoned: string[] = []
    const onPoisoned = (group: string) => poisoned.push(group)
    const onTrouble = (error: unknown) => troubles.push(String(error))
    const bus = createKafkaBus({ brokers: kafka.brokers, security: right, partitions: 1, onTrouble, onPoisoned })
    onTestFinished(() => bus.close())
    const received: string[] = []
    bus.subscribe({
      ...{ name: 'poisoned', topics: [ENTRIES] },
      handle: async (events) => void received.push(...events.map(({ id }) => id)),
    })
    await until(() => received.includes('0.201.0'))
    expect(received.filter((id) => id.startsWith('0.20'))).toEqual(['0.200.0', '0.201.0'])
    expect(troubles.filter((text) => text.includes('holds no event'))).toHaveLength(poison.length + bad.length)
    expect(poisoned).toEqual([...poison, ...bad].map(() => 'poisoned'))
  })

  test('a broker must have a certificate for the name or address it is called by', async () => {
    const named = brokers.issue({ names: ['DNS:kafka.example'] })
    const files = await writeFiles(
      { keystore: `${named.key}${named.cert}`, truststore: `${clients.cert}${brokers.cert}` },
      onTestFinished,
    )
    const other = await startKafka({
      brokers: 1,
      secured: { ...files, username: 'zerosum', password: 'correct-horse' },
    })
    onTestFinished(() => other.stop(), 60_000)
    const bus = createKafkaBus({ brokers: other.brokers, security: right, partitions: 1, onTrouble: () => {} })
    onTestFinished(() => bus.close())
    const publisher = bus.openPublisher()
    onTestFinished(() => publisher.close())
    await expect(publisher.publish([madeUpEntry(1)], AbortSignal.timeout(30_000))).rejects.toThrow()
  }, 180_000)
})
