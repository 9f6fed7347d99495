import assert from 'node:assert/strict'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { seedFor } from '../ledger/seed.ts'
import { MemoryShards } from './memory-shards.ts'
import { Client, command, isComparable, openingOf } from './random-work.ts'

/**
 * The same requests, one after the other, on one shard and on several: what a client is told, and what it can see afterwards,
 * must be the same. Two differences are known. When several shards refuse, another code may win; so codes are compared only
 * where the first shard alone decides them. And a leg can't spend what an earlier leg brings; so no wallet pays and is paid in
 * one transfer here.
 */

const RUNS = 1_000
const COMMANDS_MAX = 80

/** Five wallets with money, wherever they are, then anything. */
const scenario = fc.record({
  slots: fc.array(fc.nat(5), { minLength: 5, maxLength: 5 }),
  commands: fc.array(command, { minLength: COMMANDS_MAX / 2, maxLength: COMMANDS_MAX, size: 'max' }),
})

test.each([2, 3])(
  'whatever is asked, one after the other, comes to the same on %i shards as on one',
  { timeout: 600_000 },
  (count) => {
    const tally = new Map<string, number>()
    const tell = (what: string) => tally.set(what, (tally.get(what) ?? 0) + 1)

    fc.assert(
      fc.property(scenario, ({ slots, commands }) => {
        const client = new Client()
        const together = new MemoryShards(1)
        const apart = new MemoryShards(count)
        let nowUs = 1_700_000_000_000_000
        for (const { choice, waitSeconds, pick } of [...openingOf(slots), ...commands]) {
          const request = client.request(choice)
          if (!request) continue
          nowUs += 1 + waitSeconds * 1_000_000
          const { sagaCount, compensatedCount } = apart
          const expected = together.ask(request, nowUs)
          const told = apart.ask(request, nowUs, pick)
          const what = `${request.operation.kind}: ${expected.refusal} on one shard, ${told.refusal} on ${count}`
          assert.equal(told.isReplay, expected.isReplay, what)
          assert.equal(told.refusal === null, expected.refusal === null, what)
          if (isComparable(request, expected.refusal)) assert.equal(told.refusal, expected.refusal, what)
          assert.deepEqual(apart.seen(), together.seen(), what)
          together.assertBalanced()
          apart.assertBalanced()
          client.note(request, told.refusal === null)
          if (apart.sagaCount > sagaCount) {
            tell(`${request.operation.kind} ${apart.compensatedCount > compensatedCount ? 'compensated' : 'completed'}`)
          }
        }
      }),
      { seed: seedFor(`parity of ${count} shards with one`), numRuns: RUNS },
    )

    for (const kind of ['transfer', 'hold', 'capture', 'reversal']) {
      for (const end of ['completed', 'compensated']) {
        expect(tally.get(`${kind} ${end}`) ?? 0, `${kind} ${end}, of ${JSON.stringify([...tally])}`).toBeGreaterThan(5)
      }
    }
    for (const kind of ['release', 'expiry']) expect(tally.get(`${kind} completed`) ?? 0, kind).toBeGreaterThan(5)
  },
)
