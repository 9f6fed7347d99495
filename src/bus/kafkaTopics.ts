import { Admin } from '@platformatic/kafka'
import { TOPICS } from './events.ts'
import { type KafkaSecurity, securityOptions } from './kafkaSecurity.ts'

export type TopicOptions = {
  brokers: readonly string[]
  security?: KafkaSecurity
  /** Of topics that are made. It must stay the same while a topic is in use: the key's partition depends on it. */
  partitions: number
  /** The ledger's events, if nothing else is given. */
  topics?: readonly TopicSettings[]
}

/** A topic, and what is not as all of them have it. */
export type TopicSettings = { readonly name: string; readonly configs: Readonly<Record<string, string>> }

/** They keep their events until somebody sets `retention.ms`, which counts from the time of the block, however late that was published. */
const EVENTS: readonly TopicSettings[] = TOPICS.map((name) => ({
  name,
  configs: { 'cleanup.policy': 'delete', 'retention.ms': '-1' },
}))

const REPLICAS = 3

/** Makes the topics that are not there, with three replicas, two of which must have what is acknowledged; or as many as there are brokers. */
export async function ensureTopics({
  brokers,
  security = {},
  partitions,
  topics = EVENTS,
}: TopicOptions): Promise<void> {
  const admin = new Admin({
    ...{ clientId: 'zerosum', bootstrapBrokers: [...brokers], retries: 3, retryDelay: 300 },
    ...securityOptions(security, brokers),
  })
  try {
    const there = new Set(await admin.listTopics())
    const missing = topics.filter(({ name }) => !there.has(name))
    if (missing.length === 0) return
    const cluster = await admin.metadata({})
    const replicas = Math.min(REPLICAS, cluster.brokers.size)
    for (const { name: topic, configs: own } of missing) {
      const settings = {
        'min.insync.replicas': `${Math.max(1, replicas - 1)}`,
        'message.timestamp.type': 'CreateTime',
        ...own,
      }
      const configs = Object.entries(settings).map(([name, value]) => ({ name, value }))
      // Another node may be faster.
      await admin.createTopics({ topics: [topic], partitions, replicas, configs }).catch(async (error: unknown) => {
        if (!(await admin.listTopics()).includes(topic)) throw error
      })
    }
  } finally {
    await admin.close()
  }
}
