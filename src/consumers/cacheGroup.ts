import type { ConsumerGroup } from '../bus/bus.ts'
import { ENTRIES, type EntryData, type LedgerEvent } from '../bus/events.ts'
import type { BalanceCache, CachedBalance } from '../cache/cache.ts'
import { parseId } from '../core/ids.ts'
import { parseTime } from '../core/time.ts'

/**
 * The consumer group that repairs the balance cache: whatever a node could not write after its blocks comes by here. It puts right what is
 * there, and adds nothing: it may be far behind. While the cache is away, the group waits for it.
 */
export function cacheGroup(cache: Pick<BalanceCache, 'repair'>): ConsumerGroup {
  return {
    name: 'cache',
    topics: [ENTRIES],
    // What was there before the group is older than anything that a cache still has.
    skips: async ({ after }) => after === 0,
    async handle(events) {
      // Of each wallet the last word: in a batch they are in order.
      const last = new Map(events.map((event) => [event.key, event]))
      await cache.repair([...last.values()].map(balanceOf))
    },
  }
}

/** The balance of a wallet after an entry. @throws for an event that is not of an entry, which is a bug */
function balanceOf({ id, tenant, time, data }: LedgerEvent): CachedBalance {
  const { walletId, currency, sequence, balance } = data as EntryData
  const [wallet, tenantId, asOfUs] = [parseId('wal', walletId), parseId('ten', tenant), parseTime(time)]
  if (wallet === undefined || tenantId === undefined || asOfUs === undefined) {
    throw new Error(`event ${id} names no wallet of a tenant, or no time`)
  }
  return {
    ...{ tenantId, walletId: wallet, currency, version: sequence, asOfUs },
    ...{ posted: BigInt(balance.posted), pendingIn: BigInt(balance.pendingIn), pendingOut: BigInt(balance.pendingOut) },
  }
}
