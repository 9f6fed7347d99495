import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { BalanceCache } from '../../src/cache/cache.ts'

const TRIES_MAX = 3_000

/** Waits until something is so. @throws if it is not for half a minute and more */
export async function until(isSo: () => boolean | Promise<boolean>): Promise<void> {
  for (let i = 0; i < TRIES_MAX; i++) {
    if (await isSo()) return
    await sleep(10)
  }
  throw new Error('it did not come to that')
}

/** Waits until a cache answers. */
export async function connected(cache: BalanceCache): Promise<void> {
  await until(() =>
    cache.read(randomUUID()).then(
      () => true,
      () => false,
    ),
  )
}
