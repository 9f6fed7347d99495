import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { restAfter } from '../../src/bus/brake.ts'

/** The rests after batches of so many events. */
async function restsAfter(counts: readonly number[], isBusy: () => boolean): Promise<number[]> {
  const rests: number[] = []
  const work = async (count: number) => {
    await sleep(5)
    return count
  }
  const handle = restAfter(isBusy, work, async (ms) => rests.push(ms))
  for (const count of counts) await handle(count)
  return rests
}

test('who is far behind rests after each batch while requests wait to be posted, and not for long', async () => {
  let isBusy = true
  const rests = await restsAfter([1_000, 1_000, 1_000], () => {
    isBusy = !isBusy
    return !isBusy
  })
  expect(rests).toHaveLength(2)
  for (const ms of rests) {
    expect(ms).toBeGreaterThan(5)
    expect(ms).toBeLessThanOrEqual(1_000)
  }
})

test('who keeps up, or has the node for itself, does not rest', async () => {
  expect(await restsAfter([0, 1, 100], () => true)).toEqual([])
  expect(await restsAfter([1_000, 4_000], () => false)).toEqual([])
})
