import { setTimeout as sleep } from 'node:timers/promises'
import {
  Consumer,
  type Message,
  type MessagesStream,
  MessagesStreamFallbackModes,
  MessagesStreamModes,
  stringDeserializers,
} from '@platformatic/kafka'
import { BATCH_MAX, type Bus, type ConsumerGroup, checkedName, type Subscription, stopAll } from './bus.ts'
import { eventOf } from './cloudEvents.ts'
import { backoffMs } from './follow.ts'
import { createKafkaLag, type KafkaLag } from './kafkaLag.ts'
import { createOrder, isAssigned, nameOf } from './kafkaOrder.ts'
import { createKafkaPublisher } from './kafkaPublisher.ts'
import { type KafkaSecurity, securityOptions } from './kafkaSecurity.ts'
import { ensureTopics } from './kafkaTopics.ts'
import { type Delivered, marksOfPartitions } from './marks.ts'
import type { Publisher } from './relay.ts'
import { inGroup } from './spans.ts'

export type KafkaBusOptions = {
  /** `host:port` of some brokers. */
  brokers: readonly string[]
  /** In plain text as nobody, if it is not said. */
  security?: KafkaSecurity | undefined
  /** Of topics that are made; the same for ever (kafkaTopics.ts). */
  partitions: number
  onTrouble: (error: unknown) => void
  /** How long a node that vanished is missed; the brokers have a least value, 6 s if nobody changed it. */
  sessionMs?: number
}

export type KafkaBus = Bus & {
  /** What the relay needs to fill it. */
  openPublisher(): Publisher
  /** How far a group is behind the ends of its topics. @throws if the brokers do not answer within seconds */
  lag(group: Pick<ConsumerGroup, 'name' | 'topics'>): Promise<KafkaLag>
}

const SESSION_MS = 10_000
const FETCH_WAIT_MS = 500
const FETCH_BYTES_MAX = 8_000_000
const PARTITION_BYTES_MAX = 1_000_000
const CLOSE_MS_MAX = 10_000

/** The bus on Kafka. Its groups are called `zerosum-<name>` there, and their progress is Kafka's own. */
export function createKafkaBus(options: KafkaBusOptions): KafkaBus {
  const { brokers, security = {}, partitions, sessionMs = SESSION_MS, onTrouble } = options
  const subscriptions: Subscription[] = []
  const lag = createKafkaLag({ brokers, security })
  let topics: Promise<void> | undefined
  const ready = () => {
    topics ??= ensureTopics({ brokers, security, partitions }).catch((error) => {
      topics = undefined
      throw error
    })
    return topics
  }
  return {
    subscribe(group) {
      const subscription = consume(group, { brokers, security, sessionMs, ready, onTrouble })
      subscriptions.push(subscription)
      return subscription
    },
    openPublisher: () => createKafkaPublisher({ brokers, security }, ready),
    lag: ({ name, topics }) => lag.read(groupIdOf(name), topics),
    async close() {
      await Promise.all([stopAll(subscriptions), lag.close()])
    },
  }
}

const groupIdOf = (name: string) => `zerosum-${checkedName(name)}`

type StringMessage = Message<string, string, string, string>
type StringStream = MessagesStream<string, string, string, string>
type StringConsumer = Consumer<string, string, string, string>

type ConsumeOptions = {
  brokers: readonly string[]
  security: KafkaSecurity
  sessionMs: number
  ready: () => Promise<void>
  onTrouble: (error: unknown) => void
}

/** A member of a group. When anything goes wrong with it, another takes its place and begins where progress was recorded. */
function consume(group: ConsumerGroup, options: ConsumeOptions): Subscription {
  const { brokers, security, sessionMs, ready, onTrouble } = options
  const groupId = groupIdOf(group.name)
  const stopping = new AbortController()
  const { signal } = stopping
  const pause = (ms: number) => sleep(ms, undefined, { signal }).catch(() => {})

  async function run(): Promise<void> {
    for (let failures = 0; !signal.aborted; ) {
      try {
        await session(() => {
          failures = 0
        })
      } catch (error) {
        if (signal.aborted) return
        onTrouble(error)
        await pause(backoffMs(failures++))
      }
    }
  }

  async function session(onProgress: () => void): Promise<void> {
    await ready()
    const consumer: StringConsumer = new Consumer({
      ...{ groupId, clientId: 'zerosum', bootstrapBrokers: [...brokers], deserializers: stringDeserializers },
      ...securityOptions(security, brokers),
      ...{ sessionTimeout: sessionMs, heartbeatInterval: Math.floor(sessionMs / 5), rebalanceTimeout: sessionMs },
      ...{ maxWaitTime: FETCH_WAIT_MS, maxBytes: FETCH_BYTES_MAX, maxBytesPerPartition: PARTITION_BYTES_MAX },
      ...{ highWaterMark: BATCH_MAX, retries: 3, retryDelay: 300, requestTimeout: 2 * sessionMs + FETCH_WAIT_MS },
    })
    consumer.on('error', () => {}) // whoever asks it is told
    let stream: StringStream | undefined
    const end = () => stream?.destroy()
    try {
      stream = await consumer.consume({
        ...{ topics: [...group.topics], autocommit: false, mode: MessagesStreamModes.COMMITTED },
        fallbackMode: MessagesStreamFallbackModes.EARLIEST,
      })
      stream.on('error', () => {}) // whoever reads it is told
      signal.addEventListener('abort', end)
      if (signal.aborted) return
      const { topics } = await consumer.metadata({ topics: [...group.topics] })
      const partitions = new Map([...topics].map(([name, { partitionsCount }]) => [name, partitionsCount]))
      const inOrder = createOrder(consumer, group.topics, (lost) =>
        onTrouble(
          new Error(`${lost} were removed from Kafka before ${group.name} had them: they are in the blocks only`),
        ),
      )
      for await (const batch of batchesOf(stream)) {
        const messages = await inOrder(batch)
        if (messages.length === 0) continue
        if (!(await handled(messages, consumer, partitions))) return
        await commit(consumer, messages)
        onProgress()
      }
    } finally {
      signal.removeEventListener('abort', end)
      end()
      // Leaves the group, so that others need not wait until it is missed.
      await Promise.race([consumer.close(true), sleep(CLOSE_MS_MAX, undefined, { ref: false })]).catch(() => {})
    }
  }

  /** Tries until it goes through. @returns whether it did; not if this ends meanwhile, or none of it is ours any more */
  async function handled(
    messages: readonly StringMessage[],
    consumer: StringConsumer,
    partitions: ReadonlyMap<string, number>,
  ): Promise<boolean> {
    for (let failures = 0; !signal.aborted; failures++) {
      const delivered = messages
        .filter((message) => failures === 0 || isAssigned(consumer, message))
        .flatMap(deliveredOf)
      if (delivered.length === 0) return true
      try {
        const events = delivered.map(({ event }) => event)
        await inGroup(group.name, events, async (events) => {
          const traced = delivered.map((one, i) => ({ ...one, event: events[i] ?? one.event }))
          await group.handle(events, marksOfPartitions(group.name, traced, partitions))
        })
        return true
      } catch (error) {
        onTrouble(error)
        await pause(backoffMs(failures))
      }
    }
    return false
  }

  /** Somebody else's message in our topic is reported and left out: it would be no event the next time either. */
  function deliveredOf(message: StringMessage): Delivered[] {
    try {
      return [{ event: eventOf(message), partition: message.partition }]
    } catch (error) {
      onTrouble(new Error(`${nameOf(message)} holds no event at ${message.offset}`, { cause: error }))
      return []
    }
  }

  /** Records progress. Where that fails, the same comes again, or the next time records it too. */
  async function commit(consumer: StringConsumer, messages: readonly StringMessage[]): Promise<void> {
    const last = new Map(messages.filter((one) => isAssigned(consumer, one)).map((one) => [nameOf(one), one]))
    if (last.size === 0) return
    const offsets = [...last.values()].map(({ topic, partition, offset, leaderEpoch }) => ({
      ...{ topic, partition, offset: offset + 1n, leaderEpoch },
    }))
    await consumer.commit({ offsets }).catch(onTrouble)
  }

  const running = run()
  return {
    async stop() {
      stopping.abort()
      await running
    },
  }
}

/** What has come in, as one batch. */
async function* batchesOf(stream: StringStream): AsyncGenerator<StringMessage[]> {
  const messages = stream[Symbol.asyncIterator]()
  for (;;) {
    const batch: StringMessage[] = []
    do {
      const next = await messages.next()
      if (next.done) return
      batch.push(next.value)
    } while (stream.readableLength > 0 && batch.length < BATCH_MAX)
    yield batch
  }
}
