import { performance } from 'node:perf_hooks'
import { createLoadLimit, type Priority } from './loadLimit.ts'

/** Whether this node has room for another request. */
export type Shedding = {
  /** @param weight 1 for a small request; more for what is more work */
  admit(tenantId: string, priority: Priority, weight: number): boolean
  /** What may be let in, weight a second; `undefined` while there is no limit. */
  readonly perSecond: number | undefined
  stop(): void
}

const WINDOW_MS = 100
/** Of the windows over which utilization is taken together: a single one is all work or all rest. */
const UTILIZATION_WINDOWS = 5

/**
 * Watches this process's event loop, and sets by it what may be let in (loadLimit.ts).
 * @param lagMsMax how late a busy event loop may be
 */
export function startShedding(lagMsMax: number): Shedding {
  const limit = createLoadLimit(WINDOW_MS, lagMsMax)
  const past = Array.from({ length: UTILIZATION_WINDOWS }, () => performance.eventLoopUtilization())
  let beganMs = performance.now()
  const timer = setInterval(() => {
    const nowMs = performance.now()
    const elapsedMs = nowMs - beganMs
    beganMs = nowMs
    const now = performance.eventLoopUtilization()
    const { utilization } = performance.eventLoopUtilization(now, past.shift())
    past.push(now)
    limit.tick({ elapsedMs, lagMs: elapsedMs - WINDOW_MS, utilization })
  }, WINDOW_MS).unref()
  return {
    admit: (tenantId, priority, weight) => limit.admit(tenantId, priority, weight, Math.random()),
    get perSecond() {
      return limit.perSecond
    },
    stop: () => clearInterval(timer),
  }
}
