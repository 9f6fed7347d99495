import { setTimeout as sleep } from 'node:timers/promises'

/**
 * The order in which a node ends, and how much of the whole time must be left when a phase is over, in milliseconds:
 *
 *   answers    takes nothing more in and answers what has come; and at the same time all that works by itself leaves off: leases are let go
 *   sagas      nobody submits any more: they stay where they stand, other nodes take them up
 *   shards     what was submitted is posted
 *   pools      connections are closed
 *   databases  an embedded server is stopped
 */
const LEFT_MS = { answers: 9_000, sagas: 8_000, shards: 4_000, pools: 2_500, databases: 0 } as const
export type Phase = keyof typeof LEFT_MS
const PHASES = Object.keys(LEFT_MS) as Phase[]

/** What is to be ended when a node stops, or does not come up. */
export type Stopping = {
  /** @param name for those who read that it took too long */
  add(phase: Phase, name: string, end: () => Promise<unknown>): void
  /**
   * Ends it all: phase after phase, what is in one at the same time. All of it shares one limit: what takes longer is left behind, and
   * told of. It is as good as killed, which nothing here minds. A second call waits for the first.
   */
  stop(): Promise<void>
}

/**
 * @param msMax how long stopping may take
 * @param onLate told what was left behind
 * @param onTrouble told what failed to end; the rest ends all the same
 */
export function createStopping(
  msMax: number,
  { onLate, onTrouble }: { onLate: (names: readonly string[]) => void; onTrouble: (error: unknown) => void },
): Stopping {
  const endings = new Map<Phase, { name: string; end: () => Promise<unknown> }[]>()
  let stopped: Promise<void> | undefined

  async function endAll(phase: Phase, deadlineMs: number): Promise<void> {
    const late = new Set<string>()
    const over = new AbortController()
    const ended = (endings.get(phase) ?? []).map(async ({ name, end }) => {
      late.add(name)
      try {
        await end()
      } catch (error) {
        onTrouble(error)
      }
      late.delete(name)
    })
    const limit = sleep(Math.max(0, deadlineMs - Date.now()), undefined, { signal: over.signal }).catch(() => {})
    await Promise.race([Promise.all(ended), limit])
    over.abort()
    if (late.size > 0) onLate([...late])
  }

  async function stop(): Promise<void> {
    const beganMs = Date.now()
    // On a short time all phases have their part of it.
    const share = Math.min(1, msMax / (LEFT_MS.answers * 2))
    for (const phase of PHASES) await endAll(phase, beganMs + msMax - LEFT_MS[phase] * share)
  }

  return {
    add(phase, name, end) {
      endings.set(phase, [...(endings.get(phase) ?? []), { name, end }])
    },
    stop() {
      stopped ??= stop()
      return stopped
    },
  }
}
