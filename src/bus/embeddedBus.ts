import { randomUUID } from 'node:crypto'
import { BATCH_MAX, type Bus, type ConsumerGroup, checkedName, type Subscription, stopAll } from './bus.ts'
import { eventsOf, type LedgerEvent } from './events.ts'
import { follow } from './follow.ts'
import { marksOf } from './marks.ts'
import { createPools, onEachShard } from './pools.ts'
import { type Lag, readLag, rewindReader } from './position.ts'

export type EmbeddedBusOptions = {
  /** The numbers of the shards, as of now. */
  shards: () => readonly number[]
  urlOf: (shard: number) => string | undefined
  onTrouble: (error: unknown) => void
  /** How long a node that vanished is waited for. */
  leaseMs?: number
}

const CONNECTIONS = 3

/** The bus, and how far its groups are behind. */
export type EmbeddedBus = Bus & { lag(name: string): Promise<Lag[]> }

/**
 * The bus without a broker: each shard's blocks are the log, and nothing is copied. A group's offset on a shard, and the lease of the node
 * that is at it, stand in that shard's database. Streams have one partition, 0.
 */
export function createEmbeddedBus({ shards, urlOf, onTrouble, leaseMs }: EmbeddedBusOptions): EmbeddedBus {
  const pool = createPools(urlOf, 'zerosum bus', CONNECTIONS)
  const subscriptions: Subscription[] = []

  function subscribe({ name, topics, handle, skips }: ConsumerGroup): Subscription {
    const reader = readerOf(name)
    const wanted: ReadonlySet<string> = new Set(topics)
    async function deliver(events: readonly LedgerEvent[], signal: AbortSignal, confirm: () => Promise<void>) {
      const mine = events.filter(({ topic }) => wanted.has(topic))
      for (let begin = 0; begin < mine.length; begin += BATCH_MAX) {
        signal.throwIfAborted()
        const batch = mine.slice(begin, begin + BATCH_MAX)
        const delivered = batch.map((event) => ({ event, partition: 0 }))
        await handle(batch, marksOf(name, delivered, confirm))
      }
    }
    const holder = randomUUID()
    const subscription = onEachShard(shards, (shard) =>
      follow({
        ...{ reader, shard, pool, holder, onTrouble },
        ...(leaseMs === undefined ? {} : { leaseMs }),
        ...(skips ? { skips } : {}),
        handle: (blocks, signal, confirm) => deliver(blocks.flatMap(eventsOf), signal, confirm),
      }),
    )
    subscriptions.push(subscription)
    return subscription
  }

  return {
    subscribe,
    async rewind(name, sinceUs) {
      for (const shard of shards()) await rewindReader(pool(shard), readerOf(name), sinceUs)
    },
    lag: (name) => Promise.all(shards().map((shard) => readLag(pool(shard), readerOf(name), shard))),
    async close() {
      await stopAll(subscriptions)
      await pool.end()
    },
  }
}

function readerOf(name: string): string {
  return `group ${checkedName(name)}`
}
