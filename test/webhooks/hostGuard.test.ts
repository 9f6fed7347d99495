import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import {
  createHostGuard,
  FAILURES_MAX,
  type HostGuard,
  KNOWN_MS,
  OPEN_MS,
  OPEN_MS_MAX,
  TRIAL_MS,
} from '../../src/webhooks/hostGuard.ts'

const HOST = 'https://hooks.example.com'

beforeEach(() => {
  vi.useFakeTimers()
})
afterEach(() => {
  vi.useRealTimers()
})

const lost = async () => ({ answer: null })
const well = async (onReached: () => void) => {
  onReached()
  return { answer: 204 }
}

/** Fails so often to reach it. */
async function fail(guard: HostGuard, count: number, host = HOST): Promise<void> {
  for (let i = 0; i < count; i++) expect(await guard.run(host, lost)).toEqual({ answer: null })
}

/** How long a call is put off; `undefined` if it is made. */
async function putOffOf(guard: HostGuard, host = HOST): Promise<number | undefined> {
  const result = await guard.run(host, well)
  return 'putOffMs' in result ? result.putOffMs : undefined
}

/** A call that says what it is told to. */
function openCall(guard: HostGuard, host = HOST) {
  const began = vi.fn<() => void>()
  const end = Promise.withResolvers<{ answer: number | null }>()
  let onReached = () => {}
  const result = guard.run(host, (reached) => {
    began()
    onReached = reached
    return end.promise
  })
  return { began, result, reach: () => onReached(), end: (answer: number | null) => end.resolve({ answer }) }
}

describe('the guard of webhook hosts', () => {
  it('puts calls off when a host could not be reached five times in a row, and says for how long', async () => {
    const guard = createHostGuard()
    await fail(guard, FAILURES_MAX)
    const call = openCall(guard)
    const result = await call.result
    expect(call.began).not.toHaveBeenCalled()
    expect(result).toEqual({ putOffMs: expect.any(Number), isBeingTried: false })
    const { putOffMs } = result as { putOffMs: number }
    expect(putOffMs).toBeGreaterThanOrEqual(OPEN_MS * 0.75)
    expect(putOffMs).toBeLessThanOrEqual(OPEN_MS)
    expect(guard.unreachable).toBe(1)
    vi.advanceTimersByTime(500)
    expect(await putOffOf(guard)).toBeCloseTo(putOffMs - 500)
  })

  it('counts only what comes in a row, and each host by itself', async () => {
    const guard = createHostGuard()
    await fail(guard, FAILURES_MAX - 1)
    expect(await guard.run(HOST, well)).toEqual({ answer: 204 })
    await fail(guard, FAILURES_MAX - 1)
    expect(await guard.run(HOST, well)).toEqual({ answer: 204 })
    await fail(guard, FAILURES_MAX)
    expect(await putOffOf(guard, `${HOST}:8443`)).toBeUndefined()
    expect(await putOffOf(guard)).toBeDefined()
  })

  it('takes a host that was reached for well, whatever comes of the call', async () => {
    const guard = createHostGuard()
    for (let i = 0; i < 2 * FAILURES_MAX; i++) {
      const call = openCall(guard)
      call.reach()
      call.end(null)
      expect(await call.result).toEqual({ answer: null })
    }
    const thrown = async (onReached: () => void) => {
      onReached()
      throw new Error('a bug')
    }
    for (let i = 0; i < 2 * FAILURES_MAX; i++) await expect(guard.run(HOST, thrown)).rejects.toThrow('a bug')
    expect(await putOffOf(guard)).toBeUndefined()
  })

  it('tries with one call when the time is over; others are put off until that is known', async () => {
    const guard = createHostGuard()
    await fail(guard, FAILURES_MAX)
    vi.advanceTimersByTime(OPEN_MS)
    const trial = openCall(guard)
    expect(trial.began).toHaveBeenCalled()
    expect(guard.unreachable).toBe(1)
    vi.advanceTimersByTime(5_000)
    expect(await guard.run(HOST, well)).toEqual({ putOffMs: TRIAL_MS, isBeingTried: true })
    trial.end(null)
    expect(await trial.result).toEqual({ answer: null })
    expect(await putOffOf(guard)).toBeGreaterThan(OPEN_MS)
  })

  it('calls again as soon as a trial has reached the host, though its answer is not there', async () => {
    const guard = createHostGuard()
    await fail(guard, FAILURES_MAX)
    vi.advanceTimersByTime(OPEN_MS)
    const trial = openCall(guard)
    trial.reach()
    await vi.advanceTimersByTimeAsync(0)
    expect(guard.unreachable).toBe(0)
    expect(await putOffOf(guard)).toBeUndefined()
    trial.end(500)
    expect(await trial.result).toEqual({ answer: 500 })
  })

  it('waits longer each time that a trial has failed, half a minute at most, and begins anew when one has not', async () => {
    const guard = createHostGuard()
    await fail(guard, FAILURES_MAX)
    for (const openMs of [1, 2, 4, 8, 16, 30, 30, 30].map((times) => times * OPEN_MS)) {
      const putOffMs = (await putOffOf(guard)) ?? 0
      expect(putOffMs).toBeGreaterThanOrEqual(openMs * 0.75)
      expect(putOffMs).toBeLessThanOrEqual(openMs)
      vi.advanceTimersByTime(OPEN_MS_MAX)
      await fail(guard, 1)
    }
    vi.advanceTimersByTime(OPEN_MS_MAX)
    expect(await putOffOf(guard)).toBeUndefined()
    await fail(guard, FAILURES_MAX)
    expect(await putOffOf(guard)).toBeLessThanOrEqual(OPEN_MS)
  })

  it('does not forget failures because another call that began earlier is still under way, or ends well', async () => {
    const guard = createHostGuard()
    const calls = Array.from({ length: FAILURES_MAX + 1 }, () => openCall(guard))
    const [first, ...others] = calls
    first?.reach()
    first?.end(204)
    await first?.result
    for (const call of others) call.end(null)
    await Promise.all(others.map(({ result }) => result))
    expect(await putOffOf(guard)).toBeDefined()
  })

  it('keeps nothing of hosts that are reached', async () => {
    const guard = createHostGuard({ hostsMax: 2 })
    await fail(guard, FAILURES_MAX, 'down')
    for (const host of ['a', 'b', 'c']) expect(await putOffOf(guard, host)).toBeUndefined()
    expect(await putOffOf(guard, 'down')).toBeDefined()
  })

  it('knows so many hosts at most: the one that was not called for longest is forgotten', async () => {
    const guard = createHostGuard({ hostsMax: 2 })
    await fail(guard, FAILURES_MAX, 'a')
    await fail(guard, FAILURES_MAX, 'b')
    expect(await putOffOf(guard, 'a')).toBeDefined()
    await fail(guard, FAILURES_MAX, 'c')
    expect(guard.unreachable).toBe(2)
    expect(await putOffOf(guard, 'a')).toBeDefined()
    expect(await putOffOf(guard, 'b')).toBeUndefined()
  })

  it('forgets a host that nobody called for ten minutes', async () => {
    const guard = createHostGuard()
    await fail(guard, FAILURES_MAX)
    vi.advanceTimersByTime(KNOWN_MS - 1)
    expect(guard.unreachable).toBe(1)
    vi.advanceTimersByTime(2)
    expect(guard.unreachable).toBe(0)
    await fail(guard, FAILURES_MAX - 1)
    expect(await putOffOf(guard)).toBeUndefined()
  })
})
