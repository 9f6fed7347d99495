import { setTimeout as sleep } from 'node:timers/promises'
import type { Server as TlsServer } from 'node:tls'
import { CircuitState } from 'cockatiel'
import { countLeftOver, openQueue, startAsync } from './async/start.ts'
import { startAudits } from './audit/background.ts'
import { BACKGROUND_CONNECTIONS, createPools } from './bus/pools.ts'
import { type Balances, createBalances } from './cache/balances.ts'
import type { BalanceCache } from './cache/cache.ts'
import { changedBalances } from './cache/changed.ts'
import { watchHistory } from './cache/history.ts'
import { createMemoryCache } from './cache/memoryCache.ts'
import { createRedisCache, type RedisCache } from './cache/redisCache.ts'
import { type Config, VERSION } from './config.ts'
import { cacheGroup } from './consumers/cacheGroup.ts'
import { HANDLER_CONNECTIONS, startConsumers } from './consumers/consumers.ts'
import { webhooksGroup } from './consumers/webhooksGroup.ts'
import type { Block } from './core/block.ts'
import { openDatabases } from './databases.ts'
import { type Demo, ensureDemo } from './demo.ts'
import { connectForCallers } from './guard/callers.ts'
import { startShedding } from './guard/shedding.ts'
import { createTenantRate } from './guard/tenantRate.ts'
import { buildApp } from './http/app.ts'
import { listenForProbes } from './http/probes.ts'
import { createBlockFeed } from './live/blockFeed.ts'
import { type Feed, newsOf } from './live/feed.ts'
import { createRedisFeed } from './live/redisFeed.ts'
import type { Log } from './observe/log.ts'
import { lookAround } from './observe/lookAround.ts'
import { type BreakerState, createMetrics } from './observe/metrics.ts'
import { startTracePruning } from './observe/tracePruning.ts'
import { connect, poolUse } from './postgres/connect.ts'
import { PROJECTIONS, projectionsGroup } from './projections/group.ts'
import { openProjections } from './projections/projections.ts'
import { refuseCluster } from './redis/cluster.ts'
import type { RedisServer } from './redis/connection.ts'
import { redisPrefix } from './redis/installation.ts'
import { startRelocationRecovery } from './relocation/recovery.ts'
import { startHoldExpiry } from './saga/holdExpiry.ts'
import { createSagas } from './saga/sagas.ts'
import { awaitShards } from './shards/awaitShards.ts'
import { prepareShards } from './shards/map.ts'
import { createRouter, type Router } from './shards/router.ts'
import { openShard } from './shards/shard.ts'
import { firstMapMadeUs } from './shards/storedMap.ts'
import { createStopping } from './stopping.ts'
import { createDirectory } from './tenants/directory.ts'
import { readTls, TLS_VERSION_MIN, type Tls, type TlsFiles } from './tls/files.ts'
import { followCertificates } from './tls/reload.ts'
import { type Dispatcher, startDispatcher } from './webhooks/dispatcher.ts'
import { openEndpoints } from './webhooks/endpoints.ts'
import { startPruning } from './webhooks/pruning.ts'
import { sometimes } from './webhooks/sometimes.ts'
import { countPending } from './webhooks/sql/backlogs.ts'

/** Longer than any answer takes (`ANSWER_MS_MAX`). */
const CLOSE_MS_MAX = 12_000
const CONSUMER_MS_MAX = 30_000
/** Beside the drain. Together with its default less than what Kubernetes gives a pod, 30 s. */
const STOP_MS_MAX = 24_000
/** Deliveries of webhooks that are counted for metrics at most. */
const PENDING_COUNT_MAX = 10_000

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

/** Starts a node: databases, shards, HTTP, in this order; what was opened is closed again if a later step fails. */
export async function startNode(config: Config, log: Log): Promise<Node> {
  const { logger, trouble } = log
  const stopping = createStopping(STOP_MS_MAX + config.drainMs, {
    onLate: (names) => logger.warn({ names }, 'the node stops without waiting any longer'),
    onTrouble: (error) => trouble('something did not stop as it should', error),
  })
  try {
    const { tracing: sampling, writer } = config
    if (sampling) {
      // Without tracing its libraries are not loaded.
      const { startTracing } = await import('./observe/tracing.ts')
      const onTrouble = (error: unknown) => trouble('traces could not be sent, and are lost', error)
      const tracing = startTracing({ ...sampling, instance: writer, onTrouble })
      stopping.add('databases', 'traces that are still to be sent', () => tracing.stop())
    }
    const databases = await openDatabases(config)
    stopping.add('databases', 'the embedded PostgreSQL', () => databases.close())
    const { startWaitMs, drainMs } = config
    await awaitShards(databases.urls, {
      waitMsMax: startWaitMs,
      say: (message) => logger.warn(message),
    })
    const { map } = await prepareShards(databases.urls)
    const { redis } = config
    if (redis) await refuseCluster(redis)
    const prefix = redis ? redisPrefix(await firstMapMadeUs(databases.urls[0] ?? '')) : ''
    const onRedisTrouble = (error: unknown) => trouble('Redis met trouble', error)
    const shared = redis && createRedisCache({ ...redis, keyPrefix: prefix, onTrouble: onRedisTrouble })
    // Without Redis a cache is true for all nodes only if this is the only one.
    const cache = shared ?? (config.shardUrls.length === 0 ? createMemoryCache() : undefined)
    let balances: Balances | undefined
    let dispatcher: Dispatcher | undefined
    const metrics = createMetrics({
      version: VERSION,
      queues: () =>
        router.shards.map(({ number: shard, batcher: { depth, oldestMs } }) => ({ shard, depth, oldestMs })),
      pools: poolUse,
      cache: () => balances?.counters,
      breakers: () => ({
        ...breakersOf(router),
        ...(redis && balances ? { redis: stateOf(balances.counters.breakerState) } : {}),
        ...(queue.breaker === undefined ? {} : { kafka: stateOf(queue.breaker) }),
      }),
      unreachableHosts: () => dispatcher?.unreachableHosts(),
    })
    const feed = openFeed(redis && { ...redis, channel: `${prefix}news` }, () => router.shards, trouble)
    const open = (url: string, number: number) =>
      openShard({
        number,
        url,
        writer: config.writer,
        onBlock(block, posting, commitMs) {
          balances?.afterCommit(changedBalances(posting, block.timeUs))
          feed.tell(newsOf(posting))
          metrics.block(block, posting, commitMs)
          logger.info(blockFields(block, commitMs), 'block')
        },
        onTrouble(error) {
          metrics.postingTrouble(number)
          trouble('posting met trouble and goes on', error)
        },
      })
    const router = createRouter(databases.urls.map(open), map, (number) => {
      const url = databases.urlOf(number)
      return url === undefined ? undefined : open(url, number)
    })
    const history = shared && historyOf(shared, router, trouble)
    if (history) stopping.add('answers', 'the look at the history of the cache', () => history.stop())
    if (cache) balances = balancesOver(history?.cache ?? cache, router)
    stopping.add('pools', 'the balance cache', async () => {
      await balances?.close()
      await cache?.close()
    })
    stopping.add('shards', 'the shards', () => Promise.all(router.shards.map((shard) => shard.close())))
    stopping.add('sagas', 'the feed of streams', () => feed.close())
    const onTrouble = (error: unknown) => trouble('a saga met trouble and goes on', error)
    const sagas = createSagas({ router, onTrouble })
    stopping.add('sagas', 'sagas', () => sagas.close())
    const onExpiryTrouble = (error: unknown) => trouble('holds could not be expired and will be', error)
    stopping.add('answers', 'the expiry of holds', startHoldExpiry({ router, sagas }, onExpiryTrouble))
    const background = createPools(databases.urlOf, 'zerosum background', BACKGROUND_CONNECTIONS)
    stopping.add('pools', 'connections in the background', () => background.end())
    const recovery = startRelocationRecovery({
      ...{ router, urlOf: databases.urlOf, pools: background },
      onTrouble: (error) => trouble('a change of the shard map met trouble and goes on', error),
    })
    stopping.add('answers', 'changes of the shard map', () => recovery.stop())
    const firstUrl = databases.urls[0] ?? ''
    // Keys, and the last audit.
    const first = connectForCallers(firstUrl, 'zerosum callers')
    stopping.add('pools', 'connections for callers', () => first.end())
    const directory = createDirectory(first)
    // What may wait for locks, or is long, is not before keys.
    const answering = connectForCallers(firstUrl, 'zerosum answers')
    stopping.add('pools', 'connections for long answers', () => answering.end())

    const wantsDemo = config.shardUrls.length === 0 || config.demoKey !== undefined
    const { dataDir, demoKey: chosenKey } = config
    const demo = wantsDemo ? await ensureDemo({ directory, sagas }, { chosenKey, dataDir }) : undefined

    const audits = startAudits({
      urls: () => router.shards.flatMap(({ number }) => databases.urlOf(number) ?? []),
      shownBy: first,
      onTrouble: (error) => trouble('an audit failed', error),
    })
    stopping.add('answers', 'the audit', () => audits.close())

    const onRefused = sometimes(({ host, why }) => logger.warn({ host, why }, 'a webhook host is not called'))
    const rules = { allowPrivate: config.webhooksAllowPrivate, onRefused }
    const webhookEndpoints = openEndpoints(answering, rules)
    const pruning = startTracePruning({
      ...{ shards: () => router.shards.map(({ number }) => number), pools: background },
      onTrouble: (error) => trouble('old traces could not be removed and will be', error),
    })
    stopping.add('answers', 'pruning of traces', () => pruning.stop())
    const onWebhookTrouble = (error: unknown) => trouble('webhooks met trouble and go on', error)
    const handling = { max: HANDLER_CONNECTIONS, name: 'zerosum consumers', answerMsMax: CONSUMER_MS_MAX }
    const consuming = connect(firstUrl, handling)
    stopping.add('pools', 'connections of consumers', () => consuming.end())
    stopping.add('answers', 'pruning of webhooks', startPruning(consuming, onWebhookTrouble))
    // Who leaves webhooks to others does not call their receivers either.
    if (config.consumers.includes('webhooks')) {
      const started = startDispatcher({
        ...{ url: firstUrl, rules, onTrouble: onWebhookTrouble },
        onDelivered: metrics.webhookDelivery,
      })
      dispatcher = started
      stopping.add('answers', 'webhooks', () => started.stop())
    }

    const groups = [
      projectionsGroup(consuming),
      webhooksGroup(consuming, (ids) => logger.warn({ ids }, 'webhook endpoints miss events, they are full')),
      ...(cache ? [cacheGroup(cache)] : []),
    ]
    const consumers = startConsumers({
      ...{ brokers: config.kafkaBrokers, security: config.kafkaSecurity, partitions: config.kafkaPartitions, groups },
      ...{ shards: () => router.shards.map(({ number }) => number), urlOf: databases.urlOf },
      pools: background,
      worksFor: (name) => config.consumers.some((consumer) => consumer === name),
      isBusy: () => router.shards.some(({ batcher }) => batcher.depth > 0),
      onTrouble: (error) => trouble('events could not be passed on and will be', error),
      onPoisoned: metrics.poisoned,
      onWell: (message) => logger.warn(message),
    })

    const onAsyncTrouble = (error: unknown) => trouble('requests wait longer to be posted', error)
    const queue = openQueue({
      ...{ brokers: config.kafkaBrokers, security: config.kafkaSecurity, partitions: config.kafkaPartitions },
      ...{ shards: () => router.shards.map(({ number }) => number), urlOf: databases.urlOf, shardOf: router.shardOf },
      onTrouble: onAsyncTrouble,
    })
    const async = startAsync({
      ...{ queue, router, sagas, directory, sql: answering, onTrouble: onAsyncTrouble, onCount: metrics.asynchronous },
      works: config.consumers.includes('posting'),
    })
    if (config.kafkaBrokers.length > 0) {
      const shards = router.shards.map(({ number }) => number)
      void countLeftOver(shards, background).then((count) => {
        if (count > 0) logger.warn({ count }, 'requests of before there was Kafka wait in tables, see zerosum doctor')
      })
    }
    // Together: each may wait for brokers that are away.
    stopping.add('answers', 'consumer groups', () => consumers.stop())
    stopping.add('answers', 'asynchronous posting', () => async.leaveOff())
    stopping.add('sagas', 'the queue of requests', () => async.stop())
    const projections = openProjections({ sql: answering, progress: () => consumers.progress(PROJECTIONS) })
    const watching = lookAround({
      ...{ metrics, shards: () => router.shards, lastAudit: audits.last },
      async lag() {
        const [lag, posting] = await Promise.all([consumers.lag(), async.lag()])
        return { ...lag, groups: [...lag.groups, posting] }
      },
      webhooksPending: () => countPending(consuming, PENDING_COUNT_MAX),
      onTrouble: (error) => trouble('some metrics are not known now', error),
    })
    stopping.add('answers', 'the look around for metrics', watching)

    const shedding = startShedding(config.ageMsMax)
    stopping.add('sagas', 'the watch over the event loop', async () => shedding.stop())
    const tenantRate = config.tenantRate === undefined ? undefined : createTenantRate(config.tenantRate)
    const tls = config.tlsFiles && readTls(config.tlsFiles)
    const { connectionsMax, connectionsPerAddressMax } = config
    const limits = { connectionsMax, ...(connectionsPerAddressMax !== undefined && { connectionsPerAddressMax }) }
    const leaving = new AbortController()
    const app = await buildApp({
      stopping: leaving.signal,
      ...{ router, sagas, directory, webhookEndpoints, feed, audits, projections, tls, limits, later: async.later },
      ...{
        guards: { shedding, tenantRate },
        logger,
        calls: metrics.calls,
        metrics: metrics.exposition,
      },
      ...(balances ? { balances } : {}),
    })
    stopping.add('answers', 'callers', async () => {
      leaving.abort()
      // Whoever sends requests here sees that it is not ready, and goes elsewhere, while it still takes them.
      if (app.server.listening) await sleep(drainMs)
      await closeApp(app)
    })
    const listening = await app.listen({ host: config.host, port: config.port })
    // Fastify did not make the server, and takes it for a plain one.
    const url = tls ? listening.replace(/^http:/, 'https:') : listening
    if (config.tlsFiles && tls)
      stopping.add('answers', 'certificates', renewCertificates(app, { files: config.tlsFiles, current: tls, trouble }))
    if (config.probePort !== undefined) {
      const probes = await listenForProbes(app, { host: config.host, port: config.probePort })
      stopping.add('pools', 'probes', () => probes.close())
    }
    return { url, shardCount: router.shards.length, demo, stop: () => stopping.stop() }
  } catch (error) {
    await stopping.stop()
    throw error
  }
}

/** New certificates are taken when their files change, at the latest when SIGHUP says so. Connections that are open stay as they are. */
function renewCertificates(
  app: Awaited<ReturnType<typeof buildApp>>,
  { files, current, trouble }: { files: TlsFiles; current: Tls; trouble: Log['trouble'] },
) {
  const followed = followCertificates(files, {
    current,
    onChange: (tls) => (app.server as unknown as TlsServer).setSecureContext({ ...tls, minVersion: TLS_VERSION_MIN }),
    onTrouble: (error) => trouble('the certificates could not be read again; those from before stay in use', error),
  })
  process.on('SIGHUP', followed.look)
  return async () => {
    process.off('SIGHUP', followed.look)
    followed.stop()
  }
}

/** What wakes the streams: Redis if there is one, else the shards' own chains. */
function openFeed(
  redis: (RedisServer & { channel: string }) | undefined,
  shards: () => Router['shards'],
  trouble: Log['trouble'],
): Feed {
  const onTrouble = (error: unknown) => trouble('streams may be late, news could not be read or sent', error)
  return redis ? createRedisFeed({ ...redis, onTrouble }) : createBlockFeed({ shards, onTrouble })
}

function balancesOver(cache: BalanceCache, router: Router): Balances {
  return createBalances({
    cache,
    load: (tenantId, id) => router.read(id, ({ reader }) => reader.balance(tenantId, id)),
    shardOf: (id) => router.shardOf(id),
  })
}

/** Whether things can be posted and read, by shard. */
function breakersOf({ shards }: Router): Record<string, BreakerState> {
  return Object.fromEntries(
    shards.map(({ number, batcher, reads }) => [
      `shard${number}`,
      batcher.breaker === 'open' ? 2 : stateOf(reads.breaker),
    ]),
  )
}

/** Of the library's own numbers. */
function stateOf(state: CircuitState): BreakerState {
  if (state === CircuitState.Closed) return 0
  return state === CircuitState.HalfOpen ? 1 : 2
}

function historyOf(cache: RedisCache, { shards }: Router, trouble: Log['trouble']) {
  return watchHistory({
    ...{ cache, shards: () => shards },
    onTakenBack: (numbers) =>
      trouble('the cache was emptied', new Error(`blocks it knew are gone, on shard ${numbers.join(', ')}`)),
    onTrouble: (error) => trouble('it could not be seen whether the cache is of this history, and will be', error),
  })
}

/** Answers what has come in; who is still silent, or in the middle of a request, after a while is cut off. */
async function closeApp(app: Awaited<ReturnType<typeof buildApp>>): Promise<void> {
  const timer = setTimeout(() => app.server.closeAllConnections(), CLOSE_MS_MAX)
  await app.close()
  clearTimeout(timer)
}

/** What a log line says of a block. */
function blockFields({ shard, number, requestCount, entryCount }: Block, commitMs: number): object {
  return { shard, number, requests: requestCount, entries: entryCount, commitMs: Math.round(commitMs * 1000) / 1000 }
}
