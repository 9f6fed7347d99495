import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import packageJson from '../package.json' with { type: 'json' }
import type { KafkaSecurity } from './bus/kafkaSecurity.ts'
import { SASL_MECHANISMS } from './bus/saslMechanisms.ts'
import { LOG_FORMS, LOG_LEVELS, type LogForm, type LogLevel } from './observe/log.ts'
import { SAMPLERS, type Sampling } from './observe/sampling.ts'
import { securedUrl } from './postgres/tls.ts'
import type { RedisServer } from './redis/connection.ts'
import { readText, readTls, type Tls, type TlsFiles } from './tls/files.ts'

/** All that can be set from outside; see README, "Settings". */
export type Config = {
  readonly host: string
  readonly port: number
  /** Files with the node's certificate and key, and the CA of its clients' certificates; without them the node speaks plain HTTP. */
  readonly tlsFiles: TlsFiles | undefined
  /** Where probes and metrics are answered in plain HTTP; only beside TLS. */
  readonly probePort: number | undefined
  /** Open connections, of all and of one address. */
  readonly connectionsMax: number
  readonly connectionsPerAddressMax: number | undefined
  /** Connection strings of the shards, by their numbers; empty means an embedded PostgreSQL. */
  readonly shardUrls: readonly string[]
  /** Of a Redis that all nodes share: it keeps balances, and by it nodes tell each other what changed. Without one the databases do. */
  readonly redis: RedisServer | undefined
  /** `host:port` of Kafka brokers; empty means that events stay in the shards' databases. */
  readonly kafkaBrokers: readonly string[]
  readonly kafkaSecurity: KafkaSecurity
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
  readonly ageMsMax: number
  /** How long a node that stops says that it is not ready, and answers all the same. */
  readonly drainMs: number
  /** How long a node that starts waits for databases that do not answer. */
  readonly startWaitMs: number
  /** Whose traces are kept; `undefined` while tracing is off. Where they go is read by the SDK (observe/tracing.ts). */
  readonly tracing: Sampling | undefined
  /** How log lines look, and which are written. */
  readonly log: { readonly form: LogForm; readonly level: LogLevel }
  /** Names this node in the blocks that it writes. */
  readonly writer: string
}

/** The consumer groups that there are. */
export const CONSUMERS = ['cache', 'posting', 'projections', 'webhooks'] as const
export type Consumer = (typeof CONSUMERS)[number]
/** Projections cost a busy node some of what it could post: who wants them asks for them. */
const DEFAULT_CONSUMERS = 'cache,posting,webhooks'

/** Of this program. */
export const VERSION: string = packageJson.version

/** What is wrong with the environment, all of it at once. */
export class ConfigError extends Error {
  readonly mistakes: readonly string[]

  constructor(mistakes: readonly string[]) {
    super(`the settings are wrong:\n- ${mistakes.join('\n- ')}`)
    this.mistakes = mistakes
  }
}

const CONNECTIONS_MAX = 10_000
const KAFKA_PARTITIONS = 12
const KAFKA_PARTITIONS_MAX = 1_000
const OTLP_TIMEOUT_MS_MAX = 60_000
const TENANT_RATE_MAX = 1_000_000
const AGE_MS_MAX = 200
const DRAIN_MS = 500
const DRAIN_MS_MAX = 60_000
const START_WAIT_MS = 60_000
const START_WAIT_MS_MAX = 3_600_000

/**
 * Reads the settings. The only reader of `process.env`.
 * @throws ConfigError with one line for each mistake
 */
export function readConfig(given: NodeJS.ProcessEnv = process.env): Config {
  const mistakes: string[] = []
  const env = withSecrets(given, mistakes)
  const port = numberOf('PORT', env, { min: 0, max: 65_535 }, mistakes) ?? 3000
  const shardUrls = (env['ZEROSUM_SHARDS'] ?? '').split(',').map((url) => url.trim())
  const isEmbedded = shardUrls.length === 1 && shardUrls[0] === ''
  if (!isEmbedded) {
    for (const [i, url] of shardUrls.entries()) {
      // The URL itself is not shown: it may hold a password.
      if (!isPostgresUrl(url)) mistakes.push(`ZEROSUM_SHARDS, item ${i + 1} is not a postgres://user@host/database URL`)
      else attempt(`ZEROSUM_SHARDS, item ${i + 1}`, () => securedUrl(url), mistakes)
    }
  }
  const kafkaBrokers = listOf('KAFKA_BROKERS', env, '', mistakes)
  for (const [i, broker] of kafkaBrokers.entries()) {
    if (!isHostAndPort(broker)) mistakes.push(`KAFKA_BROKERS, item ${i + 1} is "${broker}": give host:port`)
  }
  const kafkaPartitions =
    numberOf('KAFKA_PARTITIONS', env, { min: 1, max: KAFKA_PARTITIONS_MAX }, mistakes) ?? KAFKA_PARTITIONS
  const consumers =
    env['ZEROSUM_CONSUMERS'] === 'none' ? [] : listOf('ZEROSUM_CONSUMERS', env, DEFAULT_CONSUMERS, mistakes)
  for (const unknown of consumers.filter((name) => !isOneOf(CONSUMERS, name))) {
    mistakes.push(`ZEROSUM_CONSUMERS has "${unknown}": list some of ${CONSUMERS.join(', ')}, or say none`)
  }
  const redisUrl = env['REDIS_URL'] || undefined
  // As above: it may hold a password.
  if (redisUrl !== undefined && !isRedisUrl(redisUrl))
    mistakes.push('REDIS_URL is not a redis://host:port or rediss:// URL')
  const redisTls = tlsOf('REDIS_TLS', env, mistakes)
  if (redisTls && redisUrl?.startsWith('redis:')) mistakes.push('REDIS_TLS_… are for a rediss:// URL: REDIS_URL is not')
  const kafkaSecurity = kafkaSecurityOf(env, mistakes)
  const tlsFiles = serverTlsOf(env, mistakes)
  const probePort = numberOf('ZEROSUM_PROBE_PORT', env, { min: 0, max: 65_535 }, mistakes)
  if (probePort !== undefined && !tlsFiles) {
    mistakes.push('ZEROSUM_PROBE_PORT is for nodes with ZEROSUM_TLS_CERT: without TLS, PORT answers probes')
  }
  const connections = { min: 1, max: 1_000_000 }
  const connectionsMax = numberOf('ZEROSUM_CONNECTIONS_MAX', env, connections, mistakes) ?? CONNECTIONS_MAX
  const connectionsPerAddressMax = numberOf('ZEROSUM_CONNECTIONS_PER_ADDRESS_MAX', env, connections, mistakes)
  const demoKey = env['ZEROSUM_DEMO_KEY'] || undefined
  if (demoKey !== undefined && !/^zs_(test|live)_[A-Za-z0-9]{16,64}$/.test(demoKey)) {
    mistakes.push('ZEROSUM_DEMO_KEY must be zs_test_ followed by 16 to 64 letters and digits')
  }
  const allowPrivate = env['ZEROSUM_WEBHOOKS_ALLOW_PRIVATE'] || 'false'
  if (!['true', 'false'].includes(allowPrivate)) {
    mistakes.push(`ZEROSUM_WEBHOOKS_ALLOW_PRIVATE is "${allowPrivate}": say true or false`)
  }
  const tenantRate = numberOf('ZEROSUM_TENANT_RATE', env, { min: 1, max: TENANT_RATE_MAX }, mistakes)
  const ageMsMax = numberOf('ZEROSUM_AGE_MS_MAX', env, { min: 10, max: 60_000 }, mistakes) ?? AGE_MS_MAX
  const drainMs = numberOf('ZEROSUM_DRAIN_MS', env, { min: 0, max: DRAIN_MS_MAX }, mistakes) ?? DRAIN_MS
  const startWaitMs =
    numberOf('ZEROSUM_START_WAIT_MS', env, { min: 0, max: START_WAIT_MS_MAX }, mistakes) ?? START_WAIT_MS
  const tracing = tracingOf(env, mistakes)
  // Who has chosen databases runs a service, whose lines go to other programs; the rest is for looking at.
  const form = env['ZEROSUM_LOG'] || (isEmbedded ? 'pretty' : 'json')
  if (!isOneOf(LOG_FORMS, form)) mistakes.push(`ZEROSUM_LOG is "${form}": say ${LOG_FORMS.join(', ')}`)
  const level = env['ZEROSUM_LOG_LEVEL'] || 'info'
  if (!isOneOf(LOG_LEVELS, level)) mistakes.push(`ZEROSUM_LOG_LEVEL is "${level}": say ${LOG_LEVELS.join(', ')}`)
  if (mistakes.length > 0 || !isOneOf(LOG_FORMS, form) || !isOneOf(LOG_LEVELS, level)) throw new ConfigError(mistakes)
  return {
    host: env['HOST'] || '127.0.0.1',
    port,
    ...{ tlsFiles, probePort, connectionsMax, connectionsPerAddressMax },
    shardUrls: isEmbedded ? [] : shardUrls,
    redis: redisUrl === undefined ? undefined : { url: redisUrl, tls: redisTls },
    ...{ kafkaBrokers, kafkaSecurity, kafkaPartitions },
    consumers: consumers.filter((name) => isOneOf(CONSUMERS, name)),
    dataDir: env['ZEROSUM_DATA_DIR'] || './.zerosum',
    demoKey,
    webhooksAllowPrivate: allowPrivate === 'true',
    ...{ tenantRate, ageMsMax },
    ...{ drainMs, startWaitMs, tracing },
    log: { form, level },
    // In containers the pid is often 1, and the host name may be given again.
    writer: `${hostname().slice(0, 64)}:${process.pid}:${randomBytes(4).toString('hex')}`,
  }
}

/** What may hold a secret, and can be in a file instead, which `…_FILE` names: files are not listed with a process. */
const SECRETS = ['ZEROSUM_SHARDS', 'ZEROSUM_DEMO_KEY', 'REDIS_URL', 'KAFKA_SASL_PASSWORD']

/** The environment, with what is in those files. */
function withSecrets(env: NodeJS.ProcessEnv, mistakes: string[]): NodeJS.ProcessEnv {
  const all = { ...env }
  for (const name of SECRETS) {
    const path = env[`${name}_FILE`]
    if (!path) continue
    if (env[name]) mistakes.push(`${name} and ${name}_FILE are both set: keep one`)
    else {
      const text = attempt(`${name}_FILE`, () => readText(path).trim(), mistakes)
      if (text === '') mistakes.push(`${name}_FILE: ${path} is empty`)
      all[name] = text
    }
  }
  return all
}

/** What comes of it; if it throws, that is a mistake. */
function attempt<T>(what: string, work: () => T, mistakes: string[]): T | undefined {
  try {
    return work()
  } catch (error) {
    mistakes.push(`${what}: ${error instanceof Error ? error.message : error}`)
    return undefined
  }
}

function numberOf(
  name: string,
  env: NodeJS.ProcessEnv,
  { min, max }: { min: number; max: number },
  mistakes: string[],
): number | undefined {
  const text = env[name]
  if (!text) return undefined
  const number = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN
  if (!(number >= min && number <= max)) {
    mistakes.push(`${name} is "${text}": give a number from ${min} to ${max}`)
  }
  return number
}

const tlsFilesOf = (prefix: string, env: NodeJS.ProcessEnv): TlsFiles => {
  const [ca, cert, key] = ['CA', 'CERT', 'KEY'].map((name) => env[`${prefix}_${name}`] || undefined)
  return { ...(ca !== undefined && { ca }), ...(cert !== undefined && { cert }), ...(key !== undefined && { key }) }
}

/** The certificates by which this node calls others. */
function tlsOf(prefix: string, env: NodeJS.ProcessEnv, mistakes: string[]): Tls | undefined {
  const files = tlsFilesOf(prefix, env)
  if (Object.keys(files).length === 0) return undefined
  return attempt(`${prefix}_CA, ${prefix}_CERT, ${prefix}_KEY`, () => readTls(files), mistakes)
}

/** The certificates by which this node is called. They are read again while it runs, so it is the files that are kept. */
function serverTlsOf(env: NodeJS.ProcessEnv, mistakes: string[]): TlsFiles | undefined {
  const clientCa = env['ZEROSUM_TLS_CLIENT_CA'] || undefined
  const { cert, key } = tlsFilesOf('ZEROSUM_TLS', env)
  if (cert === undefined && key === undefined && clientCa === undefined) return undefined
  if (cert === undefined || key === undefined) {
    mistakes.push('ZEROSUM_TLS_CERT and ZEROSUM_TLS_KEY are set together, and ZEROSUM_TLS_CLIENT_CA with them')
    return undefined
  }
  const files = { cert, key, ...(clientCa !== undefined && { ca: clientCa }) }
  attempt('ZEROSUM_TLS_CERT, ZEROSUM_TLS_KEY, ZEROSUM_TLS_CLIENT_CA', () => readTls(files), mistakes)
  return files
}

/** As in PostgreSQL's URLs: the roots that come with Node. */
const SYSTEM_ROOTS = 'system'

function kafkaSecurityOf(env: NodeJS.ProcessEnv, mistakes: string[]): KafkaSecurity {
  const isSystem = env['KAFKA_TLS_CA'] === SYSTEM_ROOTS
  const found = tlsOf('KAFKA_TLS', isSystem ? { ...env, KAFKA_TLS_CA: undefined } : env, mistakes)
  if (found && found.ca === undefined && !isSystem) {
    mistakes.push(`KAFKA_TLS_CERT is set without KAFKA_TLS_CA: name the CA of the brokers, or say ${SYSTEM_ROOTS}`)
  }
  const tls = found ?? (isSystem ? {} : undefined)
  const username = env['KAFKA_SASL_USERNAME'] || undefined
  const password = env['KAFKA_SASL_PASSWORD'] || undefined
  const wanted = env['KAFKA_SASL_MECHANISM'] || undefined
  if (username === undefined && password === undefined && wanted === undefined) return tls ? { tls } : {}
  const mechanism = SASL_MECHANISMS.find((one) => one === (wanted ?? SASL_MECHANISMS[0]))
  if (mechanism === undefined) {
    mistakes.push(`KAFKA_SASL_MECHANISM is "${wanted}": say one of ${SASL_MECHANISMS.join(', ')}`)
  }
  if (username === undefined || password === undefined) {
    mistakes.push('KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD are set together')
  }
  if (mechanism === 'PLAIN' && !tls)
    mistakes.push('KAFKA_SASL_MECHANISM is PLAIN without KAFKA_TLS_CA: the password would be sent as it is')
  return {
    ...(tls && { tls }),
    ...(mechanism && username !== undefined && password !== undefined && { sasl: { mechanism, username, password } }),
  }
}

/** Tracing as OpenTelemetry's variables have it: on if there is somewhere to send traces to. */
function tracingOf(env: NodeJS.ProcessEnv, mistakes: string[]): Sampling | undefined {
  const of = (name: string) => env[`OTEL_EXPORTER_OTLP_TRACES_${name}`] || env[`OTEL_EXPORTER_OTLP_${name}`]
  const disabled = (env['OTEL_SDK_DISABLED'] || 'false').toLowerCase()
  if (disabled !== 'true' && disabled !== 'false')
    mistakes.push(`OTEL_SDK_DISABLED is "${disabled}": say true or false`)
  const [endpoint, exporter] = [of('ENDPOINT'), env['OTEL_TRACES_EXPORTER'] || 'otlp']
  if (disabled === 'true' || exporter === 'none' || endpoint === undefined) return undefined
  if (!URL.canParse(endpoint) || !/^https?:$/.test(new URL(endpoint).protocol))
    mistakes.push('OTEL_EXPORTER_OTLP_ENDPOINT is not an http:// or https:// URL')
  if (exporter !== 'otlp') mistakes.push(`OTEL_TRACES_EXPORTER is "${exporter}": say otlp or none`)
  const protocol = of('PROTOCOL') ?? 'http/protobuf'
  if (protocol !== 'http/protobuf')
    mistakes.push(`OTEL_EXPORTER_OTLP_PROTOCOL is "${protocol}": http/protobuf is the only one there is`)
  const wanted = env['OTEL_TRACES_SAMPLER'] || 'parentbased_always_on'
  const sampler = SAMPLERS.find((name) => name === wanted)
  if (!sampler) mistakes.push(`OTEL_TRACES_SAMPLER is "${wanted}": name one of ${SAMPLERS.join(', ')}`)
  const argument = env['OTEL_TRACES_SAMPLER_ARG'] || '1'
  const ratio = /\d/.test(argument) ? Number(argument) : Number.NaN
  if (!(ratio >= 0 && ratio <= 1)) mistakes.push(`OTEL_TRACES_SAMPLER_ARG is "${argument}": give a number from 0 to 1`)
  checkExporter(env, mistakes)
  return { sampler: sampler ?? 'parentbased_always_on', ratio }
}

/** What the exporter reads by itself: it would only warn of what it does not understand, and go on without. */
function checkExporter(env: NodeJS.ProcessEnv, mistakes: string[]): void {
  for (const prefix of ['OTEL_EXPORTER_OTLP', 'OTEL_EXPORTER_OTLP_TRACES']) {
    numberOf(`${prefix}_TIMEOUT`, env, { min: 1, max: OTLP_TIMEOUT_MS_MAX }, mistakes)
    const compression = env[`${prefix}_COMPRESSION`] || 'none'
    if (compression !== 'gzip' && compression !== 'none')
      mistakes.push(`${prefix}_COMPRESSION is "${compression}": say gzip or none`)
    // They may hold a key, and are not shown.
    const headers = (env[`${prefix}_HEADERS`] ?? '').split(',').filter((header) => header.trim() !== '')
    if (!headers.every((header) => /^\s*[\w!#$%&'*+.^`|~-]+\s*=/.test(header)))
      mistakes.push(`${prefix}_HEADERS is not a list of name=value, with commas between`)
    for (const what of ['CERTIFICATE', 'CLIENT_CERTIFICATE', 'CLIENT_KEY']) {
      const path = env[`${prefix}_${what}`]
      if (path) attempt(`${prefix}_${what}`, () => readText(path), mistakes)
    }
  }
}

function isPostgresUrl(text: string): boolean {
  return URL.canParse(text) && /^postgres(ql)?:$/.test(new URL(text).protocol)
}

function isOneOf<T extends string>(known: readonly T[], text: string): text is T {
  return known.some((one) => one === text)
}

function isRedisUrl(text: string): boolean {
  return URL.canParse(text) && /^rediss?:$/.test(new URL(text).protocol)
}

/** What is set but has nothing in it is a mistake: it would be as if it were not set, or as if nothing were wanted. */
function listOf(name: string, env: NodeJS.ProcessEnv, otherwise: string, mistakes: string[]): string[] {
  const text = env[name] || otherwise
  const items = text
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '')
  if (text !== '' && items.length === 0) mistakes.push(`${name} is "${text}": there is nothing in it`)
  return items
}

function isHostAndPort(text: string): boolean {
  const [, port] = /^(?:\[[0-9a-fA-F:]+\]|[^:/\s@]+):(\d{1,5})$/.exec(text) ?? []
  return port !== undefined && Number(port) > 0 && Number(port) < 65_536
}
