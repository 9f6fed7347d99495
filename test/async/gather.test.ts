import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { createGather, type GatherOptions } from '../../src/async/gather.ts'
import { type Queued, QueueSaturated, QueueUnavailable } from '../../src/async/requestQueue.ts'

const request = (id: number, text = 'text'): Queued => ({ id: `${id}`, scope: 'scope', text })

/** Writes when it is told to. */
function stage(options: Partial<GatherOptions> = {}) {
  const writes: { ids: string[]; end(error?: Error): void }[] = []
  const { add } = createGather({
    write: (requests) =>
      new Promise((resolve, reject) => {
        const end = (error?: Error) => (error ? reject(error) : resolve())
        writes.push({ ids: requests.map(({ id }) => id), end })
      }),
    onTrouble: () => {},
    ...options,
  })
  const begun = async (count: number) => {
    while (writes.length < count) await new Promise((done) => setImmediate(done))
    return writes[count - 1] as (typeof writes)[number]
  }
  return { add, writes, begun }
}

describe('what is gathered', () => {
  test('goes together with what came at once, and then with what came during the write before, in order', async () => {
    const { add, begun } = stage()
    const first = [add(request(1)), add(request(2))]
    const one = await begun(1)
    const second = [add(request(3)), add(request(4)), add(request(5))]
    one.end()
    await Promise.all(first)
    const two = await begun(2)
    two.end()
    await Promise.all(second)
    expect([one.ids, two.ids]).toEqual([
      ['1', '2'],
      ['3', '4', '5'],
    ])
  })

  test('is a thousand at most in a write', async () => {
    const { add, begun } = stage()
    const all = Promise.all(Array.from({ length: 2_500 }, (_, i) => add(request(i))))
    const sizes: number[] = []
    for (const n of [1, 2, 3]) {
      const write = await begun(n)
      sizes.push(write.ids.length)
      write.end()
    }
    await all
    expect(sizes).toEqual([1_000, 1_000, 500])
  })

  test.each([
    ['number', { countMax: 2 }],
    ['size', { bytesMax: 9 }],
  ])('is bounded by %s', async (_, options) => {
    const { add, begun } = stage(options)
    const taken = [add(request(1)), add(request(2))]
    await expect(add(request(3))).rejects.toThrow(QueueSaturated)
    const one = await begun(1)
    const more = add(request(4))
    one.end()
    await Promise.all(taken)
    ;(await begun(2)).end()
    await more
  })

  test('whose write fails is told so, and what comes next is written', async () => {
    const { add, begun } = stage()
    const failing = add(request(1))
    const one = await begun(1)
    const next = add(request(2))
    one.end(new Error('no'))
    await expect(failing).rejects.toThrow(QueueUnavailable)
    ;(await begun(2)).end()
    await next
  })

  test('that has waited for too long is told so, and not written any more', async () => {
    vi.useFakeTimers({ toFake: ['Date'] })
    onTestFinished(() => void vi.useRealTimers())
    const { add, begun, writes } = stage({ waitMsMax: 40 })
    const first = add(request(1))
    const one = await begun(1)
    const late = add(request(2))
    late.catch(() => {})
    vi.setSystemTime(Date.now() + 80)
    const inTime = add(request(3))
    one.end()
    await first
    ;(await begun(2)).end()
    await inTime
    await expect(late).rejects.toThrow(QueueUnavailable)
    expect(writes.map(({ ids }) => ids)).toEqual([['1'], ['3']])
  })
})
