import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Subscription, stopAll } from '../bus/bus.ts'
import { backoffMs } from '../bus/follow.ts'
import { createPools, onEachShard } from '../bus/pools.ts'
import { leaveLease, takeLease } from '../bus/position.ts'
import { formatId, parseId } from '../core/ids.ts'
import { createGather } from './gather.ts'
import { COUNTED_MAX, type DeadLetter, IN_FLIGHT_MAX, type RequestQueue, type Settle } from './requestQueue.ts'
import {
  addQueued,
  countQueued,
  type QueuedRow,
  readDead,
  readQueued,
  recordDispositions,
  reviveDead,
} from './sql/queue.ts'

export type EmbeddedQueueOptions = {
  /** The numbers of the shards, as of now. */
  shards: () => readonly number[]
  urlOf: (shard: number) => string | undefined
  /** The shard that a request is kept on. */
  shardOf: (id: string) => number
  onTrouble: (error: unknown) => void
  /** How long a node that vanished is waited for. */
  leaseMs?: number
}

const CONNECTIONS = 2
const BATCH_MAX = 1_000
const LEASE_MS = 4_000
/** Who has the lease may settle; nothing goes wrong if two do. */
const LEASE = 'queued requests'
/** Idle: how long until the next look, from the first to the tenth in vain. */
const POLL_MS = 10
/** So often the table is read from the beginning again. */
const AGAIN_MS = 1_000
const POLL_MS_MAX = 100

/**
 * The queue without a broker: a table on each shard, where a request lies that routes there. It comes when that database takes it, and goes when
 * it is posted. One node at a time settles a shard's, by a lease in that database; another takes over when it is gone, from what is there.
 */
export function createEmbeddedQueue({
  shards,
  urlOf,
  shardOf,
  onTrouble,
  leaseMs = LEASE_MS,
}: EmbeddedQueueOptions): RequestQueue {
  const pool = createPools(urlOf, 'zerosum queue', CONNECTIONS)
  const gathers = new Map<number, ReturnType<typeof createGather>>()
  const subscriptions: Subscription[] = []
  /** Wakes those who wait for something to come to a shard. */
  const wakers = new Map<number, () => void>()

  function gatherFor(shard: number): ReturnType<typeof createGather> {
    const known = gathers.get(shard)
    if (known) return known
    const gather = createGather({
      async write(requests) {
        await addQueued(pool(shard), requests)
        wakers.get(shard)?.()
      },
      onTrouble,
    })
    gathers.set(shard, gather)
    return gather
  }

  function workOn(shard: number, settle: Settle): Subscription {
    const stopping = new AbortController()
    const { signal } = stopping
    const pause = (ms: number) => sleep(ms, undefined, { signal }).catch(() => {})
    const holder = randomUUID()

    async function run(): Promise<void> {
      for (let failures = 0; !signal.aborted; ) {
        try {
          const lease = await takeLease(pool(shard), LEASE, holder, leaseMs)
          if (lease) await lead(lease.epoch)
          else await pause(leaseMs / 8)
          failures = 0
        } catch (error) {
          if (signal.aborted) return
          onTrouble(error)
          await pause(backoffMs(failures++))
        }
      }
    }

    /** Until the lease is lost, or this stops. @throws what the database throws */
    async function lead(epoch: number): Promise<void> {
      const busy = new Set<string>()
      const batches = new Set<Promise<void>>()
      let keptMs = Date.now()
      let idle = 0
      /** How far the table was read, since when. */
      let afterUs = -1
      let begunMs = 0
      try {
        while (!signal.aborted) {
          if (Date.now() - keptMs > leaseMs / 4) {
            if ((await takeLease(pool(shard), LEASE, holder, leaseMs))?.epoch !== epoch) return
            keptMs = Date.now()
          }
          if (batches.size >= IN_FLIGHT_MAX) {
            // Or so that the lease is kept meanwhile.
            await Promise.race([...batches, pause(leaseMs / 4)])
            continue
          }
          // What was added at the same time, and committed later, is found from the beginning.
          if (batches.size === 0 || Date.now() - begunMs > AGAIN_MS) {
            afterUs = -1
            begunMs = Date.now()
          }
          const read = await readQueued(pool(shard), afterUs, BATCH_MAX)
          afterUs = read.at(-1)?.dueUs ?? afterUs
          const rows = read.filter(({ id }) => !busy.has(id))
          if (rows.length === 0) {
            if (read.length === 0) await news(Math.min(POLL_MS_MAX, POLL_MS * ++idle))
            continue
          }
          idle = 0
          for (const { id } of rows) busy.add(id)
          const batch = settleRows(rows).finally(() => {
            for (const { id } of rows) busy.delete(id)
            batches.delete(batch)
          })
          batches.add(batch)
        }
      } finally {
        await Promise.all(batches)
        await leaveLease(pool(shard), LEASE, epoch).catch(() => {}) // then others wait until it ends
      }
    }

    /** What fails here is still in the table, and comes again. */
    async function settleRows(rows: readonly QueuedRow[]): Promise<void> {
      try {
        const dispositions = await settle(rows, signal)
        const settled = rows.flatMap(({ id }, i) => {
          const disposition = dispositions[i]
          return disposition ? [{ id, disposition }] : []
        })
        await recordDispositions(pool(shard), settled)
      } catch (error) {
        if (signal.aborted) return
        onTrouble(error)
        await pause(backoffMs(3))
      }
    }

    async function news(ms: number): Promise<void> {
      const woken = new Promise<void>((done) => wakers.set(shard, done))
      await Promise.race([woken, pause(ms)])
    }

    const running = run()
    return {
      async stop() {
        stopping.abort()
        await running
      },
    }
  }

  return {
    async add(request) {
      await gatherFor(shardOf(request.id)).add(request)
    },
    work(settle) {
      const subscription = onEachShard(shards, (shard) => workOn(shard, settle))
      subscriptions.push(subscription)
      return subscription
    },
    async waiting() {
      const counts = await Promise.all(shards().map((shard) => countQueued(pool(shard), COUNTED_MAX)))
      return counts.reduce((sum, count) => sum + count, 0)
    },
    async dead(limit) {
      const letters: DeadLetter[] = []
      for (const shard of shards()) {
        for (const { id, ...row } of await readDead(pool(shard), limit - letters.length)) {
          letters.push({ name: formatId('trf', id), origin: `shard ${shard}`, ...row })
        }
      }
      return letters
    },
    async revive(which) {
      const ids = which === 'all' ? null : which.flatMap((name) => parseId('trf', name) ?? [])
      const counts = await Promise.all(shards().map((shard) => reviveDead(pool(shard), ids)))
      return counts.reduce((sum, count) => sum + count, 0)
    },
    async close() {
      await stopAll(subscriptions)
      await pool.end()
    },
  }
}
