import { describe, expect, it, test } from 'vitest'
import { type Answer, judge, RETRY_AFTER_MS_MAX } from '../../src/webhooks/schedule.ts'

const NOW = Date.parse('2026-03-01T12:00:00Z')
const answer = (status: number | null, retryAfter: string | null = null): Answer => ({ status, retryAfter })

/** Milliseconds from now to the next attempt. */
function delayOf(given: Answer, tries: number, chance = 0): number | undefined {
  const verdict = judge(given, tries, NOW, chance)
  return verdict.kind === 'retry' ? verdict.atMs - NOW : undefined
}

describe('after a failure', () => {
  it.each([
    [1, '00:00:05'],
    [2, '00:05:00'],
    [3, '00:30:00'],
    [4, '02:00:00'],
    [5, '05:00:00'],
    [6, '10:00:00'],
    [7, '14:00:00'],
    [8, '20:00:00'],
    [9, '24:00:00'],
  ])('the attempt after attempt %i comes %s later, as in the specification', (tries, delay) => {
    const [hours = 0, minutes = 0, seconds = 0] = delay.split(':').map(Number)
    expect(delayOf(answer(500), tries)).toBe(((hours * 60 + minutes) * 60 + seconds) * 1_000)
  })

  it('the tenth attempt was the last', () => {
    expect(judge(answer(500), 10, NOW, 0)).toEqual({ kind: 'dead', restUntilMs: null })
    expect(judge(answer(null), 11, NOW, 0)).toEqual({ kind: 'dead', restUntilMs: null })
  })

  it('chance adds up to a fifth to the delay, and takes nothing away', () => {
    expect(delayOf(answer(500), 2, 0.5)).toBe(330_000)
    expect(delayOf(answer(500), 2, 1)).toBe(360_000)
  })
})

test.each([
  ...[200, 201, 202, 204, 299].map((status) => [status, 'delivered'] as const),
  ...[null, 100, 199, 300, 301, 302, 307, 308, 400, 401, 404, 429, 500, 502, 503, 504, 599].map(
    (status) => [status, 'retry'] as const,
  ),
  [410, 'gone'] as const,
])('status %s is judged %s', (status, kind) => {
  expect(judge(answer(status), 1, NOW, 0).kind).toBe(kind)
})

describe('Retry-After', () => {
  it.each([
    [429, '60', 60_000],
    [503, '60', 60_000],
    [503, 'Sun, 01 Mar 2026 12:02:00 GMT', 120_000],
    [503, '1', 5_000],
    [503, '999999', RETRY_AFTER_MS_MAX],
    [503, 'Sun, 01 Mar 2099 12:02:00 GMT', RETRY_AFTER_MS_MAX],
    [503, 'Sun, 01 Mar 2020 12:02:00 GMT', 5_000],
    [503, '-5', 5_000],
    [503, 'soon', 5_000],
    [503, '', 5_000],
    [503, '9'.repeat(400), 5_000],
    [500, '60', 5_000],
  ])('of status %i, "%s", after the first attempt means %i ms', (status, retryAfter, ms) => {
    expect(delayOf(answer(status, retryAfter), 1)).toBe(ms)
  })

  it('does not bring an attempt forward', () => {
    expect(delayOf(answer(429, '60'), 4)).toBe(7_200_000)
  })

  it('lets the whole endpoint rest', () => {
    expect(judge(answer(429, '60'), 1, NOW, 0)).toMatchObject({ restUntilMs: NOW + 60_000 })
    expect(judge(answer(429, '60'), 10, NOW, 0)).toEqual({ kind: 'dead', restUntilMs: NOW + 60_000 })
    expect(judge(answer(500, '60'), 1, NOW, 0)).toMatchObject({ restUntilMs: null })
  })
})

describe('an attempt that was not made, because the host could not be reached lately,', () => {
  const notMade = { ...answer(null), putOffMs: 10_000 }

  it('counts as any other, and the endpoint rests until the host may be called, a little longer by chance', () => {
    expect(judge(notMade, 1, NOW, 0)).toEqual({ kind: 'retry', atMs: NOW + 10_000, restUntilMs: NOW + 10_000 })
    expect(judge(notMade, 1, NOW, 1)).toEqual({ kind: 'retry', atMs: NOW + 12_000, restUntilMs: NOW + 12_000 })
    expect(judge(notMade, 2, NOW, 0)).toEqual({ kind: 'retry', atMs: NOW + 300_000, restUntilMs: NOW + 10_000 })
  })

  it('is the last one when it is the tenth', () => {
    expect(judge(notMade, 10, NOW, 0)).toEqual({ kind: 'dead', restUntilMs: NOW + 10_000 })
  })
})
