import { setTimeout as sleep } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { startLookout } from '../../src/observe/lookout.ts'

it('a sight that is silent is lost, is asked once, and delays no other', async () => {
  const seen = { silent: 0, lost: 0, other: 0 }
  let answer = () => {}
  const troubles: string[] = []
  const stop = startLookout({
    intervalMs: 5,
    onTrouble: (name, error) => troubles.push(`${name}: ${(error as Error).message}`),
    sights: () => [
      {
        name: 'silent',
        look: () => {
          seen.silent += 1
          return new Promise<void>((done) => {
            answer = done
          })
        },
        lost: () => {
          seen.lost += 1
        },
      },
      {
        name: 'other',
        look: async () => {
          seen.other += 1
        },
        lost: () => {},
      },
    ],
  })
  while (seen.other < 10 || seen.lost < 3) await sleep(5)
  expect(seen.silent).toBe(1)
  expect(troubles).toEqual(['silent: no answer yet'])
  answer()
  while (seen.silent < 2) await sleep(5)
  answer()
  await stop()
})

it('trouble is told once, until the sight has answered again', async () => {
  let round = 0
  const troubles: number[] = []
  const lost: number[] = []
  const stop = startLookout({
    intervalMs: 1,
    onTrouble: () => troubles.push(round),
    sights: () => [
      {
        name: 'shaky',
        async look() {
          round += 1
          if (round !== 4) throw new Error('away')
        },
        lost: () => lost.push(round),
      },
    ],
  })
  while (round < 8) await sleep(1)
  await stop()
  expect(troubles).toEqual([1, 5])
  expect(lost.slice(0, 6)).toEqual([1, 2, 3, 5, 6, 7])
})

it('nothing is told any more when it has stopped', async () => {
  let fail = (_: Error) => {}
  const told: string[] = []
  const stop = startLookout({
    onTrouble: () => told.push('trouble'),
    sights: () => [
      {
        name: 'late',
        look: () =>
          new Promise<void>((_, reject) => {
            fail = reject
          }),
        lost: () => told.push('lost'),
      },
    ],
  })
  const stopped = stop()
  fail(new Error('away'))
  await stopped
  expect(told).toEqual([])
})
