import assert from 'node:assert/strict'
import { isDeepStrictEqual } from 'node:util'
import fc from 'fast-check'
import { beforeAll, describe, expect, test } from 'vitest'
import { available } from '../../src/core/account.ts'
import type { PostingContext } from '../../src/core/move.ts'
import { post } from '../../src/core/post.ts'
import { REFUSALS, type Refusal } from '../../src/core/refusal.ts'
import type { RelocationOperation } from '../../src/core/relocation.ts'
import type { Kind, Request } from '../../src/core/request.ts'
import type { Entry } from '../../src/core/workspace.ts'
import { type Settled, settled } from './memory-ledger.ts'
import { MemoryState } from './memory-state.ts'
import { balances, EMPTY, type Ledger, type Step, step } from './model.ts'
import { type Batch, batches, resolve, SHARD, timeAfter, type World } from './scenario.ts'

/** How many sequences of batches each property is tried on. */
const RUNS = 300
const COVERAGE_RUNS = 400
const COVERAGE_SEED = 20_260_101

/** One batch as it went: what the model said to each request, and what `post` said to all of them. */
type Round = {
  before: MemoryState
  after: MemoryState
  requests: readonly Request[]
  context: PostingContext
  steps: readonly Step[]
  posting: Settled
  ledger: Ledger
  cuts: readonly number[]
}

/** Feeds the batches to the model and to `post`, each carrying its own state. */
function* play(scenario: readonly Batch[]): Generator<Round> {
  const world: World = { ledger: EMPTY, asked: [] }
  let before = new MemoryState()
  let nowUs = 1_700_000_000_000_000
  for (const { wait, commands, cuts } of scenario) {
    nowUs = timeAfter(world, nowUs, wait)
    const context = { nowUs, shard: SHARD, shardOf: () => SHARD }
    const requests: Request[] = []
    const steps = commands.map((command) => {
      const request = resolve(world, command)
      const taken = step(world.ledger, request, context)
      requests.push(request)
      world.asked.push(request)
      world.ledger = taken.ledger
      return taken
    })
    const posting = settled(post(before, requests, context))
    const after = before.after(posting.changes)
    yield { before, after, requests, context, steps, posting, ledger: world.ledger, cuts }
    before = after
  }
}

function forEveryRound(check: (round: Round) => void): void {
  fc.assert(
    fc.property(batches, (scenario) => {
      for (const round of play(scenario)) check(round)
    }),
    { numRuns: RUNS },
  )
}

describe('any sequence of batches', () => {
  test('is decided as the model decides it, request by request', () => {
    forEveryRound(({ before, steps, posting, requests, context }) => {
      posting.outcomes.forEach(({ status, record }, i) => {
        const taken = steps[i]
        assert.ok(taken)
        const { id, tenantId, payload, operation } = taken.decided
        assert.equal(status, taken.status)
        assert.equal(record.id, id)
        assert.equal(record.tenantId, tenantId)
        assert.equal(record.payload, payload)
        assert.equal(record.kind, operation.kind)
        // under a reused key the record is that of the earlier request, whatever became of it
        if (status !== 'key_reused') assert.equal(record.refusal, taken.refusal)
        if (status === 'decided') assert.equal(record.timeUs, context.nowUs)
      })
      assert.equal(posting.changes.records.size, posting.decisions.length)
      for (const name of posting.changes.records.keys()) assert.ok(!before.records.has(name))

      const decided = steps.flatMap((taken, i) => (taken.status === 'decided' ? [{ taken, request: requests[i] }] : []))
      assert.deepEqual(
        posting.decisions.map(({ request, entries }) => ({ request, entries: entries.map(lineOf) })),
        decided.map(({ taken, request }) => ({ request, entries: taken.entries.map(lineOf) })),
      )
    })
  })

  test('leaves the balances, holds and reversals that the model has', () => {
    forEveryRound(({ after, ledger }) => {
      const accounts = [...after.accounts.values()].map(
        ({ id, status, limits, sequence, debitsPosted, creditsPosted, debitsPending, creditsPending }) => ({
          ...{ id, status, limits, sequence, debitsPosted, creditsPosted },
          ...{ posted: creditsPosted - debitsPosted, pendingOut: debitsPending, pendingIn: creditsPending },
        }),
      )
      const modelled = balances(ledger)
      const expected = ledger.accounts.map(({ id, status, limits }) => ({ id, status, limits, ...modelled.get(id) }))
      assert.deepEqual(accounts.sort(byId), expected.sort(byId))

      const holds = [...after.holds.values()].map(({ id, status, expiresAtUs }) => ({ id, status, expiresAtUs }))
      assert.deepEqual(
        holds.sort(byId),
        ledger.holds.map(({ id, status, expiresAtUs }) => ({ id, status, expiresAtUs })).sort(byId),
      )
      const transfers = [...after.transfers.values()].map(({ id, reversed }) => ({ id, reversed }))
      assert.deepEqual(transfers.sort(byId), ledger.transfers.map(({ id, reversed }) => ({ id, reversed })).sort(byId))
    })
  })

  test('names the accounts that it opens, once, and those whose status or limits it changes', () => {
    forEveryRound(({ before, after, posting: { changes } }) => {
      const opened = changes.opened.map(({ id }) => id)
      assert.deepEqual(opened.sort(), [...after.accounts.keys()].filter((id) => !before.accounts.has(id)).sort())
      for (const { id, status, limits } of after.accounts.values()) {
        const was = before.account(id) ?? { status: 'active', limits: changes.opened.find((o) => o.id === id)?.limits }
        const isSame = isDeepStrictEqual({ status, limits }, { status: was.status, limits: was.limits })
        assert.ok(isSame || changes.settingsChanged.has(id))
      }
    })
  })

  test('moves money by entries that sum to zero per currency and layer, and only for requests that are accepted', () => {
    forEveryRound(({ posting }) => {
      for (const { record, entries } of posting.decisions) {
        if (record.refusal !== null) assert.deepEqual(entries, [])
        const sums = new Map<string, bigint>()
        for (const { currency, layer, amount } of entries) {
          assert.notEqual(amount, 0n)
          sums.set(`${currency} ${layer}`, (sums.get(`${currency} ${layer}`) ?? 0n) + amount)
        }
        assert.ok([...sums.values()].every((sum) => sum === 0n))
      }
    })
  })

  test("continues every account's entries without a gap, each balance the one before plus the amount", () => {
    forEveryRound(({ before, after, posting }) => {
      const last = new Map<string, Entry>()
      for (const entry of posting.decisions.flatMap(({ entries }) => entries)) {
        const previous = last.get(entry.accountId) ?? lastEntry(before, entry.accountId)
        assert.equal(entry.sequence, previous.sequence + 1)
        if (entry.layer === 'posted') {
          assert.equal(entry.posted, previous.posted + entry.amount)
          assert.equal(entry.pendingOut, previous.pendingOut)
          assert.equal(entry.pendingIn, previous.pendingIn)
        } else {
          assert.equal(entry.posted, previous.posted)
          const out = entry.pendingOut - previous.pendingOut
          const into = entry.pendingIn - previous.pendingIn
          // a line moves one side, as much as it says
          assert.ok((out === -entry.amount && into === 0n) || (out === 0n && into === entry.amount))
        }
        last.set(entry.accountId, entry)
      }
      for (const id of after.accounts.keys()) {
        const { sequence, posted, pendingOut, pendingIn } = last.get(id) ?? lastEntry(before, id)
        assert.deepEqual({ sequence, posted, pendingOut, pendingIn }, balanceIn(after, id))
      }
    })
  })

  test('never takes a wallet below its overdraft limit, nor a counter below zero or above 2^63 - 1', () => {
    forEveryRound(({ after, posting }) => {
      for (const account of after.accounts.values()) {
        if (account.overdraftLimit !== null) assert.ok(available(account) >= -account.overdraftLimit)
        const { debitsPosted, creditsPosted, debitsPending, creditsPending } = account
        for (const counter of [debitsPosted, creditsPosted, debitsPending, creditsPending]) {
          assert.ok(counter >= 0n && counter <= 2n ** 63n - 1n)
        }
      }
      for (const { accountId, posted, pendingOut } of posting.decisions.flatMap(({ entries }) => entries)) {
        const limit = after.account(accountId)?.overdraftLimit
        if (typeof limit === 'bigint') assert.ok(posted - pendingOut >= -limit)
      }
    })
  })

  test('comes to the same when it is posted again, and does not touch the state it started from', () => {
    forEveryRound(({ before, requests, context, posting }) => {
      const accounts = structuredClone(before.accounts)
      const again = settled(post(before, requests, context))
      assert.deepEqual(again.outcomes, posting.outcomes)
      assert.deepEqual(again.decisions, posting.decisions)
      assert.deepEqual(before.after(again.changes), before.after(posting.changes))
      assert.deepEqual(before.accounts, accounts)
    })
  })

  test('comes to the same however it is split', () => {
    forEveryRound(({ before, after, requests, context, posting, cuts }) => {
      const places = [...new Set([0, ...cuts.map((cut) => cut % requests.length), requests.length])].sort(
        (a, b) => a - b,
      )
      let state = before
      const parts = places.slice(1).map((end, i) => {
        const part = settled(post(state, requests.slice(places[i], end), context))
        state = state.after(part.changes)
        return part
      })
      assert.deepEqual(
        parts.flatMap(({ outcomes }) => outcomes),
        posting.outcomes,
      )
      assert.deepEqual(
        parts.flatMap(({ decisions }) => decisions),
        posting.decisions,
      )
      assert.deepEqual(state, after)
    })
  })
})

/** What the random work must come across at least once: every refusal that a kind of request can meet. */
const MOVING = ['same_wallet', 'currency_mismatch', 'from_not_found', 'to_not_found', 'wallet_closed', 'wallet_frozen']
const SHORT = ['limit_exceeded', 'insufficient_funds', 'balance_overflow']
const ENDED = ['hold_not_found', 'hold_already_captured', 'hold_already_released', 'hold_expired']
const REACHABLE: Record<Exclude<Kind, `saga-${string}` | RelocationOperation['kind']>, readonly string[]> = {
  transfer: [...MOVING, ...SHORT],
  'top-up': [
    'currency_mismatch',
    'to_not_found',
    'wallet_closed',
    'wallet_frozen',
    'limit_exceeded',
    'balance_overflow',
  ],
  withdrawal: ['currency_mismatch', 'from_not_found', 'wallet_closed', 'wallet_frozen', ...SHORT],
  reversal: [
    'transfer_not_found',
    'already_reversed',
    'exceeds_reversible',
    'wallet_closed',
    'wallet_frozen',
    ...SHORT,
  ],
  hold: [...MOVING, ...SHORT],
  // a wallet with a hold cannot be closed
  capture: [...ENDED, 'exceeds_hold', 'wallet_frozen'],
  release: ENDED,
  expiry: [...ENDED, 'hold_not_expired'],
  'wallet-open': [],
  'wallet-update': ['to_not_found', 'wallet_closed', 'wallet_not_empty'],
}

/** What is more to it than a kind and a code. */
const FEATURES: Record<string, (request: Request, refusal: Refusal | null, result: string | null) => boolean> = {
  'a transfer of several legs': ({ operation }, refusal) =>
    refusal === null && operation.kind === 'transfer' && operation.legs.length > 1,
  'a transfer in two currencies': ({ operation }, refusal) =>
    refusal === null && operation.kind === 'transfer' && new Set(operation.legs.map((leg) => leg.currency)).size > 1,
  'money that a leg passes on to the next': ({ operation }, refusal) =>
    refusal === null && operation.kind === 'transfer' && operation.legs[0]?.to === operation.legs[1]?.from,
  'a transfer refused half way': (_request, refusal, result) =>
    refusal === 'insufficient_funds' && /"leg":[1-9]/.test(result ?? ''),
  'a reversal of several legs': ({ operation }, refusal, result) =>
    refusal === null && operation.kind === 'reversal' && (result?.match(/"from"/g)?.length ?? 0) > 1,
  'a reversal in part': ({ operation }, refusal) =>
    refusal === null && operation.kind === 'reversal' && operation.amount !== undefined,
  'a capture in part': ({ operation }, refusal, result) =>
    refusal === null && operation.kind === 'capture' && operation.amount !== undefined && result !== null,
}

describe('the random work', () => {
  const seen = new Map<string, number>()
  const times = (name: string) => seen.get(name) ?? 0

  beforeAll(() => {
    for (const scenario of fc.sample(batches, { seed: COVERAGE_SEED, numRuns: COVERAGE_RUNS })) {
      for (const { requests, posting } of play(scenario)) {
        for (const [i, { status, record }] of posting.outcomes.entries()) {
          const request = requests[i]
          assert.ok(request)
          const what = status === 'key_reused' ? 'idempotency_key_reused' : (record.refusal ?? 'accepted')
          const features = Object.keys(FEATURES).filter(
            (name) => status === 'decided' && FEATURES[name]?.(request, record.refusal, record.result),
          )
          for (const name of [what, `${request.operation.kind} ${what}`, `${status} ${what}`, ...features]) {
            seen.set(name, times(name) + 1)
          }
        }
      }
    }
  })

  test.each(REFUSALS.filter((code) => code !== 'shard_unavailable'))('comes across %s', (code) => {
    expect(times(code)).toBeGreaterThan(0)
  })

  test.each(Object.entries(REACHABLE))('has every outcome that a %s can have', (kind, codes) => {
    expect(['accepted', ...codes].filter((code) => times(`${kind} ${code}`) === 0)).toEqual([])
  })

  test.each(Object.keys(FEATURES))('has %s', (name) => {
    expect(times(name)).toBeGreaterThan(0)
  })

  test('has accepted and refused requests come again', () => {
    expect(times('replayed accepted')).toBeGreaterThan(0)
    expect(times('replayed insufficient_funds')).toBeGreaterThan(0)
  })
})

function lineOf({ accountId, currency, layer, amount }: Pick<Entry, 'accountId' | 'currency' | 'layer' | 'amount'>) {
  return { accountId, currency, layer, amount }
}

function byId(a: { id: string }, b: { id: string }): number {
  return a.id < b.id ? -1 : 1
}

function balanceIn(state: MemoryState, id: string) {
  const account = state.account(id)
  return {
    sequence: account?.sequence ?? 0,
    posted: (account?.creditsPosted ?? 0n) - (account?.debitsPosted ?? 0n),
    pendingOut: account?.debitsPending ?? 0n,
    pendingIn: account?.creditsPending ?? 0n,
  }
}

/** An account before a batch, as the entry that it stands after. */
function lastEntry(state: MemoryState, id: string): Entry {
  return { accountId: id, currency: '', layer: 'posted', amount: 0n, ...balanceIn(state, id) }
}
