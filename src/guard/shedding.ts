import { performance } from 'node:perf_hooks'
import { createLoadLimit, type Priority } from './loadLimit.ts'

/** Whether this node has room for another request. */
export type Shedding = {
  /** @param weight 1 for a small request; more for what is more work */
  admit(tenantId: string, priority: Priority, weight: number): boolean
  /** What was let in begins; to be called when it is answered or broken off. Not for what has no end of its own. */
  began(weight: number): () => void
  /** What may be let in, weight a second; `undefined` while there is no limit. */
  readonly perSecond: number | undefined
  stop(): void
}

const WINDOW_MS = 100
/** Of the windows that are looked at together: a single one is all work or all rest. */
const WINDOWS = 5
/** Fewer requests are no crowd: that they take long has another reason than each other. */
const CROWD_MIN = 50
/** A window that is over for so long is looked at by whoever comes: a loop that has no rest may not come to its timers for seconds. */
const OVERDUE_MS = 50

/**
 * Watches this process's event loop and how many requests are in it, and sets by them what may be let in (loadLimit.ts). The loop's lag
 * alone would not do: a thousand waiting requests are a thousand short tasks, between which its timers come in time.
 * @param ageMsMax how long requests may be in here while the event loop has no rest
 */
export function startShedding(ageMsMax: number): Shedding {
  const limit = createLoadLimit(WINDOW_MS, ageMsMax)
  // In weight.
  let present = 0
  let ended = 0
  let count = 0
  const take = () => ({ ms: performance.now(), ended, loop: performance.eventLoopUtilization() })
  const past = Array.from({ length: WINDOWS }, take)
  let last = take()

  function look(): void {
    const now = take()
    const first = past.shift() ?? now
    past.push(now)
    const elapsedMs = now.ms - last.ms
    // By Little's law, and what came in while the loop could not look.
    const servedPerSecond = (1_000 * (now.ended - first.ended)) / (now.ms - first.ms)
    const ageMs = count < CROWD_MIN ? 0 : (1_000 * present) / Math.max(1, servedPerSecond) + elapsedMs - WINDOW_MS
    const { utilization } = performance.eventLoopUtilization(now.loop, first.loop)
    last = now
    limit.tick({ elapsedMs, ageMs, servedPerSecond, utilization })
  }

  const timer = setInterval(look, WINDOW_MS).unref()
  return {
    admit(tenantId, priority, weight) {
      if (performance.now() - last.ms > WINDOW_MS + OVERDUE_MS) look()
      return limit.admit(tenantId, priority, weight, Math.random())
    },
    began(weight) {
      present += weight
      count += 1
      return () => {
        present -= weight
        count -= 1
        ended += weight
      }
    },
    get perSecond() {
      return limit.perSecond
    },
    stop: () => clearInterval(timer),
  }
}
