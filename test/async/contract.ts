import { randomUUID } from 'node:crypto'
import { expect, onTestFinished, test } from 'vitest'
import type { Disposition } from '../../src/async/disposition.ts'
import { laterRequest, messageText } from '../../src/async/message.ts'
import type { Letter, Queued, RequestQueue } from '../../src/async/requestQueue.ts'
import { formatId } from '../../src/core/ids.ts'
import { newId } from '../../src/shards/newId.ts'
import { until } from '../bus/stage.ts'

const TENANT = '01970000-0000-7000-8000-000000000001'
const SECONDS = 60

/** A request for a wallet, as it is queued. */
export function queued(walletId = newId(5), key: string = randomUUID()): Queued {
  const request = laterRequest(TENANT, key, { kind: 'top-up', walletId, amount: 5n, currency: 'USD' })
  return { id: request.id, scope: request.scope, text: messageText(request) }
}

/** What holds for every queue. @param open another node's queue, in the same place */
export function queueContract(open: () => RequestQueue): void {
  const opened = () => {
    const queue = open()
    onTestFinished(() => queue.close())
    return queue
  }
  /** Settles what comes as it is told; others' letters are done with. */
  const worker = (queue: RequestQueue, fateOf: (letter: Letter) => Disposition = () => ({ fate: 'done' })) => {
    const seen: Letter[] = []
    const texts = () => seen.map(({ text }) => text)
    const subscription = queue.work(async (letters) => {
      seen.push(...letters)
      return letters.map(fateOf)
    })
    return { seen, texts, stop: () => subscription.stop() }
  }
  const some = (count: number, walletId?: string) => Array.from({ length: count }, () => queued(walletId))
  const addAll = (queue: RequestQueue, requests: readonly Queued[]) =>
    Promise.all(requests.map((request) => queue.add(request)))
  const textsOf = (requests: readonly Queued[]) => requests.map(({ text }) => text)
  const includesAll = (texts: readonly string[], requests: readonly Queued[]) => {
    const there = new Set(texts)
    return requests.every(({ text }) => there.has(text))
  }

  test('what was added comes to whoever works, also when the node that took it is gone', async () => {
    const requests = some(1_500)
    const first = open()
    await addAll(first, requests)
    await first.close()
    const { texts } = worker(opened())
    await until(
      () => includesAll(texts(), requests),
      () => texts().length,
      SECONDS,
    )
  })

  test('what is of one scope comes in the order in which it was added', async () => {
    const walletId = newId(7)
    const queue = opened()
    const requests = some(300, walletId)
    const others = some(300)
    await addAll(
      queue,
      requests.flatMap((request, i) => [request, others[i] ?? request]),
    )
    const { texts } = worker(queue)
    await until(
      () => includesAll(texts(), requests),
      () => texts().length,
      SECONDS,
    )
    const mine = new Set(textsOf(requests))
    expect([...new Set(texts())].filter((text) => mine.has(text))).toEqual(textsOf(requests))
  })

  test('what is done does not come again', async () => {
    const queue = opened()
    const requests = some(20)
    await addAll(queue, requests)
    const first = worker(queue)
    await until(
      () => includesAll(first.texts(), requests),
      () => first.texts().length,
      SECONDS,
    )
    await first.stop()
    const more = some(20)
    await addAll(queue, more)
    const second = worker(opened())
    await until(
      () => includesAll(second.texts(), more),
      () => second.texts().length,
      SECONDS,
    )
    expect(second.texts().filter((text) => textsOf(requests).includes(text))).toEqual([])
  })

  test('what is put off comes again when it is due, with its attempts, and holds up nothing', async () => {
    const queue = opened()
    const request = queued()
    const firstMs = Date.now()
    const early: number[] = []
    let dueMs = 0
    const { seen } = worker(queue, ({ text, attempts }) => {
      if (text !== request.text) return { fate: 'done' }
      if (Date.now() < dueMs) early.push(dueMs - Date.now())
      if (attempts === 2) return { fate: 'done' }
      dueMs = Date.now() + 600
      return { fate: 'later', dueMs, firstMs, reason: 'not now' }
    })
    await queue.add(request)
    const mine = () => seen.filter(({ text }) => text === request.text)
    await until(
      () => mine().length > 0,
      () => 'never came',
      SECONDS,
    )
    const others = some(10)
    await addAll(queue, others)
    await until(
      () =>
        includesAll(
          seen.map(({ text }) => text),
          others,
        ),
      () => 'others were held up',
      SECONDS,
    )
    await until(
      () => mine().some(({ attempts }) => attempts === 2),
      () => JSON.stringify(mine()),
      SECONDS,
    )
    expect(early.filter((ms) => ms > 100)).toEqual([])
    expect(mine()[0]).toMatchObject({ attempts: 0, firstMs: null })
    expect(mine().at(-1)).toMatchObject({ attempts: 2, firstMs })
  })

  test('what is set aside is listed with its reason, comes no more, and comes again once it is revived', async () => {
    const queue = opened()
    const [bad, worse, good] = [queued(), queued(), queued()]
    const beganMs = Date.now()
    const isDead = { now: true }
    const { texts } = worker(queue, ({ text }) =>
      isDead.now && [bad.text, worse.text].includes(text)
        ? { fate: 'dead', reason: `no: ß ${text.length}` }
        : { fate: 'done' },
    )
    await addAll(queue, [bad, worse, good])
    const name = formatId('trf', bad.id)
    const mine = async () => (await queue.dead(1_000)).filter(({ text }) => [bad.text, worse.text].includes(text))
    await until(
      async () => (await mine()).length === 2,
      () => texts().length,
      SECONDS,
    )
    const [letter] = (await mine()).filter((one) => one.name === name)
    expect(letter).toMatchObject({ name, text: bad.text, reason: `no: ß ${bad.text.length}`, attempts: 1 })
    expect(letter?.origin).toMatch(/\w/)
    expect(letter?.deadMs).toBeGreaterThan(beganMs - 1_000)
    expect(letter?.deadMs).toBeLessThan(Date.now() + 1_000)
    expect(await queue.dead(1)).toHaveLength(1)
    const before = texts().length
    isDead.now = false
    expect(await queue.revive([name, 'trf_00000000000000000000000000000000'])).toBe(1)
    await until(
      () => texts().slice(before).includes(bad.text),
      () => 'it did not come',
      SECONDS,
    )
    const left = async (expected: readonly string[]) =>
      await until(
        async () => (await mine()).map(({ text }) => text).join() === expected.join(),
        () => 'the letter stayed',
        SECONDS,
      )
    await left([worse.text])
    expect(await queue.revive('all')).toBeGreaterThanOrEqual(1)
    await until(
      () => texts().slice(before).includes(worse.text),
      () => 'it did not come',
      SECONDS,
    )
    await left([])
    expect(texts().filter((text) => text === good.text)).toHaveLength(1)
  })

  test('what is put off for minutes holds up nothing that is put off for a moment', async () => {
    const queue = opened()
    // More than the batches that may be under way, one after the other so that they are not one.
    const slow = some(8)
    const slowTexts = new Set(textsOf(slow))
    const quick = queued()
    const { seen } = worker(queue, ({ text, attempts }) => {
      const later = (ms: number): Disposition => ({
        ...{ fate: 'later', dueMs: Date.now() + ms, firstMs: Date.now(), reason: 'not now' },
      })
      if (slowTexts.has(text)) return later(300_000)
      return text === quick.text && attempts === 0 ? later(1_000) : { fate: 'done' }
    })
    for (const request of slow) {
      await queue.add(request)
      await until(
        () => seen.some(({ text }) => text === request.text),
        () => 'never came',
        SECONDS,
      )
    }
    await until(
      async () => (await queue.waiting()) >= slow.length,
      () => 'they are not put off',
      SECONDS,
    )
    await queue.add(quick)
    await until(
      () => seen.some(({ text, attempts }) => text === quick.text && attempts === 1),
      () => 'it was held up',
      SECONDS,
    )
    // What was not recorded, on a busy machine, comes once more as it came first.
    expect(seen.filter(({ text, attempts }) => slowTexts.has(text) && attempts > 0)).toEqual([])
  })

  test('the trace of who asked comes with it, also when it was put off', async () => {
    const queue = opened()
    const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
    const request = { ...queued(), traceparent }
    const firstMs = Date.now()
    const { seen } = worker(queue, ({ text, attempts }) =>
      text === request.text && attempts === 0
        ? { fate: 'later', dueMs: Date.now() + 600, firstMs, reason: 'not now' }
        : { fate: 'done' },
    )
    await queue.add(request)
    const mine = () => seen.filter(({ text }) => text === request.text)
    await until(
      () => mine().some(({ attempts }) => attempts === 1),
      () => mine().length,
      SECONDS,
    )
    expect(mine().length).toBeGreaterThanOrEqual(2)
    expect(new Set(mine().map((letter) => letter.traceparent))).toEqual(new Set([traceparent]))
  })

  test('what is failed at comes again', async () => {
    const queue = opened()
    const requests = some(30)
    await addAll(queue, requests)
    const seen: string[] = []
    let failures = 3
    queue.work(async (letters) => {
      if (failures-- > 0) throw new Error('not today')
      seen.push(...letters.map(({ text }) => text))
      return letters.map(() => ({ fate: 'done' }))
    })
    await until(
      () => includesAll(seen, requests),
      () => seen.length,
      SECONDS,
    )
  })

  test('batches are settled several at a time', async () => {
    const queue = opened()
    const pending: (() => void)[] = []
    let isOver = false
    queue.work(async (letters) => {
      if (!isOver) await new Promise<void>((done) => pending.push(done))
      return letters.map(() => ({ fate: 'done' }))
    })
    // One after the other, so that they are not one batch.
    for (let count = 1; count <= 3; count++) {
      await queue.add(queued())
      await until(
        () => pending.length >= count,
        () => pending.length,
        SECONDS,
      )
    }
    expect(pending.length).toBeLessThanOrEqual(8)
    isOver = true
    for (const done of pending) done()
  })

  test('nodes come and go while requests come in, and each request is settled', async () => {
    const queue = opened()
    const nodes: ReturnType<typeof worker>[] = []
    const requests: Queued[] = []
    const all: ReturnType<typeof worker>[] = []
    for (let round = 0; round < 5; round++) {
      const node = worker(opened())
      nodes.push(node)
      all.push(node)
      const more = some(100)
      requests.push(...more)
      await addAll(queue, more)
      if (round % 2 === 1) await nodes.shift()?.stop()
    }
    const texts = () => all.flatMap((node) => node.texts())
    await until(
      () => includesAll(texts(), requests),
      () => texts().length,
      SECONDS,
    )
  })
}
