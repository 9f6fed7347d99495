import type { Server as TlsServer } from 'node:tls'
import { startAudits } from './audit/background.ts'
import { type Balances, createBalances } from './cache/balances.ts'
import type { BalanceCache } from './cache/cache.ts'
import { changedBalances } from './cache/changed.ts'
import { watchHistory } from './cache/history.ts'
import { createMemoryCache } from './cache/memoryCache.ts'
import { createRedisCache, type RedisCache } from './cache/redisCache.ts'
import type { Config } from './config.ts'
import { cacheGroup } from './consumers/cacheGroup.ts'
import { startConsumers } from './consumers/consumers.ts'
import { webhooksGroup } from './consumers/webhooksGroup.ts'
import { type Demo, ensureDemo } from './demo.ts'
import { startShedding } from './guard/shedding.ts'
import { createTenantRate } from './guard/tenantRate.ts'
import { buildApp } from './http/app.ts'
import { listenForProbes } from './http/probes.ts'
import { createBlockFeed } from './live/blockFeed.ts'
import { type Feed, newsOf } from './live/feed.ts'
import { createRedisFeed } from './live/redisFeed.ts'
import { connect } from './postgres/connect.ts'
import { attachEmbedded, DirectoryInUse, type EmbeddedServer, startEmbedded } from './postgres/embedded.ts'
import { PROJECTIONS, projectionsGroup } from './projections/group.ts'
import { openProjections } from './projections/projections.ts'
import { refuseCluster } from './redis/cluster.ts'
import type { RedisServer } from './redis/connection.ts'
import { redisPrefix } from './redis/installation.ts'
import { startRelocationRecovery } from './relocation/recovery.ts'
import { startHoldExpiry } from './saga/holdExpiry.ts'
import { createSagas } from './saga/sagas.ts'
import { prepareShards } from './shards/map.ts'
import { createRouter, type Router } from './shards/router.ts'
import { openShard } from './shards/shard.ts'
import { firstMapMadeUs, shardCountOf } from './shards/storedMap.ts'
import { createDirectory } from './tenants/directory.ts'
import { readTls, TLS_VERSION_MIN, type Tls, type TlsFiles } from './tls/files.ts'
import { followCertificates } from './tls/reload.ts'
import { startDispatcher } from './webhooks/dispatcher.ts'
import { openEndpoints } from './webhooks/endpoints.ts'
import { startPruning } from './webhooks/pruning.ts'
import { sometimes } from './webhooks/sometimes.ts'

/** Longer than any answer takes (`ANSWER_MS_MAX`). */
const CLOSE_MS_MAX = 12_000
const CONSUMER_MS_MAX = 30_000

/** A running node. */
export type Node = {
  /** Where it listens, like `http://127.0.0.1:3000`. */
  url: string
  shardCount: number
  /** The sample tenant; in embedded mode, or when a demo key was chosen. */
  demo: Demo | undefined
  /** Answers what has come in, takes nothing more, closes everything. */
  stop(): Promise<void>
}

/** Databases to work on, and what ends that. */
export type Databases = {
  /** Makes the database of a shard that is to be added; it is `undefined` where databases are made by somebody else. */
  create?(number: number): Promise<string>
  /** Of the shards that there are, by number. */
  readonly urls: readonly string[]
  /** Also of those that are added later, if they are known already. */
  urlOf(number: number): string | undefined
  close(): Promise<void>
}

/** Of a new data directory; an older one keeps its own number. */
const EMBEDDED_SHARDS = 2

/** The databases a config names; the embedded server is started if it names none. @throws DirectoryInUse */
export async function openDatabases(config: Config): Promise<Databases> {
  if (config.shardUrls.length > 0) return databasesOf(config.shardUrls, async () => {})
  const server = await startEmbedded(config.dataDir)
  try {
    await server.createDatabase('shard0')
    const names = await embeddedDatabases(server)
    for (const name of names) await server.createDatabase(name)
    return embedded(server, names, () => server.stop())
  } catch (error) {
    await server.stop()
    throw error
  }
}

function databasesOf(urls: readonly string[], close: () => Promise<void>): Databases {
  return { urls, urlOf: (number) => urls[number], close }
}

function embedded(
  server: Pick<EmbeddedServer, 'url' | 'createDatabase'>,
  names: readonly string[],
  close: () => Promise<void>,
): Databases {
  const urlOf = (number: number) => server.url(nameOf(number))
  return {
    ...{ urls: names.map((name) => server.url(name)), urlOf, close },
    async create(number) {
      await server.createDatabase(nameOf(number))
      return urlOf(number)
    },
  }
}

const nameOf = (number: number) => `shard${number}`

/** The names of the databases that an embedded server has, or is to have. */
async function embeddedDatabases(server: Pick<EmbeddedServer, 'url'>): Promise<string[]> {
  const count = (await shardCountOf(server.url('shard0'))) ?? EMBEDDED_SHARDS
  return Array.from({ length: count }, (_, number) => nameOf(number))
}

/** The same for commands that may work beside a running node: its embedded server is used if there is one. */
export async function shareDatabases(config: Config): Promise<Databases> {
  try {
    return await openDatabases(config)
  } catch (error) {
    if (!(error instanceof DirectoryInUse)) throw error
    const server = await attachEmbedded(config.dataDir)
    return embedded(server, await embeddedDatabases(server), async () => {})
  }
}

/** Starts a node: databases, shards, HTTP, in this order; what was opened is closed again if a later step fails. */
export async function startNode(config: Config): Promise<Node> {
  const closers: (() => Promise<unknown>)[] = []
  const stop = async () => {
    for (const close of closers.splice(0).reverse()) await close()
  }
  try {
    const databases = await openDatabases(config)
    closers.push(() => databases.close())
    const { map } = await prepareShards(databases.urls)
    const { redis } = config
    if (redis) await refuseCluster(redis)
    const prefix = redis ? redisPrefix(await firstMapMadeUs(databases.urls[0] ?? '')) : ''
    const shared = redis && openRedisCache(redis, prefix)
    // Without Redis a cache is true for all nodes only if this is the only one.
    const cache = shared ?? (config.shardUrls.length === 0 ? createMemoryCache() : undefined)
    let balances: Balances | undefined
    if (cache) closers.push(() => cache.close())
    const feed = openFeed(redis, prefix, () => router.shards)
    const open = (url: string, number: number) =>
      openShard({
        number,
        url,
        writer: config.writer,
        onBlock(block, posting) {
          balances?.afterCommit(changedBalances(posting, block.timeUs))
          feed.tell(newsOf(posting))
        },
        onTrouble: (error) => log('posting met trouble and goes on', error),
      })
    const router = createRouter(databases.urls.map(open), map, (number) => {
      const url = databases.urlOf(number)
      return url === undefined ? undefined : open(url, number)
    })
    const history = shared && historyOf(shared, router)
    if (history) closers.push(() => history.stop())
    if (cache) balances = balancesOver(history?.cache ?? cache, router)
    closers.push(async () => balances?.close())
    closers.push(() => Promise.all(router.shards.map((shard) => shard.close())))
    closers.push(() => feed.close())
    const onTrouble = (error: unknown) => log('a saga met trouble and goes on', error)
    const sagas = createSagas({ router, onTrouble })
    closers.push(() => sagas.close())
    closers.push(startHoldExpiry({ router, sagas }, (error) => log('holds could not be expired and will be', error)))
    const recovery = startRelocationRecovery({
      router,
      urlOf: databases.urlOf,
      onTrouble: (error) => log('a change of the shard map met trouble and goes on', error),
    })
    closers.push(() => recovery.stop())
    const directory = createDirectory(databases.urls[0] ?? '')
    closers.push(() => directory.close())

    const wantsDemo = config.shardUrls.length === 0 || config.demoKey !== undefined
    const { dataDir, demoKey: chosenKey } = config
    const demo = wantsDemo ? await ensureDemo({ directory, sagas }, { chosenKey, dataDir }) : undefined

    const audits = startAudits({
      urls: () => router.shards.flatMap(({ number }) => databases.urlOf(number) ?? []),
      onTrouble: (error) => log('an audit failed', error),
    })
    closers.push(() => audits.close())

    const firstUrl = databases.urls[0] ?? ''
    const onRefused = sometimes(({ host, why }) => log('a webhook host is not called', { message: `${host}: ${why}` }))
    const rules = { allowPrivate: config.webhooksAllowPrivate, onRefused }
    const webhookEndpoints = openEndpoints(firstUrl, rules)
    closers.push(() => webhookEndpoints.close())
    const onWebhookTrouble = (error: unknown) => log('webhooks met trouble and go on', error)
    closers.push(startPruning(firstUrl, onWebhookTrouble))
    // Who leaves webhooks to others does not call their receivers either.
    if (config.consumers.includes('webhooks')) {
      const dispatcher = startDispatcher({ url: firstUrl, rules, onTrouble: onWebhookTrouble })
      closers.push(() => dispatcher.stop())
    }

    const consuming = connect(firstUrl, { max: 2, name: 'zerosum consumers', answerMsMax: CONSUMER_MS_MAX })
    closers.push(() => consuming.end())
    const groups = [
      projectionsGroup(consuming),
      webhooksGroup(consuming, (ids) =>
        log('webhook endpoints miss events, they are full', { message: ids.join(', ') }),
      ),
      ...(cache ? [cacheGroup(cache)] : []),
    ]
    const consumers = startConsumers({
      ...{ brokers: config.kafkaBrokers, security: config.kafkaSecurity, partitions: config.kafkaPartitions, groups },
      ...{ shards: () => router.shards.map(({ number }) => number), urlOf: databases.urlOf },
      worksFor: (name) => config.consumers.some((consumer) => consumer === name),
      isBusy: () => router.shards.some(({ batcher }) => batcher.depth > 0),
      onTrouble: (error) => log('events could not be passed on and will be', error),
    })
    closers.push(() => consumers.stop())
    const projections = openProjections({ url: firstUrl, progress: () => consumers.progress(PROJECTIONS) })
    closers.push(() => projections.close())

    const shedding = startShedding(config.lagMsMax)
    closers.push(async () => shedding.stop())
    const tenantRate = config.tenantRate === undefined ? undefined : createTenantRate(config.tenantRate)
    const tls = config.tlsFiles && readTls(config.tlsFiles)
    const { connectionsMax, connectionsPerAddressMax } = config
    const limits = { connectionsMax, ...(connectionsPerAddressMax !== undefined && { connectionsPerAddressMax }) }
    const app = await buildApp({
      ...{ router, sagas, directory, webhookEndpoints, feed, audits, projections, tls, limits },
      guards: { shedding, tenantRate },
      ...(balances ? { balances } : {}),
    })
    closers.push(() => closeApp(app))
    const listening = await app.listen({ host: config.host, port: config.port })
    // Fastify did not make the server, and takes it for a plain one.
    const url = tls ? listening.replace(/^http:/, 'https:') : listening
    if (config.tlsFiles && tls) closers.push(renewCertificates(app, config.tlsFiles, tls))
    if (config.probePort !== undefined) {
      const probes = await listenForProbes(app, { host: config.host, port: config.probePort })
      closers.push(() => probes.close())
    }
    return { url, shardCount: router.shards.length, demo, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

/** New certificates are taken when their files change, at the latest when SIGHUP says so. Connections that are open stay as they are. */
function renewCertificates(app: Awaited<ReturnType<typeof buildApp>>, files: TlsFiles, current: Tls) {
  const followed = followCertificates(files, {
    current,
    onChange: (tls) => (app.server as unknown as TlsServer).setSecureContext({ ...tls, minVersion: TLS_VERSION_MIN }),
    onTrouble: (error) => log('the certificates could not be read again; those from before stay in use', error),
  })
  process.on('SIGHUP', followed.look)
  return async () => {
    process.off('SIGHUP', followed.look)
    followed.stop()
  }
}

/** What wakes the streams: Redis if there is one, else the shards' own chains. */
function openFeed(redis: RedisServer | undefined, prefix: string, shards: () => Router['shards']): Feed {
  const onTrouble = (error: unknown) => log('streams may be late, news could not be read or sent', error)
  if (!redis) return createBlockFeed({ shards, onTrouble })
  return createRedisFeed({ ...redis, channel: `${prefix}news`, onTrouble })
}

function balancesOver(cache: BalanceCache, router: Router): Balances {
  return createBalances({
    cache,
    load: (tenantId, id) => router.read(id, ({ reader }) => reader.balance(tenantId, id)),
    shardOf: (id) => router.shardOf(id),
  })
}

function openRedisCache(redis: RedisServer, keyPrefix: string): RedisCache {
  return createRedisCache({ ...redis, keyPrefix, onTrouble: (error) => log('Redis met trouble', error) })
}

function historyOf(cache: RedisCache, { shards }: Router) {
  return watchHistory({
    ...{ cache, shards: () => shards },
    onTakenBack: (numbers) =>
      log('the cache was emptied: blocks it knew are gone', { message: `shard ${numbers.join(', ')}` }),
    onTrouble: (error) => log('it could not be seen whether the cache is of this history, and will be', error),
  })
}

/** Answers what has come in; who is still silent, or in the middle of a request, after a while is cut off. */
async function closeApp(app: Awaited<ReturnType<typeof buildApp>>): Promise<void> {
  const timer = setTimeout(() => app.server.closeAllConnections(), CLOSE_MS_MAX)
  await app.close()
  clearTimeout(timer)
}

/** One JSON line on stderr. */
function log(msg: string, error: unknown): void {
  const { message, stack, code } = (error ?? {}) as { message?: string; stack?: string; code?: string }
  console.error(JSON.stringify({ level: 'warn', time: new Date().toISOString(), msg, code, err: message, stack }))
}
