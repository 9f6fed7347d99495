import { LRUCache } from 'lru-cache'

/** How much a tenant may ask for. */
export type TenantRate = {
  /** Takes from what the tenant has left. */
  take(tenantId: string, weight: number): Taken
  /** A second, and what may come at once. */
  readonly perSecond: number
}

export type Taken = {
  readonly isTaken: boolean
  /** What is left to be asked at once. */
  readonly left: number
  /** Seconds until there is enough for what was asked, or, if it was taken, until all is there again. */
  readonly waitSeconds: number
}

/** Of tenants that asked lately; who has not is taken to have all that it may. */
const TENANTS_MAX = 10_000

/**
 * A token bucket for each tenant, which holds what comes in a second (the generic cell rate algorithm: one number each, the time when it
 * will be full again). What weighs more than a bucket holds needs a full one.
 * @param perSecond more than 0
 * @param now milliseconds, from any beginning
 */
export function createTenantRate(perSecond: number, now: () => number = () => performance.now()): TenantRate {
  const fullMs = new LRUCache<string, number>({ max: TENANTS_MAX })
  const msEach = 1_000 / perSecond

  return {
    take(tenantId, weight) {
      const nowMs = now()
      const emptyMs = Math.max(0, (fullMs.get(tenantId) ?? 0) - nowMs)
      // Not by multiplying: what fills a bucket must not be a rounding more than fits.
      const needed = weight >= perSecond ? 1_000 : weight * msEach
      if (emptyMs + needed > 1_000) {
        return { isTaken: false, left: leftOf(emptyMs), waitSeconds: (emptyMs + needed - 1_000) / 1_000 }
      }
      const afterMs = emptyMs + weight * msEach
      fullMs.set(tenantId, nowMs + afterMs)
      return { isTaken: true, left: leftOf(afterMs), waitSeconds: afterMs / 1_000 }
    },
    perSecond,
  }

  function leftOf(emptyMs: number): number {
    return Math.max(0, Math.floor((1_000 - emptyMs) / msEach))
  }
}
