import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { type Shedding, startShedding } from '../../src/guard/shedding.ts'

const AGE_MS_MAX = 50
/** More than a crowd is; few are far from one. */
const MANY = 400
const FEW = 20
/** Of the event loop, at work for so long at a stretch. */
const STRETCH_MS = 20
const SECONDS_MAX = 60
/** So long a loop has no rest, in which many would be refused. */
const LONG_MS = 2_000

function open(): Shedding {
  const shedding = startShedding(AGE_MS_MAX)
  onTestFinished(() => shedding.stop())
  return shedding
}

/** Leaves the event loop no rest, but lets it come to its timers, until something is so. */
async function busyUntil(isSo: () => boolean): Promise<void> {
  const deadlineMs = performance.now() + SECONDS_MAX * 1_000
  while (!isSo()) {
    if (performance.now() > deadlineMs) throw new Error('it never came to that')
    const endMs = performance.now() + STRETCH_MS
    while (performance.now() < endMs);
    await turn()
  }
}

/** Leaves the event loop at rest until something is so. */
async function restUntil(isSo: () => boolean): Promise<void> {
  const deadlineMs = performance.now() + SECONDS_MAX * 1_000
  while (!isSo()) {
    if (performance.now() > deadlineMs) throw new Error('it never came to that')
    await sleep(STRETCH_MS)
  }
}

const begin = (shedding: Shedding, count: number) => Array.from({ length: count }, () => shedding.began(1))

/** Whether of so many that come together all are let in. */
const areAllIn = (shedding: Shedding, count = MANY) =>
  Array.from({ length: count }, () => shedding.admit('tenant', 'money', 1)).every(Boolean)

test('an event loop without rest and many requests in it are too much; all are let in again when it has rest', async () => {
  const shedding = open()
  expect(areAllIn(shedding)).toBe(true)
  const ends = begin(shedding, MANY)
  await busyUntil(() => !areAllIn(shedding))
  expect(shedding.perSecond).toBeGreaterThan(0)
  for (const end of ends) end()
  await restUntil(() => shedding.perSecond === undefined)
  expect(areAllIn(shedding)).toBe(true)
})

test('few requests in it are no crowd, however busy the event loop is: it is something else that keeps it', async () => {
  const shedding = open()
  begin(shedding, FEW)
  const endMs = performance.now() + LONG_MS
  await busyUntil(() => !areAllIn(shedding) || performance.now() > endMs)
  expect(shedding.perSecond).toBeUndefined()
})

test('many requests that wait in an event loop at rest are let wait: it is a slow shard that keeps them', async () => {
  const shedding = open()
  begin(shedding, MANY)
  const endMs = performance.now() + LONG_MS
  await restUntil(() => !areAllIn(shedding) || performance.now() > endMs)
  expect(shedding.perSecond).toBeUndefined()
})

test('who comes to a loop that never comes to its timers is refused all the same', async () => {
  const shedding = open()
  begin(shedding, MANY)
  const deadlineMs = performance.now() + SECONDS_MAX * 1_000
  // Not one turn of the loop: no timer ever fires.
  while (areAllIn(shedding)) expect(performance.now()).toBeLessThan(deadlineMs)
  expect(shedding.perSecond).toBeGreaterThan(0)
})
