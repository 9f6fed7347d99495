import { randomUUID } from 'node:crypto'
import { Admin, Consumer, ListOffsetTimestamps, MessagesStreamModes, stringDeserializers } from '@platformatic/kafka'
import { type KafkaSecurity, securityOptions } from '../bus/kafkaSecurity.ts'
import type { DeadLetter } from './requestQueue.ts'

const SILENT_MS_MAX = 30_000
/** Beyond, the rest is left for the next time. */
const LETTERS_MAX = 100_000

/** A letter, and its key in the topic. */
export type KeyedLetter = DeadLetter & { readonly key: string }

/**
 * Reads a compacted topic from its first message to the last that is there now: of each key what counts; 100,000 at most. It is read as a group of its own, which is gone after
 * that.
 * @throws Error if the brokers bring nothing for half a minute
 */
export async function readDeadLetters(
  { brokers, security }: { brokers: readonly string[]; security: KafkaSecurity },
  topic: string,
  limit: number,
): Promise<KeyedLetter[]> {
  const options = {
    clientId: 'zerosum',
    bootstrapBrokers: [...brokers],
    retries: 3,
    retryDelay: 300,
    ...securityOptions(security, brokers),
  }
  const groupId = `zerosum-dlq-${randomUUID()}`
  const admin = new Admin(options)
  const consumer = new Consumer({ ...options, groupId, deserializers: stringDeserializers, maxWaitTime: 200 })
  consumer.on('error', () => {}) // whoever asks it is told
  const letters = new Map<string, KeyedLetter>()
  try {
    const [begins, ends] = await Promise.all(
      [ListOffsetTimestamps.EARLIEST, ListOffsetTimestamps.LATEST].map((timestamp) =>
        consumer.listOffsets({ topics: [topic], timestamp }),
      ),
    )
    const left = new Map<number, bigint>()
    for (const [partition, end] of (ends?.get(topic) ?? []).entries()) {
      if (end > (begins?.get(topic)?.[partition] ?? 0n)) left.set(partition, end)
    }
    if (left.size === 0) return []
    const stream = await consumer.consume({ topics: [topic], autocommit: false, mode: MessagesStreamModes.EARLIEST })
    stream.on('error', () => {}) // whoever reads it is told
    let timer = setTimeout(() => {}, 0)
    const watch = () => {
      clearTimeout(timer)
      timer = setTimeout(() => stream.destroy(new Error(`${topic} could not be read to its end`)), SILENT_MS_MAX)
    }
    try {
      watch()
      for await (const { partition, offset, key, value, headers, timestamp } of stream) {
        watch()
        letters.delete(key)
        // A tombstone has no value, though the types don't say so.
        if (value !== undefined && value !== null) {
          letters.set(key, {
            ...{ key, name: key, text: value, reason: headers.get('reason') ?? 'unknown' },
            ...{ attempts: Number(headers.get('attempts') ?? 0), origin: headers.get('origin') ?? 'unknown' },
            deadMs: Number(timestamp),
          })
        }
        if (offset + 1n >= (left.get(partition) ?? 0n)) left.delete(partition)
        if (left.size === 0 || letters.size >= LETTERS_MAX) break
      }
    } finally {
      clearTimeout(timer)
      stream.destroy()
    }
  } finally {
    await consumer.close(true).catch(() => {}) // it has read what it was for
    await admin.deleteGroups({ groups: [groupId] }).catch(() => {}) // it goes by itself after some days
    await admin.close()
  }
  return [...letters.values()].slice(0, limit)
}
