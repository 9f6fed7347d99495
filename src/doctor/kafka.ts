import { Admin, ConfigResourceTypes } from '@platformatic/kafka'
import { DEAD, QUEUE_TOPICS, REQUESTS } from '../async/kafkaQueue.ts'
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

const NAMES = [...TOPICS, ...QUEUE_TOPICS.map(({ name }) => name)]
/** Requests are put off for a day, and nodes may be away for some. */
const KEPT_DAYS_MIN = 3
const DAY_MS = 24 * 3600 * 1000

/** The brokers, and the topics of the ledger's events and of the requests that wait. */
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
    for (const name of NAMES.filter((topic) => !there.has(topic))) {
      notes.warn(
        `the topic ${name} is not there`,
        'a node makes it when it starts; or its name is taken away by an ACL',
      )
    }
    const topics = NAMES.filter((topic) => there.has(topic))
    if (topics.length === 0) return
    const known = (await admin.metadata({ topics: [...topics], forceUpdate: true })).topics
    const configs = await admin.describeConfigs({
      resources: topics.map((resourceName) => ({ resourceType: ConfigResourceTypes.TOPIC, resourceName })),
    })
    for (const name of topics) {
      const topic = known.get(name)
      const config = configs.find(({ resourceName }) => resourceName === name)?.configs ?? []
      const settingOf = (setting: string) => config.find((each) => each.name === setting)?.value ?? undefined
      const inSyncMin = Number(settingOf('min.insync.replicas') ?? 1)
      if (topic) lookAt(name, topic, { brokers: count, partitions, inSyncMin }, notes)
      if (QUEUE_TOPICS.some((one) => one.name === name)) lookAtQueue(name, settingOf, notes)
    }
  }
}

/** Whether a topic of the queue keeps what it must. */
function lookAtQueue(name: string, settingOf: (setting: string) => string | undefined, notes: Notes): void {
  const policies = (settingOf('cleanup.policy') ?? '').split(',')
  if (name === DEAD) {
    if (!policies.includes('delete')) return
    notes.fail(`${name} forgets letters (cleanup.policy)`, 'set cleanup.policy=compact for the topic')
    return
  }
  // The key is the payer: of all that a payer asked only the last would stay.
  if (policies.includes('compact')) {
    notes.fail(`${name} is compacted: requests are lost`, 'set cleanup.policy=delete for the topic')
  }
  const keptDays = Number(settingOf('retention.ms') ?? -1) / DAY_MS
  if (keptDays >= 0 && keptDays < KEPT_DAYS_MIN) {
    const what = name === REQUESTS ? 'requests' : 'requests that were put off'
    notes.warn(
      `${name} keeps ${what} for ${keptDays.toFixed(1)} days; what is not posted by then is lost`,
      `set retention.ms for the topic to ${KEPT_DAYS_MIN} days or more`,
    )
  }
  if (Number(settingOf('retention.bytes') ?? -1) >= 0) {
    notes.warn(`${name} keeps so many bytes only (retention.bytes): a burst may be lost`, 'set it to -1 for the topic')
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
