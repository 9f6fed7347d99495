import { compatibilityPartitioner, ProduceAcks, Producer, stringSerializers } from '@platformatic/kafka'
import { type EventMessage, messageOf } from './cloudEvents.ts'
import type { LedgerEvent } from './events.ts'
import { type KafkaSecurity, securityOptions } from './kafkaSecurity.ts'
import type { Publisher } from './relay.ts'

/** In one send at most: a broker takes a megabyte for each partition, and all may be for one. */
const BYTES_MAX = 500_000
/** What a record takes beside its value, headers included, is less. */
const OVERHEAD_BYTES = 600
const REQUEST_MS_MAX = 10_000
const SEND_MS_MAX = 60_000
const CLOSE_MS_MAX = 5_000

/**
 * Sends events to Kafka, one send after the other, so that no later one can overtake an earlier one: idempotent, acknowledged by all
 * replicas in sync. After a failure the producer is thrown away with all that it may still have had in mind.
 * @param ready resolves when the topics are there
 */
export function createKafkaPublisher(
  { brokers, security }: { brokers: readonly string[]; security: KafkaSecurity },
  ready: () => Promise<void>,
): Publisher {
  let producer: Producer<string, string, string, string> | undefined

  function open() {
    const opened = new Producer<string, string, string, string>({
      ...{ clientId: 'zerosum-relay', bootstrapBrokers: [...brokers], serializers: stringSerializers },
      ...securityOptions(security, brokers),
      ...{ idempotent: true, acks: ProduceAcks.ALL, partitioner: compatibilityPartitioner, autocreateTopics: false },
      ...{ maxInflights: 1, retries: 5, retryDelay: 300, requestTimeout: REQUEST_MS_MAX },
    })
    opened.on('error', () => {}) // whoever sends is told
    return opened
  }

  async function send(messages: EventMessage[], signal: AbortSignal): Promise<void> {
    const giveUp = AbortSignal.any([signal, AbortSignal.timeout(SEND_MS_MAX)])
    giveUp.throwIfAborted()
    const used = producer ?? open()
    producer = used
    try {
      await unlessAborted(used.send({ messages }), giveUp)
    } catch (error) {
      await discard()
      throw error
    }
  }

  async function discard(): Promise<void> {
    const old = producer
    producer = undefined
    if (!old) return
    await unlessAborted(old.close(true), AbortSignal.timeout(CLOSE_MS_MAX)).catch(() => {})
  }

  return {
    async publish(events, signal) {
      if (events.length === 0) return
      await unlessAborted(ready(), signal)
      for (const chunk of chunksOf(events)) await send(chunk, signal)
    },
    close: discard,
  }
}

function* chunksOf(events: readonly LedgerEvent[]): Generator<EventMessage[]> {
  let chunk: EventMessage[] = []
  let bytes = 0
  for (const event of events) {
    const message = messageOf(event)
    const size = Buffer.byteLength(message.value) + OVERHEAD_BYTES
    if (chunk.length > 0 && bytes + size > BYTES_MAX) {
      yield chunk
      chunk = []
      bytes = 0
    }
    chunk.push(message)
    bytes += size
  }
  if (chunk.length > 0) yield chunk
}

async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>()
  const abort = () => reject(signal.reason)
  if (signal.aborted) abort()
  signal.addEventListener('abort', abort, { once: true })
  try {
    return await Promise.race([work, aborted])
  } finally {
    signal.removeEventListener('abort', abort)
    // Whichever lost is not waited for.
    aborted.catch(() => {})
    work.catch(() => {})
  }
}
