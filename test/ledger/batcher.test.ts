import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { seededRandom } from '../../bench/load.ts'
import type { Outcome } from '../../src/core/post.ts'
import type { Request } from '../../src/core/request.ts'
import { type Batcher, type BatcherOptions, createBatcher, QueueFull } from '../../src/ledger/batcher.ts'
import { LedgerUnavailable, type Result } from '../../src/ledger/poster.ts'
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

/** A batcher over a poster that does what the test says. No time passes, but for what the test says. */
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
  return { batcher: createBatcher({ post, now: () => 0, ...options }), posted }
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

  it('tells how long the oldest has waited for its answer, in the queue or in the block that is being written', async () => {
    let ms = 0
    const { batcher, posted } = openBatcher({ now: () => ms })
    expect(batcher.oldestMs).toBe(0)
    const first = batcher.submit(anyRequest())
    await nextTurn()
    ms = 10
    const second = batcher.submit(anyRequest())
    ms = 30
    expect(batcher.oldestMs).toBe(30)
    posted[0]?.end()
    await first
    await nextTurn()
    expect(batcher.oldestMs).toBe(0)
    ms = 35
    expect(batcher.oldestMs).toBe(5)
    posted[1]?.end()
    await second
    await nextTurn()
    expect(batcher.oldestMs).toBe(0)
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

  it('takes a reversal for as many movements as a transfer may have', async () => {
    const { batcher, posted } = openBatcher()
    const asked = Array.from({ length: 50 }, () => ask({ kind: 'reversal', transferId: A }))
    const answers = asked.map((request) => batcher.submit(request))
    await nextTurn()
    expect(sizes(posted)[0]).toBe(40)
    for (let i = 0; i < posted.length; i++) {
      posted[i]?.end()
      await nextTurn()
    }
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

  it('lets the tenants take turns, each in the order of its own requests', async () => {
    const { batcher, posted } = openBatcher({ batchMax: 100 })
    const flood = requests(500)
    const few = Array.from({ length: 30 }, () => ({ ...anyRequest(), tenantId: 'few' }))
    const answers = Promise.all([...flood, ...few].map((request) => batcher.submit(request)))
    await nextTurn()
    const [first] = posted
    const ofFew = first?.requests.filter(({ tenantId }) => tenantId === 'few')
    expect(ofFew).toEqual(few)
    for (let batch = 0; batch < posted.length; batch++) {
      posted[batch]?.end()
      await nextTurn()
    }
    await answers
    const inOrder = posted.flatMap((batch) => batch.requests)
    expect(inOrder.filter(({ tenantId }) => tenantId !== 'few')).toEqual(flood)
  })

  it('counts movements, not requests, when tenants take turns', async () => {
    const { batcher, posted } = openBatcher({ batchMax: 1_000 })
    const legs = Array.from({ length: 100 }, () => ({ from: A, to: B, amount: 1n, currency: 'USD' }))
    const large = Array.from({ length: 100 }, () => batcher.submit(ask(legsOf(...legs))))
    const small = Array.from({ length: 1_000 }, () => batcher.submit({ ...anyRequest(), tenantId: 'small' }))
    await nextTurn()
    const movements = (tenantId?: string) =>
      posted[0]?.requests
        .filter((request) => tenantId === undefined || request.tenantId === tenantId)
        .reduce((sum, { operation }) => sum + (operation.kind === 'transfer' ? operation.legs.length : 0), 0) ?? 0
    expect(movements('small')).toBeGreaterThan(800)
    expect(movements() - movements('small')).toBeGreaterThan(800)
    for (let batch = 0; batch < posted.length; batch++) {
      posted[batch]?.end()
      await nextTurn()
    }
    await Promise.all([...large, ...small])
  })

  it('puts what ends something before what is new', async () => {
    const { batcher, posted } = openBatcher({ batchMax: 10 })
    const answers = requests(15).map((request) => batcher.submit(request))
    const expiry = { ...anyRequest(), operation: { kind: 'expiry', holdId: A } as const }
    answers.push(batcher.submit(expiry))
    await nextTurn()
    expect(posted[0]?.requests[0]).toEqual(expiry)
    posted[0]?.end()
    await nextTurn()
    for (const batch of posted) batch.end()
    await Promise.all(answers)
  })

  it('lets what nobody waits for take half of a part, so that what the same tenant waits for finds room', async () => {
    let ms = 0
    const { batcher, posted } = openBatcher({ batchMax: 10, now: () => ms })
    const waiting = requests(40).map((request) => batcher.submit(request))
    await nextTurn()
    for (const batch of [0, 1]) {
      ms += 600
      posted[batch]?.end()
      await nextTurn()
    }
    const mine = () => ({ ...anyRequest(), tenantId: 'mine' })
    // Two have something waiting, so a part is five.
    waiting.push(...[0, 1, 2].map(() => batcher.submit(mine(), true)))
    expect(() => batcher.submit(mine(), true)).toThrow(QueueFull)
    waiting.push(...[0, 1].map(() => batcher.submit(mine())))
    expect(() => batcher.submit(mine())).toThrow(QueueFull)
    for (let batch = 2; batch < posted.length; batch++) {
      posted[batch]?.end()
      await nextTurn()
    }
    await Promise.all(waiting)
  })

  it('makes room for a tenant that has little waiting, by sending away the newest of the one that has most', async () => {
    const { batcher, posted } = openBatcher({ queueMax: 10 })
    const first = batcher.submit(anyRequest())
    await nextTurn()
    const flood = requests(10).map((request) => batcher.submit(request))
    const settled = Promise.allSettled(flood)
    const other = batcher.submit({ ...anyRequest(), tenantId: 'other' })
    expect(batcher.depth).toBe(10)
    await expect(flood[9]).rejects.toThrow(QueueFull)
    expect(() => batcher.submit(anyRequest())).toThrow(QueueFull)
    posted[0]?.end()
    await first
    await nextTurn()
    posted[1]?.end()
    await other
    expect((await settled).filter(({ status }) => status === 'rejected')).toHaveLength(1)
  })

  describe('when requests wait for too long', () => {
    it('keeps the queue to one block, in which each tenant has its part, until they wait less again', async () => {
      let ms = 0
      const { batcher, posted } = openBatcher({ batchMax: 10, now: () => ms })
      const waiting = requests(60).map((request) => batcher.submit(request))
      await nextTurn()
      for (const batch of [0, 1]) {
        ms += 600
        posted[batch]?.end()
        await nextTurn()
      }
      expect(batcher.depth).toBe(20)
      expect(() => batcher.submit(anyRequest())).toThrow(QueueFull)
      const other = Array.from({ length: 5 }, () => batcher.submit({ ...anyRequest(), tenantId: 'other' }))
      expect(() => batcher.submit({ ...anyRequest(), tenantId: 'other' })).toThrow(QueueFull)
      for (let batch = 2; batch < posted.length; batch++) {
        posted[batch]?.end()
        await nextTurn()
      }
      await Promise.all([...waiting, ...other])
      const after = requests(30).map((request) => batcher.submit(request))
      await nextTurn()
      expect(sizes(posted).slice(-2)).toEqual([10, 10])
      for (let batch = 0; batch < posted.length; batch++) {
        posted[batch]?.end()
        await nextTurn()
      }
      await Promise.all(after)
    })

    it('refuses nothing because a single block took long', async () => {
      let ms = 0
      const { batcher, posted } = openBatcher({ batchMax: 10, now: () => ms })
      const answers = requests(30).map((request) => batcher.submit(request))
      await nextTurn()
      ms += 2_000
      posted[0]?.end()
      await nextTurn()
      answers.push(...requests(30).map((request) => batcher.submit(request)))
      for (let batch = 1; batch < posted.length; batch++) {
        posted[batch]?.end()
        await nextTurn()
      }
      await Promise.all(answers)
    })
  })

  describe('while no block goes through', () => {
    const unavailable = (count: number) => Array.from({ length: count }, () => new LedgerUnavailable('away'))

    it('refuses what is new once a block has taken five seconds, until it is through', async () => {
      let ms = 0
      const { batcher, posted } = openBatcher({ now: () => ms })
      const first = batcher.submit(anyRequest())
      await nextTurn()
      ms = 5_000
      const second = batcher.submit(anyRequest())
      expect(batcher.breaker).toBe('closed')
      ms = 5_001
      expect(batcher.breaker).toBe('open')
      expect(batcher.oldestMs).toBe(5_001)
      expect(() => batcher.submit(anyRequest())).toThrow(LedgerUnavailable)
      const step = batcher.submit({ ...anyRequest(), operation: { kind: 'expiry', holdId: A } })
      posted[0]?.end()
      await first
      await nextTurn()
      expect(batcher.breaker).toBe('closed')
      posted[1]?.end()
      await Promise.all([second, step])
    })

    it('lets one request try a second after a batch failed, and the others when that one went through', async () => {
      let ms = 0
      const { batcher, posted } = openBatcher({ now: () => ms })
      const failing = Promise.allSettled([batcher.submit(anyRequest())])
      await nextTurn()
      posted[0]?.end(unavailable(1))
      await failing
      await nextTurn()
      ms = 999
      expect(() => batcher.submit(anyRequest())).toThrow(LedgerUnavailable)
      ms = 1_000
      const trial = batcher.submit(anyRequest())
      expect(() => batcher.submit(anyRequest())).toThrow(LedgerUnavailable)
      await nextTurn()
      expect(() => batcher.submit(anyRequest())).toThrow(LedgerUnavailable)
      posted[1]?.end()
      await trial
      await nextTurn()
      const after = batcher.submit(anyRequest())
      await nextTurn()
      posted[2]?.end()
      await after
    })
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
