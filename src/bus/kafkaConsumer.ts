import { setTimeout as sleep } from 'node:timers/promises'
import {
  Consumer,
  type Message,
  type MessagesStream,
  MessagesStreamFallbackModes,
  MessagesStreamModes,
  stringDeserializers,
} from '@platformatic/kafka'
import { BATCH_MAX, type Subscription } from './bus.ts'
import { backoffMs } from './follow.ts'
import { createOrder, isAssigned, nameOf } from './kafkaOrder.ts'
import { type KafkaSecurity, securityOptions } from './kafkaSecurity.ts'
import { watchOutage } from './outage.ts'

export type StringMessage = Message<string, string, string, string>
type StringStream = MessagesStream<string, string, string, string>
type StringConsumer = Consumer<string, string, string, string>

/** What a group takes, and how. */
export type KafkaGroup = {
  readonly groupId: string
  readonly topics: readonly string[]
  /**
   * Takes a batch; progress is recorded after it returned. When it throws, what of it is still this member's comes again, after a pause that
   * grows; nothing is skipped.
   * @param signal aborted when this member stops, or another takes its place: what was not recorded comes again
   * @param partitions how many each topic has
   */
  readonly handle: (
    messages: readonly StringMessage[],
    signal: AbortSignal,
    partitions: ReadonlyMap<string, number>,
  ) => Promise<void>
  /** Told what was removed from the topics before the group had it. */
  readonly onLost: (lost: string) => void
  /** Batches that are handled at a time; 1 if nothing is said. Progress is recorded in their order. */
  readonly inFlightMax?: number
}

export type KafkaConsumerOptions = {
  /** `host:port` of some brokers. */
  brokers: readonly string[]
  security: KafkaSecurity
  /** How long a node that vanished is missed; the brokers have a least value, 6 s if nobody changed it. */
  sessionMs?: number
  /** Resolves when the topics are there. */
  ready: () => Promise<void>
  onTrouble: (error: unknown) => void
  /** Told that trouble is over. */
  onWell?: ((message: string) => void) | undefined
}

const SESSION_MS = 10_000
const FETCH_WAIT_MS = 500
const FETCH_BYTES_MAX = 8_000_000
const PARTITION_BYTES_MAX = 1_000_000
const CLOSE_MS_MAX = 10_000
const COMMIT_FAILURES_MAX = 5

/** A member of a group. When anything goes wrong with it, another takes its place and begins where progress was recorded. */
export function consumeKafka(
  { groupId, topics, handle, onLost, inFlightMax = 1 }: KafkaGroup,
  { brokers, security, sessionMs = SESSION_MS, ready, onTrouble, onWell }: KafkaConsumerOptions,
): Subscription {
  const stopping = new AbortController()
  const outage = watchOutage({ name: `the group ${groupId}`, onTrouble, onWell })
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
        outage.failed(error)
        await pause(backoffMs(failures++))
      }
    }
  }

  async function session(onProgress: () => void): Promise<void> {
    await ready()
    const over = new AbortController()
    const ended = AbortSignal.any([signal, over.signal])
    const consumer: StringConsumer = new Consumer({
      ...{ groupId, clientId: 'zerosum', bootstrapBrokers: [...brokers], deserializers: stringDeserializers },
      ...securityOptions(security, brokers),
      ...{ sessionTimeout: sessionMs, heartbeatInterval: Math.floor(sessionMs / 5), rebalanceTimeout: sessionMs },
      ...{ maxWaitTime: FETCH_WAIT_MS, maxBytes: FETCH_BYTES_MAX, maxBytesPerPartition: PARTITION_BYTES_MAX },
      ...{ highWaterMark: BATCH_MAX, retries: 3, retryDelay: 300, requestTimeout: 2 * sessionMs + FETCH_WAIT_MS },
    })
    consumer.on('error', () => {}) // whoever asks it is told
    /** Since when a partition has been this member's without a break: what was read before is not for it to record. */
    const tenures = new Map<string, symbol>()
    let stream: StringStream | undefined
    let memberId: string | null = null
    consumer.on('consumer:group:join', () => {
      // Whoever is forgotten comes back by another name. What it had may have been another's meanwhile, though it looks as if it never went.
      if (memberId !== null && memberId !== consumer.memberId) {
        tenures.clear()
        stream?.destroy(new Error('the brokers had forgotten this member of the group'))
      }
      memberId = consumer.memberId
      const mine = new Set(
        (consumer.assignments ?? []).flatMap(({ topic, partitions }) => partitions.map((p) => `${topic}:${p}`)),
      )
      for (const name of tenures.keys()) if (!mine.has(name)) tenures.delete(name)
      for (const name of mine) if (!tenures.has(name)) tenures.set(name, Symbol(name))
    })
    const end = () => stream?.destroy()
    /** Batches under way, in order; `last` ends when all of them are recorded, or it is clear that they won't be. */
    const underWay: Promise<boolean>[] = []
    let last = Promise.resolve(true)
    let partitions: ReadonlyMap<string, number> = new Map()
    try {
      stream = await consumer.consume({
        ...{ topics: [...topics], autocommit: false, mode: MessagesStreamModes.COMMITTED },
        fallbackMode: MessagesStreamFallbackModes.EARLIEST,
      })
      stream.on('error', () => over.abort()) // whoever reads it is told
      signal.addEventListener('abort', end)
      if (signal.aborted) return
      const known = await consumer.metadata({ topics: [...topics] })
      partitions = new Map([...known.topics].map(([name, { partitionsCount }]) => [name, partitionsCount]))
      const inOrder = createOrder(consumer, topics, onLost)
      for await (const batch of batchesOf(stream)) {
        const messages = await inOrder(batch)
        if (messages.length === 0) continue
        last = recorded(messages, last)
        underWay.push(last)
        if (underWay.length >= inFlightMax && !(await underWay.shift())) return
      }
    } finally {
      signal.removeEventListener('abort', end)
      end()
      over.abort()
      await last
      // Leaves the group, so that others need not wait until it is missed.
      await Promise.race([consumer.close(true), sleep(CLOSE_MS_MAX, undefined, { ref: false })]).catch(() => {})
    }

    /** Handles a batch, and records it after those before it. @returns false if it ended before that */
    async function recorded(messages: readonly StringMessage[], before: Promise<boolean>): Promise<boolean> {
      const begun = new Map(messages.map((one) => [nameOf(one), tenures.get(nameOf(one))]))
      const done = await handled(messages, consumer, partitions, ended)
      if (!(await before) || !done) return false
      const isMine = (one: Pick<StringMessage, 'topic' | 'partition'>) =>
        tenures.get(nameOf(one)) === begun.get(nameOf(one))
      if (!(await commit(consumer, done, isMine))) {
        // Nothing more may come by which that would be noticed.
        end()
        over.abort()
        return false
      }
      onProgress()
      outage.worked()
      return true
    }
  }

  /** Tries until it goes through. @returns what did; `undefined` if this ends meanwhile */
  async function handled(
    messages: readonly StringMessage[],
    consumer: StringConsumer,
    partitions: ReadonlyMap<string, number>,
    ended: AbortSignal,
  ): Promise<readonly StringMessage[] | undefined> {
    for (let failures = 0; !ended.aborted; failures++) {
      // What went to another member meanwhile is left to it.
      const mine = failures === 0 ? messages : messages.filter((message) => isAssigned(consumer, message))
      if (mine.length === 0) return mine
      try {
        await handle(mine, ended, partitions)
        return mine
      } catch (error) {
        if (ended.aborted) return undefined
        outage.failed(error)
        await sleep(backoffMs(failures), undefined, { signal: ended }).catch(() => {}) // the loop looks
      }
    }
    return undefined
  }

  /**
   * Records progress with what is still this member's. Tried again where that fails, as while the brokers are away: if nothing more comes, nothing
   * else would record it.
   * @returns false if it is in vain: then another member has to begin where progress was recorded
   */
  async function commit(
    consumer: StringConsumer,
    messages: readonly StringMessage[],
    isMine: (message: Pick<StringMessage, 'topic' | 'partition'>) => boolean,
  ): Promise<boolean> {
    for (let failures = 0; ; failures++) {
      const mine = messages.filter((one) => isMine(one) && isAssigned(consumer, one))
      const last = new Map(mine.map((one) => [nameOf(one), one]))
      if (last.size === 0) return true
      const offsets = [...last.values()].map(({ topic, partition, offset, leaderEpoch }) => ({
        ...{ topic, partition, offset: offset + 1n, leaderEpoch },
      }))
      // The client joins by itself when the member was forgotten, or others come, and then records the same: what is not this member's any more must
      // not be among it.
      const leaveOut = () => {
        offsets.splice(0, offsets.length, ...offsets.filter(isMine))
      }
      consumer.on('consumer:group:join', leaveOut)
      try {
        await consumer.commit({ offsets })
        return true
      } catch (error) {
        outage.failed(error)
        if (signal.aborted || failures === COMMIT_FAILURES_MAX) return false
      } finally {
        consumer.off('consumer:group:join', leaveOut)
      }
      await pause(backoffMs(failures))
    }
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
