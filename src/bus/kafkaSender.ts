import { compatibilityPartitioner, ProduceAcks, Producer, stringSerializers } from '@platformatic/kafka'
import { type KafkaSecurity, securityOptions } from './kafkaSecurity.ts'

export type KafkaMessage = {
  readonly topic: string
  readonly key: string
  /** `undefined` is a tombstone: in a compacted topic it takes away what has this key. */
  readonly value: string | undefined
  readonly headers?: Record<string, string>
  /** Milliseconds since 1970; the time of sending if there is none. */
  readonly timestamp?: bigint
}

/** Sends messages, one send after the other. */
export type KafkaSender = {
  /** Ends when all replicas in sync have them. @throws what went wrong; some or all of them may have arrived */
  send(messages: readonly KafkaMessage[], signal?: AbortSignal): Promise<void>
  close(): Promise<void>
}

/** In one send at most: a broker takes a megabyte for each partition, and all may be for one. */
const BYTES_MAX = 500_000
/** What a record takes beside its value, headers included, is less. */
const OVERHEAD_BYTES = 600
const REQUEST_MS_MAX = 10_000
const SEND_MS_MAX = 60_000
const CLOSE_MS_MAX = 5_000

export type KafkaSenderOptions = {
  brokers: readonly string[]
  security?: KafkaSecurity
  clientId: string
  /** Resolves when the topics are there. */
  ready: () => Promise<void>
  /** After so long a send has failed, and may have arrived or not. */
  sendMsMax?: number
}

/**
 * A producer, idempotent, acknowledged by all replicas in sync. After a failure it is thrown away with all that it may still have had in
 * mind: no earlier send overtakes a later one.
 */
export function createKafkaSender({
  brokers,
  security = {},
  clientId,
  ready,
  sendMsMax = SEND_MS_MAX,
}: KafkaSenderOptions): KafkaSender {
  let producer: Producer<string, string, string, string> | undefined

  function open() {
    const opened = new Producer<string, string, string, string>({
      ...{ clientId, bootstrapBrokers: [...brokers], serializers: stringSerializers },
      ...securityOptions(security, brokers),
      ...{ idempotent: true, acks: ProduceAcks.ALL, partitioner: compatibilityPartitioner, autocreateTopics: false },
      ...{ maxInflights: 1, retries: 5, retryDelay: 300, requestTimeout: REQUEST_MS_MAX },
    })
    opened.on('error', () => {}) // whoever sends is told
    return opened
  }

  async function sendChunk(messages: KafkaMessage[], giveUp: AbortSignal): Promise<void> {
    giveUp.throwIfAborted()
    const used = producer ?? open()
    producer = used
    try {
      await unlessAborted(used.send({ messages: messages as Parameters<typeof used.send>[0]['messages'] }), giveUp)
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
    async send(messages, signal) {
      if (messages.length === 0) return
      const within = () => AbortSignal.any([...(signal ? [signal] : []), AbortSignal.timeout(sendMsMax)])
      await unlessAborted(ready(), within())
      for (const chunk of chunksOf(messages)) await sendChunk(chunk, within())
    },
    close: discard,
  }
}

function* chunksOf(messages: readonly KafkaMessage[]): Generator<KafkaMessage[]> {
  let chunk: KafkaMessage[] = []
  let bytes = 0
  for (const message of messages) {
    const size = Buffer.byteLength(message.value ?? '') + OVERHEAD_BYTES
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
