import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Outcome } from '../../src/core/post.ts'
import { connect, type Sql } from '../../src/postgres/connect.ts'
import { migratedDatabase } from '../support/database.ts'
import { type Ledger, openLedger } from '../support/ledger.ts'
import { balanceOf, faultsOf } from './books.ts'
import { seedFor } from './seed.ts'
import { type Answer, type Payment, startWorker, type Worker } from './worker.ts'

/** Two processes, each with a ledger on the same shard: what they do at once must come out as if one had done it. */

let url: string
let owner: Sql
/** To set things up; it is a third writer on the shard. */
let setup: Ledger
let left: Worker
let right: Worker

beforeAll(async () => {
  url = await migratedDatabase()
  owner = connect(url, { max: 1, role: null })
  setup = openLedger(url, 'setup')
  ;[left, right] = await Promise.all([startWorker(url, 'left'), startWorker(url, 'right')])
})

afterAll(async () => {
  await Promise.all([left?.close(), right?.close(), setup?.close(), owner?.end()])
})

function outcomesOf(answers: readonly Answer[]): Outcome[] {
  return answers.map(({ payment, outcome }) => {
    if (!outcome) throw new Error(`${payment.key} was not answered`)
    return outcome
  })
}

/** Half of the payments by each process, at once. */
async function payByBoth(payments: readonly Payment[]): Promise<Outcome[]> {
  const half = Math.ceil(payments.length / 2)
  const halves = [left.pay(payments.slice(0, half)), right.pay(payments.slice(half))]
  return outcomesOf((await Promise.all(halves)).flat())
}

const countOf = (outcomes: readonly Outcome[], refusal: string | null) =>
  outcomes.filter(({ record }) => record.refusal === refusal).length

describe('two processes on one shard', () => {
  it('move money once for ten copies of one request, and give them all the same answer', async () => {
    for (let round = 0; round < 5; round++) {
      const [from, to] = [await setup.wallet(1_000n), await setup.wallet()]
      const copies = Array.from({ length: 10 }, () => ({ key: 'once', from, to, amount: 700n }))
      const outcomes = await payByBoth(copies)
      const [first] = outcomes
      expect(outcomes.map(({ record }) => record)).toEqual(outcomes.map(() => first?.record))
      expect(outcomes.filter(({ status }) => status === 'decided')).toHaveLength(1)
      expect(outcomes.filter(({ status }) => status === 'replayed')).toHaveLength(9)
      expect(await balanceOf(owner, from)).toBe(300n)
      expect(await balanceOf(owner, to)).toBe(700n)
    }
  })

  it('let a wallet pay a thousand times at once exactly as often as it can', async () => {
    const [from, to] = [await setup.wallet(500n * 7n), await setup.wallet()]
    const payments = Array.from({ length: 1_000 }, (_, i) => ({ key: `drain ${i}`, from, to, amount: 7n }))
    const outcomes = await payByBoth(payments)
    expect(countOf(outcomes, null)).toBe(500)
    expect(countOf(outcomes, 'insufficient_funds')).toBe(500)
    expect(await balanceOf(owner, from)).toBe(0n)
    expect(await balanceOf(owner, to)).toBe(3_500n)
  })

  it('both get on under load among the same wallets', async () => {
    const seed = seedFor('two processes')
    const wallets: string[] = []
    for (let i = 0; i < 20; i++) wallets.push(await setup.wallet(2_000n))
    const loads = [left, right].map((worker, i) => {
      const plan = { name: `load ${i}`, wallets, seed: seed + i }
      return worker.load(plan, { count: 3_000, concurrency: 300 })
    })
    const outcomes = outcomesOf((await Promise.all(loads)).flat())
    expect(outcomes).toHaveLength(6_000)
    expect(outcomes.filter(({ status }) => status !== 'decided')).toEqual([])
    expect(countOf(outcomes, null) + countOf(outcomes, 'insufficient_funds')).toBe(6_000)
    const [row] = await owner<{ total: bigint; written: bigint }[]>`
      SELECT (SELECT sum(credits_posted - debits_posted)::int8 FROM accounts WHERE id = ANY (${wallets})) AS total,
             (SELECT count(*) FROM requests WHERE key LIKE 'load %') AS written`
    expect(row).toEqual({ total: 40_000n, written: 6_000n })
    const writers = await owner`SELECT DISTINCT writer FROM blocks ORDER BY writer`
    expect(writers.map(({ writer }) => writer)).toEqual(['left', 'right', 'setup'])
  })

  it('leave books that balance, on a chain without a gap', async () => {
    expect(await faultsOf(url)).toEqual([])
  })
})
