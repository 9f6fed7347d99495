import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { judge, judgeFailure, PUT_OFF_MS_MAX, putOff } from '../../src/async/disposition.ts'
import type { RequestRecord } from '../../src/core/request.ts'
import { QueueFull } from '../../src/ledger/batcher.ts'
import { LedgerUnavailable, RequestUndecided } from '../../src/ledger/poster.ts'
import { ConnectionLost } from '../../src/postgres/connect.ts'
import { SagasSaturated } from '../../src/saga/sagas.ts'

const record = (id: string) => ({ id }) as RequestRecord

describe('what becomes of a request from the queue', () => {
  test.each([
    ['decided under its own id', 'decided', 'mine', { is: 'done' }],
    ['came before', 'replayed', 'mine', { is: 'done' }],
    ['was posted at once under the same key', 'replayed', 'other', { is: 'ended', recordId: 'other' }],
    ['has the key of another request', 'key_reused', 'other', { is: 'ended', recordId: null }],
  ] as const)('that was %s', (_, status, id, verdict) => {
    expect(judge({ id: 'mine' }, { status, record: record(id) })).toEqual(verdict)
  })

  test.each([
    ['a full queue', new QueueFull('full'), { is: 'full' }],
    ['a busy transfer', new RequestUndecided('busy'), { is: 'later' }],
    ['a moving wallet', new RequestUndecided('moving'), { is: 'later' }],
    ['a shard that is away', new LedgerUnavailable('away'), { is: 'later', doubt: true }],
    ['a broken connection', new ConnectionLost('lost'), { is: 'later', doubt: true }],
    ['too much that waits for a shard', new SagasSaturated(3), { is: 'full', crowded: 3 }],
    ['what the database refuses', new Error('posting failed', { cause: new Error('no') }), { is: 'dead' }],
    ['what nobody expected', 'what', { is: 'dead' }],
  ] as const)('that met %s', (_, error, verdict) => {
    const { reason: _reason, ...judged } = { reason: '', ...judgeFailure(error) }
    expect(judged).toEqual(verdict)
  })

  test('is said with the cause, if it is dead', () => {
    const error = new Error('posting failed', { cause: new Error('duplicate key') })
    expect(judgeFailure(error)).toEqual({ is: 'dead', reason: 'posting failed: duplicate key' })
  })

  test('put off, it comes again within half a minute, later each time, and is set aside after a day', () => {
    const nowMs = 1_790_000_000_000
    fc.assert(
      fc.property(
        fc.nat({ max: 5_000 }),
        fc.option(fc.nat({ max: 2 * PUT_OFF_MS_MAX }), { nil: null }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (attempts, ageMs, jitter) => {
          const firstMs = ageMs === null ? null : nowMs - ageMs
          const fate = putOff({ attempts, firstMs }, { reason: 'why', isAway: false }, nowMs, jitter)
          if (ageMs !== null && ageMs > PUT_OFF_MS_MAX) {
            expect(fate).toEqual({ fate: 'dead', reason: 'put off for a day: why' })
            return
          }
          if (fate.fate !== 'later') throw new Error(fate.fate)
          expect(fate.firstMs).toBe(firstMs ?? nowMs)
          expect(fate.dueMs - nowMs).toBeGreaterThanOrEqual(500)
          expect(fate.dueMs - nowMs).toBeLessThanOrEqual(30_000)
          const next = putOff({ attempts: attempts + 1, firstMs }, { reason: 'why', isAway: false }, nowMs, jitter)
          expect(next.fate === 'later' && next.dueMs >= fate.dueMs).toBe(true)
        },
      ),
    )
  })

  test('put off for a shard that is away, it is soon tried again at first, and some hundred times in a day', () => {
    const startMs = 1_790_000_000_000
    const dues: number[] = []
    for (let nowMs = startMs, attempts = 0; ; attempts++) {
      const fate = putOff({ attempts, firstMs: startMs }, { reason: 'why', isAway: true }, nowMs, 0.5)
      if (fate.fate !== 'later') break
      nowMs = fate.dueMs
      dues.push(nowMs - startMs)
    }
    expect(dues.filter((ms) => ms < 60_000).length).toBeGreaterThanOrEqual(6)
    expect(dues.length).toBeLessThan(350)
    const gaps = dues.map((ms, i) => ms - (dues[i - 1] ?? 0))
    expect(Math.max(...gaps)).toBeLessThanOrEqual(300_000)
    expect(dues.at(-1)).toBeGreaterThan(PUT_OFF_MS_MAX)
  })
})
