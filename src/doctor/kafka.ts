import { Admin, ConfigResourceTypes } from '@platformatic/kafka'
import { TOPICS } from '../bus/events.ts'
import { type KafkaSecurity, securityOptions } from '../bus/kafkaSecurity.ts'
import { type Finding, type Notes, notesOn, reasonOf } from './finding.ts'

const ANSWER_MS_MAX = 5_000
const REPLICAS = 3
/** Kafka doesn't tell its version; from 4.0 on it takes no older FETCH than this (KIP-896). */
const FETCH = 1
const FETCH_VERSION_MIN = 4

export type KafkaAsked = {
  readonly brokers: readonly string[]
  readonly security?: KafkaSecurity
  readonly partitions: number
}

type Topic = Awaited<ReturnType<Admin['metadata']>>['topics'] extends Map<string, infer T> ? T : never

/** The brokers, and the topics of the ledger's events. */
export async function checkKafka({ brokers, security = {}, partitions }: KafkaAsked): Promise<Finding[]> {
  const notes = notesOn('kafka')
  const admin = new Admin({
    ...{ clientId: 'zerosum-doctor', bootstrapBrokers: [...brokers], retries: 1, retryDelay: 200 },
    ...{ connectTimeout: ANSWER_MS_MAX, requestTimeout: ANSWER_MS_MAX, timeout: ANSWER_MS_MAX },
    ...securityOptions(security, brokers),
  })
  admin.on('error', () => {}) // whoever asks is told
  try {
    await look()
  } catch (error) {
    notes.fail(
      `the brokers do not answer: ${reasonOf(error)}`,
      'start them, or look at KAFKA_BROKERS. Posting goes on; events wait in the databases until they are there',
    )
  } finally {
    await admin.close().catch(() => {}) // what was found is said already
  }
  return [...notes.findings]

  async function look(): Promise<void> {
    const cluster = await admin.metadata({})
    const count = cluster.brokers.size
    if (count >= REPLICAS) notes.ok(`${count} brokers answer`)
    else
      notes.warn(`${count} of them answer`, `run ${REPLICAS} brokers: events are lost with the only one that has them`)
    const fetch = (await admin.listApis()).find(({ apiKey }) => apiKey === FETCH)
    if ((fetch?.minVersion ?? 0) >= FETCH_VERSION_MIN) notes.ok('version 4.0 or newer')
    else notes.warn('a version before 4.0', 'take Kafka 4, on which this is tested')
    const there = new Set(await admin.listTopics())
    for (const name of TOPICS.filter((topic) => !there.has(topic))) {
      notes.warn(
        `the topic ${name} is not there`,
        'a node makes it when it starts; or its name is taken away by an ACL',
      )
    }
    const topics = TOPICS.filter((topic) => there.has(topic))
    if (topics.length === 0) return
    const known = (await admin.metadata({ topics: [...topics], forceUpdate: true })).topics
    const configs = await admin.describeConfigs({
      resources: topics.map((resourceName) => ({ resourceType: ConfigResourceTypes.TOPIC, resourceName })),
    })
    for (const name of topics) {
      const topic = known.get(name)
      const config = configs.find(({ resourceName }) => resourceName === name)?.configs ?? []
      const inSyncMin = Number(config.find((each) => each.name === 'min.insync.replicas')?.value ?? 1)
      if (topic) lookAt(name, topic, { brokers: count, partitions, inSyncMin }, notes)
    }
  }
}

function lookAt(
  name: string,
  { partitions, partitionsCount }: Topic,
  asked: { brokers: number; partitions: number; inSyncMin: number },
  notes: Notes,
): void {
  const { inSyncMin } = asked
  const replicas = Math.min(...partitions.map((each) => each.replicas.length))
  const headless = partitions.filter(({ leader }) => leader < 0).length
  const short = partitions.filter(({ isr }) => isr.length < inSyncMin).length
  const late = partitions.filter((each) => each.isr.length < each.replicas.length).length
  const says = `${name}: ${partitionsCount} partitions, ${replicas} replicas, min.insync.replicas ${inSyncMin}`
  const start = 'start the brokers that are away'
  if (headless > 0) notes.fail(`${name}: ${headless} partitions have no leader`, `${start}: events wait meanwhile`)
  else if (short > 0)
    notes.fail(`${name}: ${short} partitions have too few replicas in sync`, `${start}: events wait meanwhile`)
  else if (late > 0) notes.warn(`${name}: replicas of ${late} partitions are behind or away`, start)
  else notes.ok(says)
  if (partitionsCount !== asked.partitions) {
    notes.warn(
      `${name} has ${partitionsCount} partitions, KAFKA_PARTITIONS says ${asked.partitions}`,
      `set KAFKA_PARTITIONS=${partitionsCount}; never change the topic while it is in use`,
    )
  }
  if (asked.brokers >= REPLICAS && replicas < REPLICAS) {
    notes.warn(`${name} has ${replicas} replicas`, `give it ${REPLICAS}, by kafka-reassign-partitions`)
  }
  if (replicas > 1 && inSyncMin < 2) {
    notes.warn(
      `${name}: one replica in sync is enough for an acknowledgement`,
      'set min.insync.replicas=2 for the topic',
    )
  }
}
