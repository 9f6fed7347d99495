import { setTimeout as sleep } from 'node:timers/promises'

/** A batch of so many events is one of many: whoever has it is behind, and catches up. */
const CATCHING_UP_MIN = 250
/** While this node is busy, who catches up rests for so many times as long as it worked. */
const REST_SHARE = 2
const REST_MS_MAX = 1_000

/**
 * Who is far behind takes what posting leaves it: while requests wait to be posted on this node, it rests after each large batch, so that it
 * works a third of the time at most. It never stops altogether. Who keeps up has small batches, and is not held back.
 * @param isBusy whether requests wait to be posted
 * @param work says how many events it has done
 * @param rest for so many milliseconds
 */
export function restAfter<T extends unknown[]>(
  isBusy: (() => boolean) | undefined,
  work: (...args: T) => Promise<number>,
  rest: (ms: number) => Promise<unknown> = sleep,
): (...args: T) => Promise<void> {
  return async (...args) => {
    const beganMs = performance.now()
    const count = await work(...args)
    if (count >= CATCHING_UP_MIN && isBusy?.())
      await rest(Math.min(REST_MS_MAX, REST_SHARE * (performance.now() - beganMs)))
  }
}
