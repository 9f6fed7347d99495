import type { Subscription } from '../bus/bus.ts'
import type { KafkaSecurity } from '../bus/kafkaSecurity.ts'
import type { Pools } from '../bus/pools.ts'
import { type ConsumersLag, patientLook } from '../consumers/lag.ts'
import { isAsyncId } from '../core/asyncId.ts'
import type { Request } from '../core/request.ts'
import { activeTraceparent } from '../observe/spans.ts'
import type { Sql } from '../postgres/connect.ts'
import { removeInPortions } from '../postgres/portions.ts'
import type { Sagas } from '../saga/sagas.ts'
import type { Router } from '../shards/router.ts'
import type { Directory } from '../tenants/directory.ts'
import { createEmbeddedQueue } from './embeddedQueue.ts'
import { type AsyncEnd, addEnds, ENDS_KEPT_US, findEnd, pruneEnds } from './ends.ts'
import { createKafkaQueue } from './kafkaQueue.ts'
import { messageText } from './message.ts'
import { COUNTED_MAX, type RequestQueue } from './requestQueue.ts'
import { createSettle } from './settle.ts'
import { createShardWatch } from './shardWatch.ts'
import { countDead, countQueued } from './sql/queue.ts'

/** Requests that are accepted now and posted later. */
export type Later = {
  /** Takes a request in, for good. @throws QueueSaturated, QueueUnavailable */
  accept(request: Request): Promise<void>
  /** Whether that is the id of a request that may have been accepted for this tenant. */
  mayBe(tenantId: string, id: string): boolean
  /** How such a request ended, if the ledger has no record of it. */
  end(tenantId: string, id: string): Promise<AsyncEnd | undefined>
}

/** Since this node started: requests that it took in, that it saw posted or refused, and that it set aside. */
export type AsyncCounts = { accepted: number; posted: number; dead: number }

export type QueueOptions = {
  /** `host:port` of Kafka brokers; empty: tables on the shards are the queue. */
  brokers: readonly string[]
  security?: KafkaSecurity | undefined
  partitions: number
  shards: () => readonly number[]
  urlOf: (shard: number) => string | undefined
  shardOf: (id: string) => number
  onTrouble: (error: unknown) => void
}

export function openQueue({
  brokers,
  security = {},
  partitions,
  shards,
  urlOf,
  shardOf,
  onTrouble,
}: QueueOptions): RequestQueue {
  return brokers.length > 0
    ? createKafkaQueue({ brokers, security, partitions, onTrouble })
    : createEmbeddedQueue({ shards, urlOf, shardOf, onTrouble })
}

/**
 * How many requests wait in the tables of the shards, or were set aside there, where nobody looks while Kafka is the queue. Shards that do not
 * answer say nothing.
 */
export async function countLeftOver(shards: readonly number[], pools: Pools): Promise<number> {
  const counts = await Promise.allSettled(
    shards.flatMap((shard) => [countQueued, countDead].map((count) => count(pools(shard), COUNTED_MAX))),
  )
  return counts.reduce((sum, count) => sum + (count.status === 'fulfilled' ? count.value : 0), 0)
}

export type AsyncOptions = {
  queue: RequestQueue
  router: Router
  sagas: Sagas
  directory: Pick<Directory, 'hasTenant'>
  /** The first shard's database; closed by whoever opened it. */
  sql: Sql
  /** Whether this node posts what is in the queue, too. */
  works: boolean
  /** Told how many more were accepted, posted or set aside. */
  onCount?: (what: keyof AsyncCounts, count: number) => void
  onTrouble: (error: unknown) => void
}

/** Has requests accepted for later, and, if this node is to, posted. */
export function startAsync({
  queue,
  router,
  sagas,
  directory,
  sql,
  works,
  onCount = () => {},
  onTrouble,
}: AsyncOptions): {
  readonly later: Later
  readonly counts: Readonly<AsyncCounts>
  /** How many requests wait, as of a consumer group; within seconds, never throws. */
  lag(): Promise<ConsumersLag['groups'][number]>
  /** Leaves the posting to other nodes; requests are still accepted. */
  leaveOff(): Promise<void>
  /** Accepts nothing more either. */
  stop(): Promise<void>
} {
  const watch = createShardWatch(async (shard) => await router.shard(shard).reader.ping())
  const counts: AsyncCounts = { accepted: 0, posted: 0, dead: 0 }
  const look = patientLook(() => queue.waiting())
  const pruning = removeInPortions(
    (limit) => pruneEnds(sql, { beforeUs: Date.now() * 1000 - ENDS_KEPT_US, limit }),
    onTrouble,
  )
  let working: Subscription | undefined
  if (works) {
    const settle = createSettle({
      ...{ sagas, router, watch, onTrouble },
      knowsTenant: (tenantId) => directory.hasTenant(tenantId),
      addEnds: (ends) => addEnds(sql, ends),
      count(posted, dead) {
        counts.posted += posted
        counts.dead += dead
        onCount('posted', posted)
        onCount('dead', dead)
      },
    })
    working = queue.work(settle)
  }
  return {
    counts,
    lag: async () => ({ group: 'posting', messages: await look() }),
    later: {
      async accept(request) {
        const { id, scope } = request
        const traceparent = activeTraceparent()
        await queue.add({ id, scope, text: messageText(request), ...(traceparent && { traceparent }) })
        counts.accepted += 1
        onCount('accepted', 1)
      },
      mayBe: isAsyncId,
      end: (tenantId, id) => findEnd(sql, tenantId, id),
    },
    async leaveOff() {
      await Promise.all([working?.stop(), pruning.stop()])
    },
    async stop() {
      await queue.close()
      watch.stop()
    },
  }
}
