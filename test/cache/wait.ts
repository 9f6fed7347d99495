import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { BalanceCache } from '../../src/cache/cache.ts'

const TRIES_MAX = 6_000

/** Waits until something is so. @throws if it is not for a minute and more */
export async function until(isSo: () => boolean | Promise<boolean>): Promise<void> {
  for (let i = 0; i < TRIES_MAX; i++) {
    if (await isSo()) return
    await sleep(10)
  }
  throw new Error('it did not come to that')
}

/** Asks a cache that waits for answers no longer than a busy machine may take, until it has answered. */
export async function answered<T>(ask: () => Promise<T>): Promise<T> {
  let answer: { is: T } | undefined
  await until(async () => {
    answer = await ask().then(
      (is) => ({ is }),
      () => undefined,
    )
    return answer !== undefined
  })
  return (answer as unknown as { is: T }).is
}

/** Waits until a cache answers. */
export async function connected(cache: BalanceCache): Promise<void> {
  await answered(() => cache.read(randomUUID()))
}
