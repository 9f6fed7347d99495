import { BrokenCircuitError, ConsecutiveBreaker, circuitBreaker, ExponentialBackoff, handleAll } from 'cockatiel'
import { type Subscription, stopAll } from '../bus/bus.ts'
import { consumeKafka, type StringMessage } from '../bus/kafkaConsumer.ts'
import { createKafkaLag } from '../bus/kafkaLag.ts'
import type { KafkaSecurity } from '../bus/kafkaSecurity.ts'
import { createKafkaSender, type KafkaMessage } from '../bus/kafkaSender.ts'
import { ensureTopics, type TopicSettings } from '../bus/kafkaTopics.ts'
import { watchOutage } from '../bus/outage.ts'
import { formatId } from '../core/ids.ts'
import { DELAY_MS_MAX, type Disposition } from './disposition.ts'
import { createGather } from './gather.ts'
import { readDeadLetters } from './kafkaDeadLetters.ts'
import { readMessage } from './message.ts'
import { IN_FLIGHT_MAX, type Letter, QueueUnavailable, type RequestQueue, type Settle } from './requestQueue.ts'
import { whenDue } from './whenDue.ts'

export type KafkaQueueOptions = {
  /** `host:port` of some brokers. */
  brokers: readonly string[]
  security?: KafkaSecurity | undefined
  /** Of topics that are made. */
  partitions: number
  onTrouble: (error: unknown) => void
  /** How long a node that vanished is missed. */
  sessionMs?: number
}

export const REQUESTS = 'zerosum.transfer-requests.v1'
/** What was put off. */
export const RETRY = 'zerosum.transfer-requests.retry.v1'
/** What was put off for minutes, because a shard is away: so that it holds up nothing that is due earlier. */
export const RETRY_SLOW = 'zerosum.transfer-requests.retry-slow.v1'
/** What was set aside; the last message of a key counts. */
export const DEAD = 'zerosum.transfer-requests.dlq.v1'

const GROUP = 'zerosum-posting'
const RETRY_GROUP = 'zerosum-posting-retry'
const RETRY_SLOW_GROUP = 'zerosum-posting-retry-slow'
/** Posted requests stay for so long; what was not posted by then is lost, so the group must not stand still for that long. */
const KEPT_MS = 30 * 24 * 3600 * 1000
/** What is put off comes again and again for a day, each time as another message. */
const RETRY_KEPT_MS = 3 * 24 * 3600 * 1000
const ACCEPT_MS_MAX = 5_000
const SEND_MS_MAX = 20_000
/** After so many failures in a row nothing is sent for a while, longer each time that the next try fails too. */
const FAILURES_MAX = 2
const OPEN_MS = 1_000
const OPEN_MS_MAX = 10_000

const QUEUE = { 'cleanup.policy': 'delete', 'retention.ms': `${KEPT_MS}` }
/** The queue's topics, and what is special about each. */
export const QUEUE_TOPICS: readonly TopicSettings[] = [
  { name: REQUESTS, configs: QUEUE },
  { name: RETRY, configs: { ...QUEUE, 'retention.ms': `${RETRY_KEPT_MS}` } },
  { name: RETRY_SLOW, configs: { ...QUEUE, 'retention.ms': `${RETRY_KEPT_MS}` } },
  { name: DEAD, configs: { 'cleanup.policy': 'compact' } },
]

/**
 * The queue in Kafka. The key of a message is its scope, so what concerns one payer comes in order; progress is Kafka's own, and recorded when
 * all of a batch was posted, put off into the retry topic, or set aside into the dead-letter topic: in this order, so nothing is lost in between.
 */
export function createKafkaQueue({
  brokers,
  security = {},
  partitions,
  onTrouble,
  sessionMs,
}: KafkaQueueOptions): RequestQueue {
  let topics: Promise<void> | undefined
  const ready = () => {
    topics ??= ensureTopics({ brokers, security, partitions, topics: QUEUE_TOPICS }).catch((error) => {
      topics = undefined
      throw error
    })
    return topics
  }
  const subscriptions: Subscription[] = []
  const outage = watchOutage({ name: 'settling what was put off', onTrouble })
  const accepting = createKafkaSender({
    brokers,
    security,
    clientId: 'zerosum-accepting',
    ready,
    sendMsMax: ACCEPT_MS_MAX,
  })
  const moving = createKafkaSender({ brokers, security, clientId: 'zerosum-posting', ready, sendMsMax: SEND_MS_MAX })
  const lag = createKafkaLag({ brokers, security })
  // One write at a time: the next one is the trial.
  const breaker = circuitBreaker(handleAll, {
    halfOpenAfter: new ExponentialBackoff({ initialDelay: OPEN_MS, maxDelay: OPEN_MS_MAX }),
    breaker: new ConsecutiveBreaker(FAILURES_MAX),
  })
  const gather = createGather({
    async write(requests) {
      const messages = requests.map(({ scope, text, traceparent }) => {
        return { topic: REQUESTS, key: scope, value: text, ...(traceparent && { headers: { traceparent } }) }
      })
      try {
        await breaker.execute(() => accepting.send(messages))
      } catch (error) {
        if (!(error instanceof BrokenCircuitError)) throw error
        throw new QueueUnavailable('Kafka was silent lately and is not asked for a moment', { cause: error })
      }
    },
    onTrouble,
  })

  function consume(
    groupId: string,
    topic: string,
    handle: (messages: readonly StringMessage[], signal: AbortSignal) => Promise<void>,
  ) {
    return consumeKafka(
      {
        ...{ groupId, topics: [topic], handle, inFlightMax: IN_FLIGHT_MAX },
        onLost: (lost) =>
          onTrouble(new Error(`${lost} were removed from Kafka before they were posted: they are lost`)),
      },
      { brokers, security, ready, onTrouble, ...(sessionMs === undefined ? {} : { sessionMs }) },
    )
  }

  async function settleAll(settle: Settle, messages: readonly StringMessage[], signal: AbortSignal): Promise<void> {
    const dispositions = await settle(messages.map(letterOf), signal)
    await moving.send(messages.flatMap((message, i) => movedOf(message, dispositions[i])))
  }

  /** As `settleAll`, each when it is due. */
  async function settleWhenDue(settle: Settle, messages: readonly StringMessage[], signal: AbortSignal): Promise<void> {
    const dueMsOf = (message: StringMessage) => headerOf(message, 'not-before') ?? 0
    await whenDue(messages, dueMsOf, (due) => settleAll(settle, due, signal), { signal, outage })
  }

  return {
    add: (request) => gather.add(request),
    get breaker() {
      return breaker.state
    },
    work(settle) {
      const members = [
        consume(GROUP, REQUESTS, (messages, signal) => settleAll(settle, messages, signal)),
        consume(RETRY_GROUP, RETRY, (messages, signal) => settleWhenDue(settle, messages, signal)),
        consume(RETRY_SLOW_GROUP, RETRY_SLOW, (messages, signal) => settleWhenDue(settle, messages, signal)),
      ]
      subscriptions.push(...members)
      return {
        async stop() {
          await Promise.all(members.map((member) => member.stop()))
        },
      }
    },
    async waiting() {
      const groups = [
        [GROUP, REQUESTS],
        [RETRY_GROUP, RETRY],
        [RETRY_SLOW_GROUP, RETRY_SLOW],
      ] as const
      let sum = 0
      for (const [group, topic] of groups) sum += (await lag.read(group, [topic])).messages
      return sum
    },
    async dead(limit) {
      await ready()
      return (await readDeadLetters({ brokers, security }, DEAD, limit)).map(({ key: _, ...letter }) => letter)
    },
    async revive(which) {
      await ready()
      const letters = await readDeadLetters({ brokers, security }, DEAD, Number.POSITIVE_INFINITY)
      const chosen = letters.filter(({ name }) => which === 'all' || which.includes(name))
      // The letter stays until it is over: who settles it takes it away, or writes it anew. Put back twice, it has one effect.
      const headersOf = (letter: string) => ({ headers: { letter } })
      await moving.send(
        chosen.map(({ text, key }) => ({ topic: REQUESTS, key: scopeOf(text) ?? key, value: text, ...headersOf(key) })),
      )
      return chosen.length
    },
    async close() {
      await stopAll(subscriptions)
      await Promise.all([accepting.close(), moving.close(), lag.close()])
    },
  }
}

function headerOf({ headers }: StringMessage, name: string): number | undefined {
  const value = Number(headers.get(name) ?? Number.NaN)
  return Number.isSafeInteger(value) ? value : undefined
}

function letterOf(message: StringMessage): Letter {
  const traceparent = message.headers.get('traceparent')
  return {
    text: message.value ?? '',
    attempts: headerOf(message, 'attempts') ?? 0,
    firstMs: headerOf(message, 'put-off-since') ?? null,
    ...(traceparent === undefined ? {} : { traceparent }),
  }
}

function scopeOf(text: string): string | undefined {
  const request = readMessage(text)
  return typeof request === 'string' ? undefined : request.scope
}

/** Where a message goes that is not over; nowhere if it is. */
function movedOf(message: StringMessage, disposition: Disposition | undefined): KafkaMessage[] {
  const { topic, partition, offset, key, value } = message
  const attempts = `${letterOf(message).attempts + 1}`
  const origin = `${topic}:${partition}:${offset}`
  const letter = message.headers.get('letter')
  const traceparent = message.headers.get('traceparent')
  switch (disposition?.fate) {
    case 'done':
      return letter === undefined ? [] : [{ topic: DEAD, key: letter, value: undefined }]
    case 'later': {
      const { dueMs, firstMs, reason } = disposition
      const times = { 'not-before': `${dueMs}`, 'put-off-since': `${firstMs}` }
      const kept = {
        ...(letter === undefined ? {} : { letter }),
        ...(traceparent === undefined ? {} : { traceparent }),
      }
      const isSlow = dueMs - Date.now() > DELAY_MS_MAX
      return [
        { topic: isSlow ? RETRY_SLOW : RETRY, key: key ?? '', value, headers: { attempts, ...times, reason, ...kept } },
      ]
    }
    case 'dead': {
      const request = readMessage(value ?? '')
      const name = letter ?? (typeof request === 'string' ? origin : formatId('trf', request.id))
      const { reason } = disposition
      return [{ topic: DEAD, key: name, value: value ?? '', headers: { attempts, reason, origin } }]
    }
    case undefined:
      throw new Error(`nothing was said about ${origin}`)
    default:
      return disposition satisfies never
  }
}
