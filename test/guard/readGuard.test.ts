import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { createReadGuard, ReadsSaturated } from '../../src/guard/readGuard.ts'
import { ConnectionLost } from '../../src/postgres/connect.ts'

const lost = async () => {
  throw new ConnectionLost('gone')
}

/** A guard that has found its database silent, and whose clock stands still: a busy machine takes any time between two calls. */
async function openedGuard() {
  vi.useFakeTimers({ toFake: ['Date'] })
  onTestFinished(() => void vi.useRealTimers())
  const guard = createReadGuard({ atOnceMax: 4, openMs: 30, openMsMax: 300 })
  for (let i = 0; i < 4; i++) await expect(guard.run(lost)).rejects.toThrow('gone')
  return { guard, later: () => vi.advanceTimersByTime(1_000) }
}

describe('the guard of reads', () => {
  it('runs as many at once as there are connections, lets some wait, and refuses the rest at once', async () => {
    const guard = createReadGuard({ atOnceMax: 2, waitingMax: 3 })
    const { promise: gate, resolve: open } = Promise.withResolvers<void>()
    let running = 0
    const reads = Array.from({ length: 6 }, (_, i) =>
      guard.run(async () => {
        running += 1
        await gate
        return i
      }),
    )
    await expect(reads[5]).rejects.toThrow(ReadsSaturated)
    expect(running).toBe(2)
    open()
    expect(await Promise.all(reads.slice(0, 5))).toEqual([0, 1, 2, 3, 4])
  })

  it('asks a database that is silent no more for a while, then once, and goes on when that is answered', async () => {
    const { guard, later } = await openedGuard()
    let asked = 0
    const ask = async () => ++asked
    await expect(guard.run(ask)).rejects.toThrow(ConnectionLost)
    expect(asked).toBe(0)
    later()
    expect(await guard.run(ask)).toBe(1)
    expect(await guard.run(ask)).toBe(2)
  })

  it.each([2, 6])(
    'of %i connections is opened by as much silence, however much was answered before',
    async (atOnceMax) => {
      vi.useFakeTimers({ toFake: ['Date'] })
      onTestFinished(() => void vi.useRealTimers())
      const guard = createReadGuard({ atOnceMax })
      const answered = async () => 'answered'
      for (let i = 0; i < 30; i++) await guard.run(answered)
      for (let i = 1; i < atOnceMax; i++) await expect(guard.run(lost)).rejects.toThrow('gone')
      for (let i = 0; i < 2 * atOnceMax; i++) expect(await guard.run(answered)).toBe('answered')
      for (let i = 0; i < atOnceMax; i++) await expect(guard.run(lost)).rejects.toThrow('gone')
      await expect(guard.run(answered)).rejects.toThrow('was silent lately')
    },
  )

  it('lets nobody wait for the one that is being tried', async () => {
    const { guard, later } = await openedGuard()
    later()
    const { promise: gate, resolve: open } = Promise.withResolvers<void>()
    let isTried = false
    const trial = guard.run(async () => {
      isTried = true
      await gate
    })
    await new Promise(setImmediate)
    expect(isTried).toBe(true)
    await expect(guard.run(async () => 1)).rejects.toThrow(ConnectionLost)
    open()
    await trial
    expect(await guard.run(async () => 1)).toBe(1)
  })

  it('does not count what the database itself refuses', async () => {
    const guard = createReadGuard({ atOnceMax: 1 })
    const wrong = async () => {
      throw new Error('no such column')
    }
    for (let i = 0; i < 30; i++) await expect(guard.run(wrong)).rejects.toThrow('no such column')
    expect(await guard.run(async () => 1)).toBe(1)
  })
})
