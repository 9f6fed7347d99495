import { LRUCache } from 'lru-cache'
import type { TargetRules } from './target.ts'

const HOSTS_MAX = 1_000
const HOUR_MS = 3_600_000

/** Passes on why a host is refused, once an hour for each host and reason: it is asked about with every delivery. */
export function sometimes(tell: NonNullable<TargetRules['onRefused']>): NonNullable<TargetRules['onRefused']> {
  const told = new LRUCache<string, true>({ max: HOSTS_MAX, ttl: HOUR_MS })
  return (refused) => {
    const key = `${refused.host} ${refused.why}`
    if (told.has(key)) return
    told.set(key, true)
    tell(refused)
  }
}
