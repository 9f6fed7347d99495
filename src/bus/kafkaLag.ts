import { Admin, ListOffsetTimestamps } from '@platformatic/kafka'
import { type KafkaSecurity, securityOptions } from './kafkaSecurity.ts'

/** How far a consumer group is behind the ends of its topics, at one time. */
export type KafkaLag = {
  /** Messages that it has not recorded as done. */
  readonly messages: number
  /** Consumers in the group; 0: nobody works for it. */
  readonly members: number
  /** Whether anybody works for it, or has recorded something as done. */
  readonly isKnown: boolean
  /** Offsets by `topic:partition`: the end, and what comes next for the group. */
  readonly ends: ReadonlyMap<string, bigint>
  readonly next: ReadonlyMap<string, bigint>
}

const REQUEST_MS_MAX = 2_000
const CLOSE_MS_MAX = 2_000

/** Reads how far groups are behind, over one connection that is made when it is first asked, and anew after a failure. */
export function createKafkaLag({ brokers, security }: { brokers: readonly string[]; security: KafkaSecurity }) {
  let admin: Admin | undefined

  function open(): Admin {
    const times = { requestTimeout: REQUEST_MS_MAX, connectTimeout: REQUEST_MS_MAX, retries: 1, retryDelay: 100 }
    const opened = new Admin({
      ...{ clientId: 'zerosum-lag', bootstrapBrokers: [...brokers], ...times },
      ...securityOptions(security, brokers),
    })
    opened.on('error', () => {}) // whoever asks it is told
    return opened
  }

  async function close(): Promise<void> {
    const old = admin
    admin = undefined
    const timer = new Promise<void>((done) => setTimeout(done, CLOSE_MS_MAX).unref())
    await Promise.race([old?.close(), timer]).catch(() => {})
  }

  return {
    /** @throws if the brokers do not answer in time */
    async read(groupId: string, topics: readonly string[]): Promise<KafkaLag> {
      admin ??= open()
      try {
        return await readLag(admin, groupId, topics)
      } catch (error) {
        await close()
        throw error
      }
    },
    close,
  }
}

async function readLag(admin: Admin, groupId: string, names: readonly string[]): Promise<KafkaLag> {
  const { topics } = await admin.metadata({ topics: [...names] })
  const ask = async (timestamp: bigint) => {
    const listed = await admin.listOffsets({
      topics: [...topics].map(([name, { partitionsCount }]) => ({
        name,
        partitions: Array.from({ length: partitionsCount }, (_, partitionIndex) => ({ partitionIndex, timestamp })),
      })),
    })
    return new Map(
      listed.flatMap(({ name, partitions }) =>
        partitions.map(({ partitionIndex, offset }) => [`${name}:${partitionIndex}`, offset] as const),
      ),
    )
  }
  const [begins, groups, described] = await Promise.all([
    ask(ListOffsetTimestamps.EARLIEST),
    admin.listConsumerGroupOffsets({ groups: [groupId] }),
    admin.describeGroups({ groups: [groupId] }),
  ])
  const committed = new Map(
    (groups.find((group) => group.groupId === groupId)?.topics ?? []).flatMap(({ name, partitions }) =>
      partitions.map(({ partitionIndex, committedOffset }) => [`${name}:${partitionIndex}`, committedOffset] as const),
    ),
  )
  // The ends last: so what is left is never taken for less than it is.
  const ends = await ask(ListOffsetTimestamps.LATEST)
  const next = new Map<string, bigint>()
  let messages = 0n
  for (const [name, end] of ends) {
    const [begin, after] = [begins.get(name) ?? 0n, committed.get(name) ?? -1n]
    const from = after > begin ? after : begin
    next.set(name, from)
    if (end > from) messages += end - from
  }
  const members = described.get(groupId)?.members.size ?? 0
  const isKnown = members > 0 || [...committed.values()].some((offset) => offset >= 0n)
  return { messages: Number(messages), members, isKnown, ends, next }
}
