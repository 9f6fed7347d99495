import { beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { createEmbeddedQueue } from '../../src/async/embeddedQueue.ts'
import { QueueUnavailable, type RequestQueue } from '../../src/async/requestQueue.ts'
import { slotOfId } from '../../src/core/ids.ts'
import { newId } from '../../src/shards/newId.ts'
import { until } from '../bus/stage.ts'
import { openPassage } from '../http/passage.ts'
import { migratedDatabase } from '../support/database.ts'
import { queueContract, queued } from './contract.ts'

describe('the queue on the shards', () => {
  let urls: string[]
  beforeAll(async () => {
    urls = [await migratedDatabase(), await migratedDatabase()]
  })
  const open = (places = urls) =>
    createEmbeddedQueue({
      shards: () => places.map((_, shard) => shard),
      urlOf: (shard) => places[shard],
      shardOf: (id) => slotOfId(id) % 2,
      leaseMs: 1_500,
      onTrouble: () => {},
    })
  queueContract(open)

  test('what is asked again while it waits is there once', async () => {
    const queue: RequestQueue = open()
    onTestFinished(() => queue.close())
    const request = queued()
    for (let i = 0; i < 5; i++) await queue.add(request)
    const seen: string[] = []
    const worker = queue.work(async (letters) => {
      seen.push(...letters.map(({ text }) => text))
      return letters.map(() => ({ fate: 'done' }))
    })
    await until(() => seen.includes(request.text))
    await worker.stop()
    expect(seen.filter((text) => text === request.text)).toHaveLength(1)
  })

  test('a shard that is away takes nothing in and holds up no other; when it is back, what was there is settled', async () => {
    const passage = await openPassage(urls[1] ?? '')
    onTestFinished(() => passage.close())
    const queue = open([urls[0] ?? '', passage.urlOf(urls[1] ?? '')])
    onTestFinished(() => queue.close())
    const [near, far] = [newId(4), newId(5)]
    const waiting = queued(far)
    await queue.add(waiting)
    passage.cut()
    const seen: string[] = []
    queue.work(async (letters) => {
      seen.push(...letters.map(({ text }) => text))
      return letters.map(() => ({ fate: 'done' }))
    })
    const other = queued(near)
    const [lost, taken] = await Promise.allSettled([queue.add(queued(far)), queue.add(other)])
    expect(lost).toMatchObject({ status: 'rejected', reason: expect.any(QueueUnavailable) })
    expect(taken.status).toBe('fulfilled')
    await until(() => seen.includes(other.text))
    expect(seen).not.toContain(waiting.text)
    passage.reopen()
    await until(() => seen.includes(waiting.text))
  })
})
