import { setTimeout as sleep } from 'node:timers/promises'

const INTERVAL_MS = 600_000
/** Between portions, while there is more. */
const PAUSE_MS = 1_000
const PORTION = 1_000

/**
 * Removes what is old again and again, a portion at a time: no statement takes long, and nobody waits for it.
 * @param remove up to so many. @returns how many there were
 */
export function removeInPortions(
  remove: (limit: number) => Promise<number>,
  onTrouble: (error: unknown) => void,
  intervalMs = INTERVAL_MS,
): { stop(): Promise<void> } {
  const stopping = new AbortController()
  const { signal } = stopping
  const pause = (ms: number) => sleep(ms, undefined, { signal }).catch(() => {})

  async function run(): Promise<void> {
    await pause(intervalMs * Math.random())
    while (!signal.aborted) {
      const removed = await remove(PORTION).catch((error: unknown) => {
        onTrouble(error)
        return 0
      })
      await pause(removed === PORTION ? PAUSE_MS : intervalMs * (0.5 + Math.random()))
    }
  }

  const running = run()
  return {
    async stop() {
      stopping.abort()
      await running
    },
  }
}
