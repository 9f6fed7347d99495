import fc from 'fast-check'
import { expect, test } from 'vitest'
import { MUTANTS } from './moving.mutants.ts'
import { playAtOnce, playInTurn, scenarios } from './moving.scenarios.ts'

/** The same ones every time: whether a mistake is found must not be a matter of luck. */
const SEED = 1
const RUNS = 600

test.each(Object.entries(MUTANTS))('a mistake is found: %s', (_, protocol) => {
  let found: unknown
  for (const scenario of fc.sample(scenarios(3), { seed: SEED, numRuns: RUNS })) {
    for (const play of [playInTurn, playAtOnce]) {
      try {
        play(scenario, 3, protocol)
      } catch (error) {
        found = error
      }
    }
    if (found) break
  }
  expect(found).toBeInstanceOf(Error)
})
