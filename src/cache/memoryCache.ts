import { LRUCache } from 'lru-cache'
import { type BalanceCache, type Cached, isNewer, LIFETIMES, type Lifetimes, lifetimeMs } from './cache.ts'

export type MemoryCacheOptions = {
  /** Wallets at most; those that nobody has read for the longest go first. */
  entriesMax?: number
  lifetimes?: Lifetimes
  /** A clock that only goes forward, milliseconds. */
  now?: () => number
}

/**
 * A cache in the memory of this node: what the other nodes post is not in it before somebody tells (the bus, to every node). Where nobody
 * does, it is for a node that runs alone.
 */
export function createMemoryCache({
  entriesMax = 100_000,
  lifetimes = LIFETIMES,
  now = () => performance.now(),
}: MemoryCacheOptions = {}): BalanceCache {
  // `ttlResolution: 0` looks at the clock each time, so that a clock which stands still in a test is seen to move.
  const entries = new LRUCache<string, Cached>({ max: entriesMax, perf: { now }, ttlResolution: 0 })
  return {
    read: async (walletId) => entries.get(walletId),
    async write(written) {
      for (const entry of written) {
        const known = entries.peek(entry.walletId)
        if (known === undefined || isNewer(entry, known)) {
          entries.set(entry.walletId, entry, { ttl: lifetimeMs(entry, lifetimes) })
        }
      }
    },
    async repair(written) {
      for (const entry of written) {
        const known = entries.peek(entry.walletId)
        if (known !== undefined && isNewer(entry, known)) {
          entries.set(entry.walletId, entry, { ttl: lifetimeMs(entry, lifetimes) })
        }
      }
    },
    async forget(walletIds) {
      for (const id of walletIds) entries.delete(id)
    },
    async close() {
      entries.clear()
    },
  }
}
