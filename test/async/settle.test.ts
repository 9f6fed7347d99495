import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import type { AsyncEnd } from '../../src/async/ends.ts'
import { laterRequest, messageText } from '../../src/async/message.ts'
import { createSettle } from '../../src/async/settle.ts'
import { createShardWatch } from '../../src/async/shardWatch.ts'
import type { Request, RequestRecord } from '../../src/core/request.ts'
import { QueueFull } from '../../src/ledger/batcher.ts'
import { LedgerUnavailable } from '../../src/ledger/poster.ts'
import { SagasSaturated } from '../../src/saga/sagas.ts'
import { newId } from '../../src/shards/newId.ts'

const TENANT = '01970000-0000-7000-8000-000000000001'
const recordOf = (request: Request, id = request.id) => ({ id, payload: request.payload }) as RequestRecord

/** A letter for the wallet of a shard: shards are the last digit of slots here. */
function letter(shard: number, key: string, tenant = TENANT) {
  const walletId = `${newId(0).slice(0, -1)}${shard}`
  const request = laterRequest(tenant, key, { kind: 'top-up', walletId, amount: 5n, currency: 'USD' })
  return { request, text: messageText(request), attempts: 0, firstMs: null }
}

/** A payment from a wallet of one shard to one of another. */
function payment(fromShard: number, toShard: number) {
  const [from, to] = [fromShard, toShard].map((shard) => `${newId(0).slice(0, -1)}${shard}`) as [string, string]
  const legs = [{ from, to, amount: 5n, currency: 'USD' }]
  const request = laterRequest(TENANT, `${fromShard} to ${toShard}`, { kind: 'transfer', legs, remarks: {} })
  return { request, text: messageText(request), attempts: 0, firstMs: null }
}

type Decide = (request: Request) => Promise<{ status: 'decided' | 'replayed' | 'key_reused'; record: RequestRecord }>

/** The ledger does as it is told. */
function stage(decide: Decide, { patienceMs = 200, areEndsLost = false, lookMs = 20, crowdedMsMax = 60_000 } = {}) {
  const submitted: string[] = []
  const ends: AsyncEnd[] = []
  const away = new Set<number>()
  const asked: number[] = []
  const watch = createShardWatch(
    async (shard) => {
      asked.push(shard)
      if (away.has(shard)) throw new Error('away')
    },
    { lookMs },
  )
  const counts = { posted: 0, dead: 0 }
  const settle = createSettle({
    sagas: {
      async decide(request) {
        submitted.push(request.key)
        return await decide(request)
      },
    },
    router: { shardOf: (id) => Number(id.at(-1)) },
    watch,
    knowsTenant: async (id) => id === TENANT,
    async addEnds(more) {
      if (areEndsLost) throw new Error('the first shard is away')
      ends.push(...more)
    },
    count(posted, dead) {
      counts.posted += posted
      counts.dead += dead
    },
    onTrouble: () => {},
    patienceMs,
    crowdedMsMax,
  })
  const stopping = new AbortController()
  const { signal } = stopping
  return {
    stop: () => stopping.abort(),
    settle: (letters: ReturnType<typeof letter>[]) => settle(letters, signal),
    submitted,
    ends,
    away,
    asked,
    watch,
    counts,
  }
}

const fates = (dispositions: readonly { fate: string }[]) => dispositions.map(({ fate }) => fate)

describe('settling', () => {
  test('submits all of a batch at once, in order', async () => {
    const waiting: (() => void)[] = []
    const { settle, submitted, counts } = stage(async (request) => {
      await new Promise<void>((done) => waiting.push(done))
      return { status: 'decided', record: recordOf(request) }
    })
    const keys = Array.from({ length: 50 }, (_, i) => `${i}`)
    const settling = settle(keys.map((key) => letter(0, key)))
    while (waiting.length < 50) await sleep(1)
    expect(submitted).toEqual(keys)
    for (const done of waiting) done()
    expect(fates(await settling)).toEqual(keys.map(() => 'done'))
    expect(counts).toEqual({ posted: 50, dead: 0 })
  })

  test('writes down how those ended whose key had been used', async () => {
    const { settle, ends } = stage(async (request) =>
      request.key === 'same'
        ? { status: 'replayed', record: recordOf(request, 'theirs') }
        : { status: 'key_reused', record: recordOf(request, 'theirs') },
    )
    const [same, other] = [letter(0, 'same'), letter(0, 'other')]
    expect(fates(await settle([same, other]))).toEqual(['done', 'done'])
    expect(ends).toMatchObject([
      { id: same.request.id, recordId: 'theirs' },
      { id: other.request.id, recordId: null, payload: other.request.payload, kind: 'top-up', tenantId: TENANT },
    ])
  })

  test('puts off what ended, as long as that can not be written down', async () => {
    const decide: Decide = async (request) => ({ status: 'key_reused', record: recordOf(request, 'theirs') })
    const { settle } = stage(decide, { areEndsLost: true })
    expect(fates(await settle([letter(0, 'a')]))).toEqual(['later'])
  })

  test('sets aside what it can not read, and what is of no tenant, and submits neither', async () => {
    const { settle, submitted, counts } = stage(async (request) => ({ status: 'decided', record: recordOf(request) }))
    const broken = { ...letter(0, 'broken'), text: 'poison' }
    const strange = letter(0, 'strange', '01970000-0000-7000-8000-000000000002')
    expect(await settle([broken, strange, letter(0, 'good')])).toEqual([
      { fate: 'dead', reason: 'it is not JSON' },
      { fate: 'dead', reason: 'there is no such tenant' },
      { fate: 'done' },
    ])
    expect(submitted).toEqual(['good'])
    expect(counts).toEqual({ posted: 1, dead: 2 })
  })

  test('a shard that says nothing holds up others for no longer than the patience; then nothing is tried on it until it answers', async () => {
    const isSilent = { now: true }
    const { settle, submitted, away, watch } = stage(async (request) => {
      if (isSilent.now && request.id.endsWith('1')) await new Promise(() => {})
      return { status: 'decided', record: recordOf(request) }
    })
    away.add(1)
    expect(fates(await settle([letter(1, 'first'), letter(2, 'other')]))).toEqual(['later', 'done'])
    expect(fates(await settle([letter(1, 'second'), letter(2, 'another')]))).toEqual(['later', 'done'])
    expect(submitted).toEqual(['first', 'other', 'another'])
    isSilent.now = false
    away.clear()
    while (watch.isAway(1)) await sleep(5)
    expect(fates(await settle([letter(1, 'third')]))).toEqual(['done'])
  })

  test('a shard that does not answer is asked once whether it is there, however many wait for it', async () => {
    const { settle, away, asked } = stage(async () => await new Promise(() => {}), { patienceMs: 20, lookMs: 60_000 })
    away.add(1)
    expect(fates(await settle([letter(1, 'a'), letter(1, 'b'), letter(1, 'c')]))).toEqual(['later', 'later', 'later'])
    expect(asked).toEqual([1])
  })

  test('a shard that is slow, but there, is waited for', async () => {
    const { settle, submitted, watch } = stage(
      async (request) => {
        await sleep(250)
        return { status: 'decided', record: recordOf(request) }
      },
      { patienceMs: 60 },
    )
    expect(fates(await settle([letter(1, 'slow')]))).toEqual(['done'])
    expect(watch.isAway(1)).toBe(false)
    expect(submitted).toEqual(['slow'])
  })

  test('a shard that is there and never says anything is not waited for without end', async () => {
    const { settle } = stage(async () => await new Promise(() => {}), { patienceMs: 20 })
    expect(fates(await settle([letter(1, 'stuck'), letter(2, 'too')]))).toEqual(['later', 'later'])
  })

  test('a shard that fails counts as away at once', async () => {
    const { settle, submitted, away } = stage(async () => {
      throw new LedgerUnavailable('away')
    })
    away.add(1)
    expect(fates(await settle([letter(1, 'first')]))).toEqual(['later'])
    expect(fates(await settle([letter(1, 'second')]))).toEqual(['later'])
    expect(submitted).toEqual(['first'])
  })

  test('waits when the ledger has no room, until the shard is away', async () => {
    let room = 3
    const { settle, submitted, away, watch } = stage(async (request) => {
      if (request.key === 'never' || room-- > 0) throw new QueueFull('full')
      return { status: 'decided', record: recordOf(request) }
    })
    expect(fates(await settle([letter(0, 'soon')]))).toEqual(['done'])
    expect(submitted).toEqual(['soon', 'soon', 'soon', 'soon'])
    const waiting = settle([letter(0, 'never')])
    while (submitted.filter((key) => key === 'never').length < 3) await sleep(5)
    away.add(0)
    await watch.doubt(0)
    expect(fates(await waiting)).toEqual(['later'])
  })

  test('ends without a word about what has found no room when the node stops: it comes again', async () => {
    const { settle, stop } = stage(async () => {
      throw new QueueFull('full')
    })
    const waiting = settle([letter(0, 'never')])
    stop()
    await expect(waiting).rejects.toThrow()
  })

  test('what needs a shard that is away as the payee is put off without a try, and holds up nothing', async () => {
    const { settle, submitted, away, watch } = stage(async (request) => ({
      status: 'decided',
      record: recordOf(request),
    }))
    away.add(2)
    await watch.doubt(2)
    expect(fates(await settle([payment(1, 2), payment(1, 3)]))).toEqual(['later', 'done'])
    expect(submitted).toEqual(['1 to 3'])
  })

  test('when too much waits for a payee whose shard answers, it waits for room, and is not put off', async () => {
    let tries = 0
    const { settle, submitted, asked, watch } = stage(async (request) => {
      if (request.key === '1 to 2' && tries++ < 3) throw new SagasSaturated(2)
      return { status: 'decided', record: recordOf(request) }
    })
    expect(fates(await settle([payment(1, 2), payment(1, 3)]))).toEqual(['done', 'done'])
    expect(submitted).toEqual(['1 to 2', '1 to 3', '1 to 2', '1 to 2', '1 to 2'])
    expect(asked).toContain(2)
    expect(watch.isAway(2)).toBe(false)
  })

  test('it is put off when there is no room for long, and at once when the shard is away', async () => {
    const crowd = async () => {
      throw new SagasSaturated(2)
    }
    const stuck = stage(crowd, { crowdedMsMax: 50 })
    expect(await stuck.settle([payment(1, 2)])).toMatchObject([
      { fate: 'later', reason: 'too many sagas wait for shard 2' },
    ])
    expect(stuck.watch.isAway(2)).toBe(false)
    const { settle, submitted, away, asked, watch } = stage(crowd, { lookMs: 60_000 })
    away.add(2)
    expect(fates(await settle([payment(1, 2)]))).toEqual(['later'])
    expect(fates(await settle([payment(1, 2)]))).toEqual(['later'])
    expect([submitted, asked]).toEqual([['1 to 2'], [2]])
    watch.stop()
  })
})
