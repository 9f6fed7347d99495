import { Admin } from '@platformatic/kafka'
import { TOPICS } from './events.ts'
import { type KafkaSecurity, securityOptions } from './kafkaSecurity.ts'

export type TopicOptions = {
  brokers: readonly string[]
  security?: KafkaSecurity
  /** Of topics that are made. It must stay the same while a topic is in use: the key's partition depends on it. */
  partitions: number
}

const REPLICAS = 3

/**
 * Makes the topics that are not there, with three replicas, two of which must have what is acknowledged; or as many as there are brokers.
 * They keep their events until somebody sets `retention.ms`, which counts from the time of the block, however late that was published.
 */
export async function ensureTopics({ brokers, security = {}, partitions }: TopicOptions): Promise<void> {
  const admin = new Admin({
    ...{ clientId: 'zerosum', bootstrapBrokers: [...brokers], retries: 3, retryDelay: 300 },
    ...securityOptions(security, brokers),
  })
  try {
    const there = new Set(await admin.listTopics())
    const missing = TOPICS.filter((topic) => !there.has(topic))
    if (missing.length === 0) return
    const cluster = await admin.metadata({})
    const replicas = Math.min(REPLICAS, cluster.brokers.size)
    const configs = [
      { name: 'min.insync.replicas', value: `${Math.max(1, replicas - 1)}` },
      { name: 'cleanup.policy', value: 'delete' },
      { name: 'retention.ms', value: '-1' },
      { name: 'message.timestamp.type', value: 'CreateTime' },
    ]
    for (const topic of missing) {
      // Another node may be faster.
      await admin.createTopics({ topics: [topic], partitions, replicas, configs }).catch(async (error: unknown) => {
        if (!(await admin.listTopics()).includes(topic)) throw error
      })
    }
  } finally {
    await admin.close()
  }
}
