import { randomUUID } from 'node:crypto'
import { BATCH_MAX, type Bus, type ConsumerGroup, checkedName, type Subscription, stopAll } from './bus.ts'
import { eventsOf, type LedgerEvent } from './events.ts'
import { follow } from './follow.ts'
import { marksOfBlocks } from './marks.ts'
import { BACKGROUND_CONNECTIONS, createPools, lent, onEachShard, type Pools } from './pools.ts'
import { type Lag, readLag, rewindReader } from './position.ts'
import { inGroup } from './spans.ts'

export type EmbeddedBusOptions = {
  /** The numbers of the shards, as of now. */
  shards: () => readonly number[]
  urlOf: (shard: number) => string | undefined
  /** Pools on the shards' databases that others use too; else it opens its own. */
  pools?: Pools | undefined
  onTrouble: (error: unknown) => void
  /** Told that trouble is over. */
  onWell?: ((message: string) => void) | undefined
  /** How long a node that vanished is waited for. */
  leaseMs?: number
}

export type EmbeddedBus = Bus & {
  /** How far a group is behind, of each shard; throws if one of them can't be asked. */
  lag(name: string): Promise<Lag[]>
  lagOn(name: string, shard: number): Promise<Lag>
  /**
   * Has a group take all events of blocks from this time on again (microseconds since 1970), in order; marks that it keeps must be forgotten
   * by itself (`forgetMarks`). What was delivered before and is still being handled is refused by its marks.
   */
  rewind(name: string, sinceUs: number): Promise<void>
}

/**
 * The bus without a broker: each shard's blocks are the log, and nothing is copied. A group's offset on a shard, and the lease of the node
 * that is at it, stand in that shard's database. Where Kafka
 * was the bus before, or will be, marks tell what was done (marks.ts).
 */
export function createEmbeddedBus({
  shards,
  urlOf,
  pools,
  onTrouble,
  onWell,
  leaseMs,
}: EmbeddedBusOptions): EmbeddedBus {
  const pool = pools ? lent(pools) : createPools(urlOf, 'zerosum bus', BACKGROUND_CONNECTIONS)
  const subscriptions: Subscription[] = []

  function subscribe({ name, topics, handle, skips }: ConsumerGroup): Subscription {
    const reader = readerOf(name)
    const wanted: ReadonlySet<string> = new Set(topics)
    async function deliver(events: readonly LedgerEvent[], signal: AbortSignal, confirm: () => Promise<void>) {
      const mine = events.filter(({ topic }) => wanted.has(topic))
      for (let begin = 0; begin < mine.length; begin += BATCH_MAX) {
        signal.throwIfAborted()
        await inGroup(name, mine.slice(begin, begin + BATCH_MAX), async (batch) => {
          await handle(batch, marksOfBlocks(name, batch, confirm))
        })
      }
    }
    const holder = randomUUID()
    const subscription = onEachShard(shards, (shard) =>
      follow({
        ...{ reader, shard, pool, holder, onTrouble, onWell },
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
    lagOn: async (name, shard) => await readLag(pool(shard), readerOf(name), shard),
    async close() {
      await stopAll(subscriptions)
      await pool.end()
    },
  }
}

function readerOf(name: string): string {
  return `group ${checkedName(name)}`
}
