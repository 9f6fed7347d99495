import { describe, expect, it } from 'vitest'
import { seededRandom } from '../../bench/load.ts'
import { createLoadLimit, type LoadLimit, type Priority } from '../../src/guard/loadLimit.ts'
import { seedFor } from '../ledger/seed.ts'

const WINDOW_MS = 100
/** A request takes so long to be served, and so long to be refused. */
const SERVED_MS = 0.25
const REFUSED_MS = 0.02

type Source = { tenant: string; priority?: Priority; perSecond: number; weight?: number }
type Flow = { offered: number; served: number; perWindow: number[] }

/** An event loop that does one thing after the other, and what comes to it in so many seconds. */
function run(limit: LoadLimit, sources: readonly Source[], seconds: number, random: () => number) {
  const flows = new Map<Source, Flow>(sources.map((source) => [source, { offered: 0, served: 0, perWindow: [] }]))
  const lags: number[] = []
  let elapsedMs = WINDOW_MS
  for (let ms = 0; ms < seconds * 1_000; ms += elapsedMs) {
    const asked = sources
      .flatMap((source) => Array.from({ length: Math.round((source.perSecond * elapsedMs) / 1_000) }, () => source))
      .map((source) => ({ source, order: random() }))
      .sort((a, b) => a.order - b.order)
    let workMs = 0
    let served = 0
    for (const flow of flows.values()) flow.perWindow.push(0)
    for (const { source } of asked) {
      const { tenant, priority = 'money', weight = 1 } = source
      const flow = flows.get(source) as Flow
      flow.offered += 1
      const isIn = limit.admit(tenant, priority, weight, random())
      workMs += isIn ? SERVED_MS * weight : REFUSED_MS
      if (!isIn) continue
      flow.served += 1
      served += weight
      flow.perWindow.push((flow.perWindow.pop() ?? 0) + 1)
    }
    elapsedMs = Math.max(WINDOW_MS, workMs)
    lags.push(elapsedMs - WINDOW_MS)
    const servedPerSecond = (served * 1_000) / elapsedMs
    limit.tick({
      elapsedMs,
      ageMs: elapsedMs - WINDOW_MS,
      servedPerSecond,
      utilization: Math.min(1, workMs / elapsedMs),
    })
  }
  const perSecond = (source: Source) => (flows.get(source)?.served ?? 0) / seconds
  return { flows, lags, perSecond, total: sources.reduce((sum, source) => sum + perSecond(source), 0) }
}

describe('the load limit', () => {
  const random = seededRandom(seedFor('load limit'))
  const tenant = (name: string, perSecond: number, more: Partial<Source> = {}): Source => ({
    ...{ tenant: name, perSecond, ...more },
  })

  it('is not there while the process keeps up', () => {
    const limit = createLoadLimit(WINDOW_MS, 100)
    const calm = tenant('a', 3_000)
    expect(run(limit, [calm], 20, random).perSecond(calm)).toBe(3_000)
    expect(limit.perSecond).toBeUndefined()
  })

  it('is not set by a pause alone', () => {
    const limit = createLoadLimit(WINDOW_MS, 100)
    limit.admit('a', 'money', 1, 0)
    limit.tick({ elapsedMs: 900, ageMs: 800, servedPerSecond: 100, utilization: 0.6 })
    limit.tick({ elapsedMs: 400, ageMs: 300, servedPerSecond: 100, utilization: 1 })
    limit.tick({ elapsedMs: 100, ageMs: 0, servedPerSecond: 100, utilization: 1 })
    limit.tick({ elapsedMs: 400, ageMs: 300, servedPerSecond: 100, utilization: 1 })
    expect(limit.perSecond).toBeUndefined()
  })

  it.each([1.5, 3, 6])('keeps most of what can be served going, and the lag bounded, at %d times that', (times) => {
    const limit = createLoadLimit(WINDOW_MS, 100)
    const flood = tenant('a', (times * 1_000) / SERVED_MS)
    const { total, lags } = run(limit, [flood], 30, random)
    const forServing = 1_000 - (flood.perSecond - total) * REFUSED_MS
    expect(total).toBeGreaterThan((0.85 * forServing) / SERVED_MS)
    // Once it has found its place.
    const after = lags.slice(30)
    expect(after.filter((ms) => ms > 250).length / after.length).toBeLessThan(0.02)
  })

  it('keeps requests young where they wait in turns, so that the loop is never late', () => {
    const limit = createLoadLimit(WINDOW_MS, 200)
    const offered = (2 * 1_000) / SERVED_MS / 10
    const ages: number[] = []
    const servedAll: number[] = []
    const endedLately: number[] = []
    let present = 0
    for (let window = 0; window < 300; window++) {
      let admitted = 0
      for (let i = 0; i < offered; i++) if (limit.admit('a', 'money', 1, random())) admitted += 1
      present += admitted
      const canServe = Math.floor((WINDOW_MS - (offered - admitted) * REFUSED_MS) / SERVED_MS)
      const served = Math.min(present, canServe)
      present -= served
      servedAll.push(served)
      endedLately.push(served)
      if (endedLately.length > 5) endedLately.shift()
      const ended = endedLately.reduce((sum, count) => sum + count, 0)
      const ageMs = (present * WINDOW_MS * endedLately.length) / Math.max(1, ended)
      ages.push(ageMs)
      const workMs = served * SERVED_MS + (offered - admitted) * REFUSED_MS
      limit.tick({
        elapsedMs: WINDOW_MS,
        ageMs,
        servedPerSecond: (ended * 1_000) / WINDOW_MS / endedLately.length,
        utilization: Math.min(1, workMs / WINDOW_MS),
      })
    }
    // Once it has found its place.
    const after = ages.slice(50)
    expect(Math.max(...after)).toBeLessThan(1_000)
    const most = (WINDOW_MS - (offered / 2) * REFUSED_MS) / SERVED_MS
    expect(servedAll.slice(50).reduce((sum, count) => sum + count, 0) / 250).toBeGreaterThan(0.8 * most)
  })

  it('is not set by requests that wait for something else', () => {
    const limit = createLoadLimit(WINDOW_MS, 200)
    for (let window = 0; window < 100; window++) {
      limit.admit('a', 'money', 1, 0)
      limit.tick({ elapsedMs: WINDOW_MS, ageMs: 5_000, servedPerSecond: 10, utilization: 0.5 })
    }
    expect(limit.perSecond).toBeUndefined()
  })

  it('goes on serving when refusing alone is more than the process can do', () => {
    const limit = createLoadLimit(WINDOW_MS, 100)
    run(limit, [tenant('a', 3_000)], 5, random)
    const flood = tenant('a', 60_000)
    const { flows, total } = run(limit, [flood], 10, random)
    expect(
      flows
        .get(flood)
        ?.perWindow.slice(-20)
        .every((served) => served > 50),
    ).toBe(true)
    expect(total).toBeGreaterThan(500)
  })

  it('goes away within five seconds when the flood is over', () => {
    const limit = createLoadLimit(WINDOW_MS, 100)
    run(limit, [tenant('a', 20_000)], 10, random)
    expect(limit.perSecond).toBeDefined()
    const calm = tenant('a', 2_000)
    run(limit, [calm], 5, random)
    expect(limit.perSecond).toBeUndefined()
    expect(run(limit, [calm], 5, random).perSecond(calm)).toBe(2_000)
  })

  it('gives a tenant that asks for little nearly all of it while another floods', () => {
    const limit = createLoadLimit(WINDOW_MS, 100)
    const [flood, few] = [tenant('flood', 15_000), tenant('few', 300)]
    const { perSecond } = run(limit, [flood, few], 30, random)
    expect(perSecond(few)).toBeGreaterThan(290)
  })

  it('gives tenants that all ask for too much the same', () => {
    const limit = createLoadLimit(WINDOW_MS, 100)
    const [one, two] = [tenant('one', 12_000), tenant('two', 4_000)]
    const { perSecond } = run(limit, [one, two], 30, random)
    expect(perSecond(one) / perSecond(two)).toBeGreaterThan(0.8)
    expect(perSecond(one) / perSecond(two)).toBeLessThan(1.4)
  })

  it('lets money move before all else is asked for, and does not starve that', () => {
    const limit = createLoadLimit(WINDOW_MS, 100)
    const [money, lists] = [tenant('a', 2_000), tenant('b', 12_000, { priority: 'other' })]
    const { perSecond } = run(limit, [money, lists], 30, random)
    expect(perSecond(money)).toBeGreaterThan(1_800)
    const onlyMoney = createLoadLimit(WINDOW_MS, 100)
    const flood = tenant('a', 12_000)
    const some = tenant('b', 500, { priority: 'other' })
    expect(run(onlyMoney, [flood, some], 30, random).perSecond(some)).toBeGreaterThan(50)
  })

  it('counts what is more work as more', () => {
    const limit = createLoadLimit(WINDOW_MS, 100)
    const [batches, singles] = [tenant('batches', 100, { weight: 100 }), tenant('singles', 8_000)]
    const { perSecond } = run(limit, [batches, singles], 30, random)
    const ratio = (perSecond(batches) * 100) / perSecond(singles)
    expect(ratio).toBeGreaterThan(0.6)
    expect(ratio).toBeLessThan(1.6)
  })

  it('lets a little through of each of many tenants, however small the share', () => {
    const limit = createLoadLimit(WINDOW_MS, 100)
    const many = Array.from({ length: 2_000 }, (_, i) => tenant(`t${i}`, 10))
    const { flows } = run(limit, many, 30, random)
    const starved = [...flows.values()].filter(({ served }) => served === 0)
    expect(starved).toEqual([])
  })
})
