/** What is asked for: money movement goes before everything else. */
export type Priority = 'money' | 'other'

/** What this process can take, found out by how it fares. Pure: time, measures and chance come in as data. */
export type LoadLimit = {
  /**
   * Whether there is room for a request now. What is let in counts against the tenant's share.
   * @param weight 1 for a small request; more for what is more work
   * @param chance in [0, 1), at random: shares are fractions
   */
  admit(tenantId: string, priority: Priority, weight: number, chance: number): boolean
  /** Looks back at a window and sets what may be let in during the next. */
  tick(measure: Measure): void
  /** Weight a second; `undefined` while there is no limit. */
  readonly perSecond: number | undefined
}

/** How a window went. */
export type Measure = {
  /** How long it really was, in milliseconds. */
  readonly elapsedMs: number
  /** How long a request that comes now can expect to be in this process, in milliseconds. */
  readonly ageMs: number
  /** What was served lately, in weight a second. */
  readonly servedPerSecond: number
  /** The part of lately in which the event loop was at work, 0 to 1. */
  readonly utilization: number
}

/** Requests also grow old by a pause (garbage) or by waiting for a silent shard: only a loop that has no rest, for so long, is full. */
const UTILIZATION_MAX = 0.9
const FULL_MS = 500
const LESS = 0.8
const MORE = 1.03
/** At most so much more at once, when the loop has rest and yet something is refused. */
const MORE_MAX = 1.3
/** Windows after which it is seen what a lower limit does. */
const EFFECT_WINDOWS = 5
/** It never goes lower, a second. */
const PER_SECOND_MIN = 20
/** Windows without a refusal after which there is no limit any more. */
const CALM_WINDOWS = 10
/** What a request costs is learned while so many are served and none is refused; the newest counts for that part. */
const LEARN_PER_SECOND_MIN = 100
const LEARN_PART = 0.2
/** When serving takes less of the time than that, the rest is refusing: to serve less would not help. */
const SERVING_MIN = 0.5
/** What is left for all else when money movement could take everything. */
const OTHER_PART = 0.05

type Window = { asked: Map<string, number>; admitted: Map<string, number>; share: number }

/**
 * Additive increase is too slow for a wallet and a fixed limit is wrong on every other machine: so the limit begins below what was served when
 * requests first grew too old, falls while they do, and rises while they do not. Within it tenants share by need: whoever asks for
 * little gets all of it, the rest is even (max-min fairness), by what they asked for in the window before. Money movement has its share
 * first, everything else what that leaves, and a twentieth at least.
 *
 * Refusing is work too: beyond some load the process has too much to do whatever it lets in. Then half of its time is for serving, so that
 * something gets done.
 * @param windowMs between ticks
 * @param ageMsMax an event loop that has no rest, and in which requests grow older than that, has too much to do
 */
export function createLoadLimit(windowMs: number, ageMsMax: number): LoadLimit {
  const windows: Record<Priority, Window> = { money: emptyWindow(), other: emptyWindow() }
  let perSecond: number | undefined
  let isRefusing = false
  let calm = 0
  let fullMs = 0
  let sinceCut = EFFECT_WINDOWS
  /** What one of weight 1 takes, in milliseconds. */
  let costMs: number | undefined

  function adjust({ elapsedMs, ageMs, servedPerSecond, utilization }: Measure): void {
    if (!isRefusing && servedPerSecond >= LEARN_PER_SECOND_MIN) {
      const latelyMs = (1_000 * utilization) / servedPerSecond
      costMs = costMs === undefined ? latelyMs : costMs + (latelyMs - costMs) * LEARN_PART
    }
    fullMs = ageMs > ageMsMax && utilization > UTILIZATION_MAX ? fullMs + elapsedMs : 0
    sinceCut += 1
    if (fullMs > (perSecond === undefined ? FULL_MS : 0)) {
      calm = 0
      if (sinceCut < EFFECT_WINDOWS) return
      sinceCut = 0
      const leastPerSecond =
        costMs === undefined ? PER_SECOND_MIN : Math.max(PER_SECOND_MIN, (SERVING_MIN * 1_000) / costMs)
      perSecond = Math.max(leastPerSecond, Math.min(perSecond ?? Infinity, servedPerSecond) * LESS)
    } else if (perSecond !== undefined) {
      calm = isRefusing ? 0 : calm + 1
      if (isRefusing) perSecond *= Math.min(MORE_MAX, Math.max(MORE, UTILIZATION_MAX / utilization))
      if (calm >= CALM_WINDOWS) perSecond = undefined
    }
  }

  function share(): void {
    const budget = perSecond === undefined ? Infinity : (perSecond * windowMs) / 1_000
    const { money, other } = windows
    money.share = level([...money.asked.values()], budget)
    const taken = [...money.asked.values()].reduce((sum, asked) => sum + Math.min(asked, money.share), 0)
    other.share = level([...other.asked.values()], Math.max(budget - taken, budget * OTHER_PART))
    for (const window of [money, other]) {
      window.asked.clear()
      window.admitted.clear()
    }
  }

  return {
    admit(tenantId, priority, weight, chance) {
      const window = windows[priority]
      window.asked.set(tenantId, (window.asked.get(tenantId) ?? 0) + weight)
      const before = window.admitted.get(tenantId) ?? 0
      if (perSecond !== undefined && before + weight > window.share && chance >= (window.share - before) / weight) {
        isRefusing = true
        return false
      }
      window.admitted.set(tenantId, before + weight)
      return true
    },
    tick(measure) {
      adjust(measure)
      isRefusing = false
      share()
    },
    get perSecond() {
      return perSecond
    },
  }
}

function emptyWindow(): Window {
  return { asked: new Map(), admitted: new Map(), share: Infinity }
}

/** The level up to which each demand can be met so that all together are the budget. If all can be met, each may also grow by what is left. */
function level(demands: number[], budget: number): number {
  let left = budget
  let open = demands.length
  let largest = 0
  for (const demand of demands.toSorted((a, b) => a - b)) {
    if (demand * open > left) return left / open
    left -= demand
    open -= 1
    largest = demand
  }
  return largest + left
}
