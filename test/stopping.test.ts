import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { createStopping, type Phase } from '../src/stopping.ts'

const PHASES: Phase[] = ['answers', 'sagas', 'shards', 'pools', 'databases']

function stopping(msMax: number) {
  const late: string[] = []
  const troubles: unknown[] = []
  const listeners = {
    onLate: (names: readonly string[]) => late.push(...names),
    onTrouble: (error: unknown) => troubles.push(error),
  }
  return { late, troubles, ...createStopping(msMax, listeners) }
}

test('phases end one after the other in their order, whatever was added first; what is in one at the same time', async () => {
  const { add, stop, late } = stopping(60_000)
  const events: string[] = []
  for (const phase of [...PHASES].reverse()) {
    for (const name of ['a', 'b']) {
      add(phase, name, async () => {
        events.push(`${phase} begins`)
        await sleep(5)
        events.push(`${phase} ends`)
      })
    }
  }
  await Promise.all([stop(), stop()])
  expect(events).toEqual(PHASES.flatMap((phase) => ['begins', 'begins', 'ends', 'ends'].map((e) => `${phase} ${e}`)))
  expect(late).toEqual([])
})

test('what does not end is left behind and named, and what fails is told; all that comes after is ended', async () => {
  const { add, stop, late, troubles } = stopping(400)
  const ended: string[] = []
  for (const phase of PHASES) {
    add(phase, `${phase} that hangs`, () => new Promise(() => {}))
    add(phase, `${phase} that fails`, () => Promise.reject(new Error(phase)))
    add(phase, phase, async () => ended.push(phase))
  }
  await stop()
  expect(late).toEqual(PHASES.map((phase) => `${phase} that hangs`))
  expect(troubles.map((error) => (error as Error).message)).toEqual(PHASES)
  expect(ended).toEqual(PHASES)
})
