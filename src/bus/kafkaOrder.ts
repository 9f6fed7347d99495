import { type Consumer, ListOffsetTimestamps } from '@platformatic/kafka'

/** As much of a consumer as says what is its and what comes next. */
export type OrderedConsumer = Pick<
  Consumer<string, string, string, string>,
  'assignments' | 'listOffsets' | 'listCommittedOffsets'
> & { on(event: 'consumer:group:join', listener: () => void): unknown }

type Placed = { readonly topic: string; readonly partition: number; readonly offset: bigint }

export const nameOf = ({ topic, partition }: Pick<Placed, 'topic' | 'partition'>) => `${topic}:${partition}`

/** Whether a message's partition is this member's now. */
export function isAssigned(
  { assignments }: Pick<OrderedConsumer, 'assignments'>,
  { topic, partition }: Placed,
): boolean {
  return assignments?.some((one) => one.topic === topic && one.partitions.includes(partition)) ?? false
}

/**
 * Watches that nothing is missing of what a consumer's stream brings. Around a rebalance a stream may bring messages of partitions that are another member's now, the same
 * ones twice, or go on behind some that it never brought. The first are left out, so are the second; of the last it is better to begin anew.
 * @param onLost told of events that the brokers have removed before they were recorded as done
 * @returns a function that leaves of a batch what is next. @throws Error if something is missing
 */
export function createOrder(consumer: OrderedConsumer, topics: readonly string[], onLost: (lost: string) => void) {
  /** The offsets that come next. */
  const next = new Map<string, bigint>()
  consumer.on('consumer:group:join', () => {
    const mine = new Set(
      (consumer.assignments ?? []).flatMap(({ topic, partitions }) => partitions.map((p) => `${topic}:${p}`)),
    )
    for (const name of next.keys()) if (!mine.has(name)) next.delete(name)
  })

  return async <T extends Placed>(batch: readonly T[]): Promise<T[]> => {
    const mine = batch.filter((message) => isAssigned(consumer, message))
    if (mine.some((message) => !next.has(nameOf(message)))) {
      const first = await firstOffsets(consumer, topics, onLost)
      for (const [name, offset] of first) if (!next.has(name)) next.set(name, offset)
    }
    return mine.filter((message) => {
      const expected = next.get(nameOf(message))
      if (expected === undefined || message.offset < expected) return false
      if (message.offset > expected) {
        throw new Error(`${nameOf(message)} went on at ${message.offset}, though ${expected} comes next`)
      }
      next.set(nameOf(message), message.offset + 1n)
      return true
    })
  }
}

/** For the partitions that are assigned: the offset after the one that was recorded, or the first that there is. */
async function firstOffsets(
  consumer: OrderedConsumer,
  topics: readonly string[],
  onLost: (lost: string) => void,
): Promise<Map<string, bigint>> {
  const assignments = (consumer.assignments ?? []).map(({ topic, partitions }) => ({ topic, partitions }))
  const [earliest, committed] = await Promise.all([
    consumer.listOffsets({ topics: [...topics], timestamp: ListOffsetTimestamps.EARLIEST }),
    consumer.listCommittedOffsets({ topics: assignments }),
  ])
  const first = new Map<string, bigint>()
  for (const { topic, partitions } of assignments) {
    for (const partition of partitions) {
      const begin = earliest.get(topic)?.[partition] ?? 0n
      const after = committed.get(topic)?.[partition] ?? -1n
      if (begin > after && begin > 0n)
        onLost(`messages ${after > 0n ? after : 0n} to ${begin - 1n} of ${topic}:${partition}`)
      first.set(`${topic}:${partition}`, after > begin ? after : begin)
    }
  }
  return first
}
