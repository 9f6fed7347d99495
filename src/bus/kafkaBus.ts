import { type Bus, type ConsumerGroup, checkedName, type Subscription, stopAll } from './bus.ts'
import { eventOf } from './cloudEvents.ts'
import { isSound } from './eventData.ts'
import { consumeKafka, type KafkaConsumerOptions, type StringMessage } from './kafkaConsumer.ts'
import { createKafkaLag, type KafkaLag } from './kafkaLag.ts'
import { nameOf } from './kafkaOrder.ts'
import { createKafkaPublisher } from './kafkaPublisher.ts'
import type { KafkaSecurity } from './kafkaSecurity.ts'
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
  /** Told of each message in the topics that is no event of the ledger's; it is left out. */
  onPoisoned?: ((group: string) => void) | undefined
  /** Told that trouble is over. */
  onWell?: ((message: string) => void) | undefined
  /** How long a node that vanished is missed; the brokers have a least value, 6 s if nobody changed it. */
  sessionMs?: number
}

export type KafkaBus = Bus & {
  /** What the relay needs to fill it. */
  openPublisher(): Publisher
  /** How far a group is behind the ends of its topics. @throws if the brokers do not answer within seconds */
  lag(group: Pick<ConsumerGroup, 'name' | 'topics'>): Promise<KafkaLag>
}

/** The bus on Kafka. Its groups are called `zerosum-<name>` there, and their progress is Kafka's own. */
export function createKafkaBus(options: KafkaBusOptions): KafkaBus {
  const { brokers, security = {}, partitions, sessionMs, onTrouble, onPoisoned = () => {}, onWell } = options
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
      const subscription = consume(group, {
        ...{ brokers, security, ready, onTrouble, onPoisoned, onWell },
        ...(sessionMs === undefined ? {} : { sessionMs }),
      })
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

/** Hands a group's events on, with their marks. */
function consume(
  group: ConsumerGroup,
  { onTrouble, onPoisoned, ...options }: KafkaConsumerOptions & { onPoisoned: (group: string) => void },
): Subscription {
  /** Somebody else's message in our topic is reported and left out: it would be no event the next time either. */
  function deliveredOf(message: StringMessage): Delivered[] {
    try {
      const event = eventOf(message)
      if (!isSound(event)) throw new Error(`event ${event.id} does not hold what its type says`)
      return [{ event, partition: message.partition }]
    } catch (error) {
      onPoisoned(group.name)
      onTrouble(new Error(`${nameOf(message)} holds no event at ${message.offset}`, { cause: error }))
      return []
    }
  }
  return consumeKafka(
    {
      groupId: groupIdOf(group.name),
      topics: group.topics,
      async handle(messages, _signal, partitions) {
        const delivered = messages.flatMap(deliveredOf)
        if (delivered.length === 0) return
        const events = delivered.map(({ event }) => event)
        await inGroup(group.name, events, async (events) => {
          const traced = delivered.map((one, i) => ({ ...one, event: events[i] ?? one.event }))
          await group.handle(events, marksOfPartitions(group.name, traced, partitions))
        })
      },
      onLost: (lost) =>
        onTrouble(
          new Error(`${lost} were removed from Kafka before ${group.name} had them: they are in the blocks only`),
        ),
    },
    { ...options, onTrouble },
  )
}
