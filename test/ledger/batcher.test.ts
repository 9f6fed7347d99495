import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { seededRandom } from '../../bench/load.ts'
import type { Outcome } from '../../src/core/post.ts'
import type { Request } from '../../src/core/request.ts'
import { type Batcher, type BatcherOptions, createBatcher, QueueFull } from '../../src/ledger/batcher.ts'
import type { Result } from '../../src/ledger/poster.ts'
import { ask, legsOf, transferOf } from '../support/ledger.ts'
import { seedFor } from './seed.ts'

const A = '00000000-0000-7000-8000-00000000000a'
const B = '00000000-0000-7000-8000-00000000000b'

const anyRequest = () => ask(transferOf(A, B, 1n))
const requests = (count: number) => Array.from({ length: count }, anyRequest)

function outcomeOf({ id, tenantId, operation, payload }: Request): Outcome {
  const record = { id, tenantId, kind: operation.kind, payload, refusal: null, result: null, timeUs: 1 }
  return { status: 'decided', record }
}

/** A batch that the fake poster holds until it is told how it ended. */
type Batch = {
  readonly requests: readonly Request[]
  end(results?: readonly Result[]): void
  fail(error: Error): void
}

/** A batcher over a poster that does what the test says. */
function openBatcher(options: Omit<BatcherOptions, 'post'> = {}): { batcher: Batcher; posted: Batch[] } {
  const posted: Batch[] = []
  const post = (requests: readonly Request[]) =>
    new Promise<Result[]>((resolve, reject) => {
      posted.push({
        requests,
        end: (results = requests.map(outcomeOf)) => resolve([...results]),
        fail: reject,
      })
    })
  return { batcher: createBatcher({ post, ...options }), posted }
}

const sizes = (posted: readonly Batch[]) => posted.map(({ requests }) => requests.length)

describe('the batcher', () => {
  it('posts a lone request in the same turn of the event loop', async () => {
    const { batcher, posted } = openBatcher()
    const request = anyRequest()
    const answer = batcher.submit(request)
    await nextTurn()
    expect(posted.map(({ requests }) => requests)).toEqual([[request]])
    posted[0]?.end()
    expect(await answer).toEqual(outcomeOf(request))
  })

  it('posts what arrives together together, in order, and answers each its own', async () => {
    const { batcher, posted } = openBatcher()
    const asked = requests(5)
    const answers = asked.map((request) => batcher.submit(request))
    await nextTurn()
    expect(posted.map(({ requests }) => requests)).toEqual([asked])
    posted[0]?.end()
    expect(await Promise.all(answers)).toEqual(asked.map(outcomeOf))
  })

  it('gathers what arrives while a block is being written', async () => {
    const { batcher, posted } = openBatcher()
    const first = batcher.submit(anyRequest())
    await nextTurn()
    const later = requests(15).map((request) => batcher.submit(request))
    await nextTurn()
    expect(sizes(posted)).toEqual([1])
    expect(batcher.depth).toBe(15)
    posted[0]?.end()
    await first
    await nextTurn()
    expect(sizes(posted)).toEqual([1, 15])
    expect(batcher.depth).toBe(0)
    posted[1]?.end()
    await Promise.all(later)
  })

  it('posts a thousand requests at a time, at most two batches at once', async () => {
    const { batcher, posted } = openBatcher()
    const asked = requests(3_500)
    const answers = Promise.all(asked.map((request) => batcher.submit(request)))
    await nextTurn()
    expect(sizes(posted)).toEqual([1_000, 1_000])
    expect(batcher.depth).toBe(1_500)
    posted[0]?.end()
    await nextTurn()
    expect(sizes(posted)).toEqual([1_000, 1_000, 1_000])
    posted[2]?.end()
    posted[1]?.end()
    await nextTurn()
    expect(sizes(posted)).toEqual([1_000, 1_000, 1_000, 500])
    posted[3]?.end()
    await answers
    expect(posted.flatMap((batch) => batch.requests)).toEqual(asked)
  })

  it('begins a second batch beside the first only when sixteen wait', async () => {
    const { batcher, posted } = openBatcher()
    const answers = [batcher.submit(anyRequest())]
    await nextTurn()
    answers.push(...requests(15).map((request) => batcher.submit(request)))
    await nextTurn()
    expect(sizes(posted)).toEqual([1])
    answers.push(batcher.submit(anyRequest()))
    await nextTurn()
    expect(sizes(posted)).toEqual([1, 16])
    answers.push(...requests(500).map((request) => batcher.submit(request)))
    await nextTurn()
    expect(sizes(posted)).toEqual([1, 16])
    posted[1]?.end()
    await nextTurn()
    expect(sizes(posted)).toEqual([1, 16, 500])
    for (const batch of posted) batch.end()
    await Promise.all(answers)
  })

  it('keeps the movements of a batch to four thousand, however few the requests', async () => {
    const { batcher, posted } = openBatcher()
    const legs = Array.from({ length: 100 }, () => ({ from: A, to: B, amount: 1n, currency: 'USD' }))
    const answers = Array.from({ length: 50 }, () => batcher.submit(ask(legsOf(...legs))))
    await nextTurn()
    expect(sizes(posted)).toEqual([40])
    posted[0]?.end()
    await nextTurn()
    expect(sizes(posted)).toEqual([40, 10])
    posted[1]?.end()
    await Promise.all(answers)
  })

  it('posts a request that is larger than a batch may be on its own', async () => {
    const { batcher, posted } = openBatcher()
    const legs = Array.from({ length: 4_001 }, () => ({ from: A, to: B, amount: 1n, currency: 'USD' }))
    const answers = [batcher.submit(ask(legsOf(...legs))), batcher.submit(anyRequest())]
    await nextTurn()
    expect(sizes(posted)).toEqual([1])
    posted[0]?.end()
    await nextTurn()
    expect(sizes(posted)).toEqual([1, 1])
    posted[1]?.end()
    await Promise.all(answers)
  })

  it('throws QueueFull at once when too many wait, and takes requests again when there is room', async () => {
    const { batcher, posted } = openBatcher({ queueMax: 3 })
    const first = batcher.submit(anyRequest())
    await nextTurn()
    const waiting = requests(3).map((request) => batcher.submit(request))
    expect(() => batcher.submit(anyRequest())).toThrow(QueueFull)
    expect(batcher.depth).toBe(3)
    posted[0]?.end()
    await first
    await nextTurn()
    const late = batcher.submit(anyRequest())
    posted[1]?.end()
    await Promise.all(waiting)
    await nextTurn()
    posted[2]?.end()
    await late
    expect(sizes(posted)).toEqual([1, 3, 1])
  })

  it('gives the errors of single requests to those alone', async () => {
    const { batcher, posted } = openBatcher()
    const [good, bad] = [anyRequest(), anyRequest()]
    const answers = Promise.allSettled([batcher.submit(good), batcher.submit(bad)])
    await nextTurn()
    const error = new Error('poison')
    posted[0]?.end([outcomeOf(good), error])
    expect(await answers).toEqual([
      { status: 'fulfilled', value: outcomeOf(good) },
      { status: 'rejected', reason: error },
    ])
  })

  it('rejects a request that the poster left without a result', async () => {
    const { batcher, posted } = openBatcher()
    const [first, second] = [anyRequest(), anyRequest()]
    const answers = Promise.allSettled([batcher.submit(first), batcher.submit(second)])
    await nextTurn()
    posted[0]?.end([outcomeOf(first)])
    expect(await answers).toEqual([
      { status: 'fulfilled', value: outcomeOf(first) },
      {
        status: 'rejected',
        reason: expect.objectContaining({ message: 'the poster left a request without a result' }),
      },
    ])
  })

  it('rejects a whole batch when the poster fails, and goes on with the next', async () => {
    const { batcher, posted } = openBatcher()
    const failing = Promise.allSettled(requests(2).map((request) => batcher.submit(request)))
    await nextTurn()
    const next = anyRequest()
    const answer = batcher.submit(next)
    const cause = new Error('a bug')
    posted[0]?.fail(cause)
    for (const result of await failing) {
      expect(result).toEqual({ status: 'rejected', reason: expect.objectContaining({ cause }) })
    }
    await nextTurn()
    posted[1]?.end()
    expect(await answer).toEqual(outcomeOf(next))
  })

  it('survives a poster that throws before it returns a promise', async () => {
    const batcher = createBatcher({
      post: () => {
        throw new Error('a bug')
      },
    })
    await expect(batcher.submit(anyRequest())).rejects.toThrow('posting failed')
    await batcher.drain()
  })

  it('is drained at once when it is idle', async () => {
    await openBatcher().batcher.drain()
  })

  it('is drained when the last request has been answered, and not before', async () => {
    const { batcher, posted } = openBatcher()
    const events: string[] = []
    const answers = requests(1_300).map((request) => batcher.submit(request))
    const all = Promise.allSettled(answers).then(() => events.push('answered'))
    const drained = [batcher.drain(), batcher.drain()].map((drain) => drain.then(() => events.push('drained')))
    await nextTurn()
    expect(sizes(posted)).toEqual([1_000, 300])
    posted[0]?.end()
    await nextTurn()
    expect(events).toEqual([])
    posted[1]?.fail(new Error('a bug'))
    await Promise.all([all, ...drained])
    expect(events.toSorted()).toEqual(['answered', 'drained', 'drained'])
  })

  it('answers everything, in order, whatever comes and ends when', async () => {
    const random = seededRandom(seedFor('batcher'))
    const draw = (max: number) => Math.floor(random() * max)
    const { batcher, posted } = openBatcher({ batchMax: 50, queueMax: 1_000 })
    const asked: Request[] = []
    const answers: Promise<Outcome>[] = []
    const open = new Set<Batch>()
    let seen = 0
    let answered = 0
    for (let step = 0; step < 3_000 || answered < asked.length; step++) {
      for (let i = draw(step < 3_000 ? 30 : 1); i > 0 && batcher.depth < 1_000; i--) {
        const request = anyRequest()
        asked.push(request)
        answers.push(batcher.submit(request))
        void answers.at(-1)?.then(() => {
          answered += 1
        })
      }
      if (random() < 0.5) await nextTurn()
      for (const batch of posted.slice(seen)) open.add(batch)
      seen = posted.length
      expect(open.size).toBeLessThanOrEqual(2)
      for (const batch of open) {
        if (random() < 0.7) continue
        open.delete(batch)
        batch.end()
        await nextTurn()
      }
    }
    expect(await Promise.all(answers)).toEqual(asked.map(outcomeOf))
    expect(posted.flatMap(({ requests }) => requests)).toEqual(asked)
    expect(Math.max(...sizes(posted))).toBeLessThanOrEqual(50)
    await batcher.drain()
  })
})
