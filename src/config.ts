import { hostname } from 'node:os'

/** All that can be set from outside; see README, "Settings". */
export type Config = {
  readonly host: string
  readonly port: number
  /** Connection strings of the shards, by their numbers; empty means an embedded PostgreSQL. */
  readonly shardUrls: readonly string[]
  /** Of a Redis that all nodes share: it keeps balances, and by it nodes tell each other what changed. Without one the databases do. */
  readonly redisUrl: string | undefined
  /** `host:port` of Kafka brokers; empty means that events stay in the shards' databases. */
  readonly kafkaBrokers: readonly string[]
  /** Partitions of the topics that are made. */
  readonly kafkaPartitions: number
  /** The consumer groups that this node works for. */
  readonly consumers: readonly Consumer[]
  readonly dataDir: string
  /** The key of the demo tenant, if it was chosen. */
  readonly demoKey: string | undefined
  /** Webhooks may go to private networks, over plain HTTP too. */
  readonly webhooksAllowPrivate: boolean
  /** What a tenant may ask of this node, a second; `undefined` is as much as it can take. */
  readonly tenantRate: number | undefined
  /** A node that has no rest and is later than that with what it has to do refuses some of what comes, in milliseconds. */
  readonly lagMsMax: number
  /** Names this node in the blocks that it writes. */
  readonly writer: string
}

/** The consumer groups that there are. */
export const CONSUMERS = ['cache', 'projections', 'webhooks'] as const
export type Consumer = (typeof CONSUMERS)[number]
/** Projections cost a busy node some of what it could post: who wants them asks for them. */
const DEFAULT_CONSUMERS = 'cache,webhooks'

/** What is wrong with the environment, all of it at once. */
export class ConfigError extends Error {}

const KAFKA_PARTITIONS = 12
const KAFKA_PARTITIONS_MAX = 1_000
const TENANT_RATE_MAX = 1_000_000
const LAG_MS_MAX = 200

/**
 * Reads the settings. The only reader of `process.env`.
 * @throws ConfigError with one line for each mistake
 */
export function readConfig(env: NodeJS.ProcessEnv = process.env): Config {
  const mistakes: string[] = []
  const port = Number(env['PORT'] ?? 3000)
  if (!Number.isInteger(port) || port < 0 || port > 65_535) {
    mistakes.push(`PORT is "${env['PORT']}": give a number from 0 to 65535`)
  }
  const shardUrls = (env['ZEROSUM_SHARDS'] ?? '').split(',').map((url) => url.trim())
  const isEmbedded = shardUrls.length === 1 && shardUrls[0] === ''
  if (!isEmbedded) {
    for (const [i, url] of shardUrls.entries()) {
      // The URL itself is not shown: it may hold a password.
      if (!isPostgresUrl(url)) mistakes.push(`ZEROSUM_SHARDS, item ${i + 1} is not a postgres://user@host/database URL`)
    }
  }
  const kafkaBrokers = listOf(env['KAFKA_BROKERS'])
  for (const [i, broker] of kafkaBrokers.entries()) {
    if (!isHostAndPort(broker)) mistakes.push(`KAFKA_BROKERS, item ${i + 1} is "${broker}": give host:port`)
  }
  const kafkaPartitions = Number(env['KAFKA_PARTITIONS'] || KAFKA_PARTITIONS)
  if (!Number.isInteger(kafkaPartitions) || kafkaPartitions < 1 || kafkaPartitions > KAFKA_PARTITIONS_MAX) {
    mistakes.push(`KAFKA_PARTITIONS is "${env['KAFKA_PARTITIONS']}": give a number from 1 to ${KAFKA_PARTITIONS_MAX}`)
  }
  const consumers = env['ZEROSUM_CONSUMERS'] === 'none' ? [] : listOf(env['ZEROSUM_CONSUMERS'] || DEFAULT_CONSUMERS)
  const unknown = consumers.find((name) => !isConsumer(name))
  if (unknown !== undefined) {
    mistakes.push(`ZEROSUM_CONSUMERS has "${unknown}": list some of ${CONSUMERS.join(', ')}, or say none`)
  }
  const redisUrl = env['REDIS_URL'] || undefined
  // As above: it may hold a password.
  if (redisUrl !== undefined && !isRedisUrl(redisUrl))
    mistakes.push('REDIS_URL is not a redis://host:port or rediss:// URL')
  const demoKey = env['ZEROSUM_DEMO_KEY'] || undefined
  if (demoKey !== undefined && !/^zs_(test|live)_[A-Za-z0-9]{16,64}$/.test(demoKey)) {
    mistakes.push('ZEROSUM_DEMO_KEY must be zs_test_ followed by 16 to 64 letters and digits')
  }
  const allowPrivate = env['ZEROSUM_WEBHOOKS_ALLOW_PRIVATE'] || 'false'
  if (!['true', 'false'].includes(allowPrivate)) {
    mistakes.push(`ZEROSUM_WEBHOOKS_ALLOW_PRIVATE is "${allowPrivate}": say true or false`)
  }
  const tenantRate = env['ZEROSUM_TENANT_RATE'] ? Number(env['ZEROSUM_TENANT_RATE']) : undefined
  if (tenantRate !== undefined && !(tenantRate > 0 && tenantRate <= TENANT_RATE_MAX)) {
    mistakes.push(
      `ZEROSUM_TENANT_RATE is "${env['ZEROSUM_TENANT_RATE']}": give requests a second, up to ${TENANT_RATE_MAX}`,
    )
  }
  const lagMsMax = Number(env['ZEROSUM_LAG_MS_MAX'] || LAG_MS_MAX)
  if (!(lagMsMax >= 10 && lagMsMax <= 60_000)) {
    mistakes.push(`ZEROSUM_LAG_MS_MAX is "${env['ZEROSUM_LAG_MS_MAX']}": give milliseconds from 10 to 60000`)
  }
  if (mistakes.length > 0) throw new ConfigError(`the settings are wrong:\n- ${mistakes.join('\n- ')}`)
  return {
    host: env['HOST'] || '127.0.0.1',
    port,
    shardUrls: isEmbedded ? [] : shardUrls,
    ...{ redisUrl, kafkaBrokers, kafkaPartitions },
    consumers: consumers.filter(isConsumer),
    dataDir: env['ZEROSUM_DATA_DIR'] || './.zerosum',
    demoKey,
    webhooksAllowPrivate: allowPrivate === 'true',
    ...{ tenantRate, lagMsMax },
    writer: `${hostname()}:${process.pid}`,
  }
}

function isPostgresUrl(text: string): boolean {
  return URL.canParse(text) && /^postgres(ql)?:$/.test(new URL(text).protocol)
}

function isConsumer(name: string): name is Consumer {
  return CONSUMERS.some((consumer) => consumer === name)
}

function isRedisUrl(text: string): boolean {
  return URL.canParse(text) && /^rediss?:$/.test(new URL(text).protocol)
}

function listOf(text = ''): string[] {
  return text
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '')
}

function isHostAndPort(text: string): boolean {
  const [, port] = /^(?:\[[0-9a-fA-F:]+\]|[^:/\s@]+):(\d{1,5})$/.exec(text) ?? []
  return port !== undefined && Number(port) > 0 && Number(port) < 65_536
}
