import { beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { createEmbeddedQueue } from '../../src/async/embeddedQueue.ts'
import { addEnds, findEnd, pruneEnds } from '../../src/async/ends.ts'
import { QueueUnavailable, type RequestQueue } from '../../src/async/requestQueue.ts'
import { addQueued, readQueued, recordDispositions } from '../../src/async/sql/queue.ts'
import { slotOfId } from '../../src/core/ids.ts'
import { arrayLiteral, connect, type Tx } from '../../src/postgres/connect.ts'
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
      onTrouble: () => {},
    })
  queueContract(open)

  /** Whether a statement in the database of this connection waits for a lock; other tests work on the same server. */
  const hasWaiting = async (sql: Tx) => {
    const rows = await sql`
      SELECT FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE datname = current_database() AND NOT granted`
    return rows.length > 0
  }

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

  test('what is taken in while another node is still at it comes after what that one takes in', async () => {
    const [url = ''] = urls
    const sql = connect(url, { max: 2 })
    onTestFinished(() => sql.end())
    const [first, second] = [queued(newId(4)), queued(newId(4))]
    let isSecondIn = false
    let adding: Promise<void> | undefined
    await sql.begin(async (one) => {
      await one`SELECT queue_requests(${arrayLiteral([first.id])}::uuid[], ${arrayLiteral([first.text])}::text[], '{NULL}')`
      adding = addQueued(sql, [second]).then(() => {
        isSecondIn = true
      })
      // Not committed yet: whoever read the second now would have passed the first.
      await until(async () => isSecondIn || (await hasWaiting(one)))
      expect(isSecondIn).toBe(false)
    })
    await adding
    const mine = (await readQueued(sql, -1, 100_000)).filter(({ id }) => id === first.id || id === second.id)
    expect(mine.map(({ id }) => id)).toEqual([first.id, second.id])
    await recordDispositions(
      sql,
      mine.map(({ id }) => ({ id, disposition: { fate: 'done' } })),
    )
  })

  test('what is due again does not come before what was taken in earlier and is not committed yet', async () => {
    const sql = connect(urls[0] ?? '', { max: 2 })
    onTestFinished(() => sql.end())
    const [first, again] = [queued(newId(4)), queued(newId(4))]
    await addQueued(sql, [again])
    let reading: ReturnType<typeof readQueued> | undefined
    let isRead = false
    await sql.begin(async (one) => {
      await one`SELECT queue_requests(${arrayLiteral([first.id])}::uuid[], ${arrayLiteral([first.text])}::text[], '{NULL}')`
      await recordDispositions(sql, [
        { id: again.id, disposition: { fate: 'later', dueMs: 0, firstMs: 1, reason: 'busy' } },
      ])
      reading = readQueued(sql, -1, 100_000).finally(() => {
        isRead = true
      })
      await until(async () => isRead || (await hasWaiting(one)))
    })
    const mine = (await reading)?.filter(({ id }) => id === first.id || id === again.id)
    expect(mine?.map(({ id }) => id)).toEqual([first.id, again.id])
    await recordDispositions(
      sql,
      [first, again].map(({ id }) => ({ id, disposition: { fate: 'done' } })),
    )
  })

  test.each(['done', 'later'] as const)('what is %s is locked in the order in which adding locks it', async (fate) => {
    const sql = connect(urls[0] ?? '', { max: 2 })
    onTestFinished(() => sql.end())
    const requests = [queued(newId(4)), queued(newId(4)), queued(newId(4))]
    const ids = requests.map(({ id }) => id).toSorted()
    const backwards = ids.toReversed()
    for (const one of backwards)
      await addQueued(
        sql,
        requests.filter(({ id }) => id === one),
      )
    const disposition = fate === 'done' ? { fate } : { fate, dueMs: 0, firstMs: 1, reason: 'busy' }
    let recording: Promise<void> | undefined
    await sql.begin(async (one) => {
      const [first = '', , last = ''] = ids
      await one`SELECT FROM queued_requests WHERE id = ${first} FOR UPDATE`
      recording = recordDispositions(
        sql,
        backwards.map((id) => ({ id, disposition })),
      )
      await until(() => hasWaiting(one))
      expect(await one`SELECT FROM queued_requests WHERE id = ${last} FOR UPDATE NOWAIT`).toHaveLength(1)
    })
    await recording
    await sql`DELETE FROM queued_requests WHERE id = ANY (${arrayLiteral(ids)}::uuid[])`
  })

  test('old ends go, in portions, and no others', async () => {
    const [url = ''] = urls
    const sql = connect(url, { max: 1 })
    onTestFinished(() => sql.end())
    const ids = Array.from({ length: 5 }, (_, i) => newId(i))
    const tenantId = newId(1)
    await addEnds(
      sql,
      ids.map((id, i) => ({ id, tenantId, kind: 'transfer', payload: '{}', recordId: null, timeUs: 1_000 + i })),
    )
    expect(await pruneEnds(sql, { beforeUs: 1_004, limit: 3 })).toBe(3)
    expect(await pruneEnds(sql, { beforeUs: 1_004, limit: 3 })).toBe(1)
    const left = await Promise.all(ids.map((id) => findEnd(sql, tenantId, id)))
    expect(left.map((end) => end !== undefined)).toEqual([false, false, false, false, true])
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
