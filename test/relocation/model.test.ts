import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { seedFor } from '../ledger/seed.ts'
import { playAtOnce, playInTurn, scenarios, type Tally } from './moving.scenarios.ts'

const RUNS = 200

describe.each([
  ['one request after the other, compared with one shard', playInTurn],
  ['several clients at once, whose nodes crash', playAtOnce],
] as const)('slots move while work goes on: %s', (name, play) => {
  test.each([2, 3, 4])('on %i shards', (shards) => {
    const sums: Record<string, number> = {}
    // Not shrunk: that takes longer than to look into what the seed gives.
    fc.assert(
      fc.property(scenarios(shards), (scenario) => {
        const tally: Tally = play(scenario, shards)
        for (const [what, count] of Object.entries(tally)) sums[what] = (sums[what] ?? 0) + count
      }),
      { seed: seedFor(`slots of ${shards} shards, ${name}`), numRuns: RUNS, endOnFailure: true },
    )
    // All that is to be survived has happened.
    for (const [what, count] of Object.entries(sums))
      expect(count, `${what}, of ${JSON.stringify(sums)}`).toBeGreaterThan(RUNS / 3)
  })
})
