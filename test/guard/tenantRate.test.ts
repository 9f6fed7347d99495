import { describe, expect, it } from 'vitest'
import { createTenantRate } from '../../src/guard/tenantRate.ts'

function open(perSecond: number) {
  const clock = { ms: 0 }
  const rate = createTenantRate(perSecond, () => clock.ms)
  return { clock, rate, taken: (tenant: string, weight = 1) => rate.take(tenant, weight).isTaken }
}

describe('the rate of a tenant', () => {
  it('lets as many come at once as may come in a second, then the same a second', () => {
    const { clock, taken } = open(100)
    const tries = (count: number) => Array.from({ length: count }, () => taken('a')).filter(Boolean).length
    expect(tries(150)).toBe(100)
    clock.ms += 500
    expect(tries(150)).toBe(50)
    clock.ms += 10_000
    expect(tries(150)).toBe(100)
  })

  it('is of each tenant alone', () => {
    const { taken } = open(1)
    expect([taken('a'), taken('a'), taken('b')]).toEqual([true, false, true])
  })

  it('says what is left, and when there will be enough', () => {
    const { clock, rate } = open(10)
    expect(rate.take('a', 4)).toEqual({ isTaken: true, left: 6, waitSeconds: 0.4 })
    expect(rate.take('a', 8)).toEqual({ isTaken: false, left: 6, waitSeconds: 0.2 })
    clock.ms += 200
    expect(rate.take('a', 8)).toEqual({ isTaken: true, left: 0, waitSeconds: 1 })
  })

  it('takes what weighs more than a second holds when the bucket is full, and waits longer for it', () => {
    const { clock, taken } = open(10)
    expect(taken('a', 30)).toBe(true)
    clock.ms += 2_000
    expect(taken('a')).toBe(false)
    clock.ms += 500
    expect(taken('a', 5)).toBe(true)
    expect(taken('a', 30)).toBe(false)
  })

  it('lets a full bucket be taken at any rate', () => {
    for (let perSecond = 1; perSecond <= 5_000; perSecond++) expect(open(perSecond).taken('a', perSecond)).toBe(true)
  })

  it('may be less than one a second', () => {
    const { clock, taken } = open(0.5)
    expect([taken('a'), taken('a')]).toEqual([true, false])
    clock.ms += 1_999
    expect(taken('a')).toBe(false)
    clock.ms += 1
    expect(taken('a')).toBe(true)
  })
})
