import { setTimeout as sleep } from 'node:timers/promises'
import { backoffMs } from '../bus/follow.ts'
import type { Outage } from '../bus/outage.ts'

/** What is due comes up in steps of that. */
const STEP_MS = 500

/**
 * Does something with each of these when it is due, together with what is due in the same half second. What fails is tried again by itself,
 * until it goes through: if all were tried again, what had gone through would be done once more each time.
 * @param dueMsOf milliseconds since 1970
 * @throws when the signal is aborted before all is done; by then nothing of it is under way any more
 */
export async function whenDue<T>(
  items: readonly T[],
  dueMsOf: (item: T) => number,
  work: (due: readonly T[]) => Promise<void>,
  { signal, outage }: { signal: AbortSignal; outage: Pick<Outage, 'failed' | 'worked'> },
): Promise<void> {
  async function doStep(step: number, due: readonly T[]): Promise<void> {
    await sleep(Math.max(0, step * STEP_MS - Date.now()), undefined, { signal })
    for (let failures = 0; ; failures++) {
      try {
        await work(due)
        outage.worked()
        return
      } catch (error) {
        signal.throwIfAborted()
        outage.failed(error)
        await sleep(backoffMs(failures), undefined, { signal })
      }
    }
  }
  const steps = Map.groupBy(items, (item) => Math.ceil(dueMsOf(item) / STEP_MS))
  // None is rejected but when all are broken off.
  const ends = await Promise.allSettled([...steps].map(([step, due]) => doStep(step, due)))
  for (const end of ends) if (end.status === 'rejected') throw end.reason
}
