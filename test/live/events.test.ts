import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { parseId, slotOfId } from '../../src/core/ids.ts'
import type { Feed } from '../../src/live/feed.ts'
import { connect } from '../../src/postgres/connect.ts'
import { createMover } from '../../src/relocation/mover.ts'
import { until } from '../cache/wait.ts'
import { expectProblem } from '../http/problem.ts'
import { type Api, type ApiOptions, type Entry, openApi } from '../support/api.ts'
import { migratedDatabase } from '../support/database.ts'
import { type Listener, listen } from './listen.ts'

let urls: string[]
let api: Api
let url: string
/** Another node on the same databases. */
let other: Api

beforeAll(async () => {
  urls = [await migratedDatabase(), await migratedDatabase()]
  api = await openNode()
  url = await api.app.listen({ host: '127.0.0.1', port: 0 })
  other = await openNode()
})
afterAll(async () => {
  await other?.close()
  await api?.close()
})

function openNode(options: ApiOptions = {}): Promise<Api> {
  return openApi({ url: urls[0] ?? '', moreUrls: urls.slice(1), ...options })
}

/** A node of a test's own, that listens. */
async function ownNode(options: ApiOptions): Promise<{ node: Api; nodeUrl: string }> {
  const node = await openNode(options)
  onTestFinished(() => node.close())
  return { node, nodeUrl: await node.app.listen({ host: '127.0.0.1', port: 0 }) }
}

/** A feed that never says anything. */
const silent: Feed = { watch: () => () => {}, tell() {}, close: async () => {} }

async function entriesOf(wallet: string): Promise<Entry[]> {
  return (await api.alpha.all<Entry>(`/v1/wallets/${wallet}/entries`)).reverse()
}

/** The stream has told what the lists say, from an entry on, each once and in order. */
async function expectWhole(stream: Listener, wallet: string, after = 0): Promise<void> {
  const { version } = await api.alpha.balance(wallet)
  await stream.untilVersion(version)
  const entries = (await entriesOf(wallet)).filter(({ sequence }) => sequence > after)
  expect(stream.entries.map(({ data }) => data)).toEqual(entries)
  const ids = stream.events.map(({ id }) => Number(id))
  expect(ids).toEqual([...ids].sort((a, b) => a - b))
}

describe('a stream', () => {
  test('begins with the balance as GET says it, and the headers that let it through proxies', async () => {
    const wallet = await api.alpha.wallet(500)
    const stream = await listen(url, api.alpha, wallet)
    expect(stream.status).toBe(200)
    expect(stream.headers).toMatchObject({
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-store, no-transform',
      'x-accel-buffering': 'no',
      'x-correlation-id': expect.stringMatching(/./),
    })
    await stream.untilVersion(1)
    const { asOf: _, ...balance } = await api.alpha.balance(wallet)
    expect(stream.events).toEqual([{ event: 'balance', id: '1', data: expect.objectContaining(balance) }])
    expect(stream.text().match(/^retry: \d+$/gm)).toHaveLength(1)
  })

  test('tells each entry as the list does, and the balance after it', async () => {
    const [wallet, payee] = [await api.alpha.wallet(500), await api.alpha.wallet()]
    const stream = await listen(url, api.alpha, wallet)
    await stream.untilVersion(1)
    for (let amount = 1; amount <= 5; amount++) {
      await api.alpha.pay(wallet, payee, amount)
      await expectWhole(stream, wallet, 1)
    }
    const { asOf: _, ...balance } = await api.alpha.balance(wallet)
    expect(stream.events.at(-1)?.data).toMatchObject(balance)
    for (const { event, id, data } of stream.events) {
      expect(Number(id)).toBe(event === 'entry' ? data.sequence : data.version)
    }
  })

  test.each(['header', 'query'])('resumes after the entry that the %s names', async (how) => {
    const wallet = await api.alpha.wallet()
    for (let i = 0; i < 4; i++) await api.alpha.topUp(wallet, 10)
    const stream = await listen(
      url,
      api.alpha,
      wallet,
      how === 'header' ? { lastEventId: 2, query: '?lastEventId=1' } : { query: '?lastEventId=2' },
    )
    await expectWhole(stream, wallet, 2)
    expect(stream.events.map(({ event, id }) => `${event} ${id}`)).toEqual(['entry 3', 'entry 4', 'balance 4'])
    await api.alpha.topUp(wallet, 10)
    await expectWhole(stream, wallet, 2)
  })

  test('has no gap and no entry twice, however often it is broken off', async () => {
    const wallet = await api.alpha.wallet(1)
    const seen: string[] = []
    let last = '0'
    const work = (async () => {
      for (let i = 0; i < 30; i++) await (i % 2 ? api : other).alpha.topUp(wallet, 1)
    })()
    await until(async () => {
      const stream = await listen(url, api.alpha, wallet, { lastEventId: last })
      await until(() => stream.events.length > 0)
      stream.close()
      const { events } = stream
      seen.push(...events.filter(({ event }) => event === 'entry').map(({ data }) => data.id))
      last = events.at(-1)?.id ?? last
      return Number(last) >= 31
    })
    await work
    expect(seen).toEqual((await entriesOf(wallet)).map(({ id }) => id))
  })

  test('tells more entries than it reads at once', async () => {
    const wallet = await api.alpha.wallet()
    const topUps = Array.from({ length: 230 }, () => api.alpha.topUp(wallet, 1))
    await Promise.all(topUps)
    await expectWhole(await listen(url, api.alpha, wallet, { lastEventId: 0 }), wallet)
  })

  test('begins with the balance when it is to resume after what was never there', async () => {
    const wallet = await api.alpha.wallet(1)
    const stream = await listen(url, api.alpha, wallet, { lastEventId: 999 })
    await stream.untilVersion(1)
    await api.alpha.topUp(wallet, 1)
    await expectWhole(stream, wallet, 1)
  })

  test('tells the balance also of what is not listed, under the number that it has come to', async () => {
    const [wallet, payee] = await onShards(0, 1)
    await api.alpha.topUp(wallet, 100)
    const stream = await listen(url, api.alpha, wallet)
    await stream.untilVersion(1)
    const { status } = await api.alpha.pay(wallet, payee, 10)
    expect(status).toBe(201)
    await expectWhole(stream, wallet, 1)
    const { version } = await api.alpha.balance(wallet)
    expect(stream.events.at(-1)).toMatchObject({ event: 'balance', id: `${version}` })
    expect(version).toBeGreaterThan(stream.entries.length + 1)
    // Who resumes there is told of nothing twice.
    const resumed = await listen(url, api.alpha, wallet, { lastEventId: version })
    await resumed.untilVersion(version)
    expect(resumed.events).toHaveLength(1)
  })

  test('sends comments while nothing happens', async () => {
    const { node, nodeUrl } = await ownNode({ streams: { heartbeatMs: 20 } })
    const stream = await listen(nodeUrl, node.alpha, await node.alpha.wallet())
    await stream.untilVersion(0)
    await until(() => (stream.text().match(/^:\n\n/gm) ?? []).length > 2)
    expect(stream.events).toHaveLength(1)
  })

  test('tells what the feed did not say', async () => {
    const { node, nodeUrl } = await ownNode({ openFeed: () => silent, streams: { lookMs: 50 } })
    const wallet = await node.alpha.wallet(1)
    const stream = await listen(nodeUrl, node.alpha, wallet)
    await stream.untilVersion(1)
    await node.alpha.topUp(wallet, 1)
    await expectWhole(stream, wallet, 1)
  })

  test('has no gap and no entry twice when reads fail', async () => {
    let reads = 0
    const { node, nodeUrl } = await ownNode({
      streams: { lookMs: 20 },
      wrapRouter: (router) => ({
        ...router,
        read: (id, work) => (reads++ % 3 === 1 ? Promise.reject(new Error('away')) : router.read(id, work)),
      }),
    })
    const wallet = await api.alpha.wallet()
    await Promise.all(Array.from({ length: 210 }, () => api.alpha.topUp(wallet, 1)))
    const stream = await listen(nodeUrl, node.alpha, wallet, { lastEventId: 5 })
    await expectWhole(stream, wallet, 5)
    await api.alpha.topUp(wallet, 1)
    await expectWhole(stream, wallet, 5)
    expect(reads).toBeGreaterThan(6)
  })

  test('tells what was posted through another node', async () => {
    const { node, nodeUrl } = await ownNode({ streams: { lookMs: 600_000 } })
    const wallet = await api.alpha.wallet(1)
    const stream = await listen(nodeUrl, node.alpha, wallet)
    await stream.untilVersion(1)
    for (let i = 0; i < 3; i++) {
      await other.alpha.topUp(wallet, 1)
      await expectWhole(stream, wallet, 1)
    }
  })

  test('goes on when the wallet moves to another shard, and back', async () => {
    const [wallet] = await onShards(0)
    await api.alpha.topUp(wallet, 100)
    const stream = await listen(url, api.alpha, wallet)
    await stream.untilVersion(1)
    for (const to of [1, 0]) {
      await move(wallet, to)
      await api.alpha.topUp(wallet, 5)
      await expectWhole(stream, wallet, 1)
    }
    expect(stream.entries).toHaveLength(2)
    const resumed = await listen(url, api.alpha, wallet, { lastEventId: 0 })
    await expectWhole(resumed, wallet)
  })
})

describe('a stream is not given', () => {
  test("of another tenant's wallet, and of none: 404", async () => {
    const wallet = await api.beta.wallet()
    for (const id of [wallet, `wal_${'0'.repeat(32)}`, 'nothing']) {
      expect((await listen(url, api.alpha, id)).status).toBe(404)
    }
  })

  test('after what is no number: 400', async () => {
    const wallet = await api.alpha.wallet()
    for (const id of ['x', '-1', '1.5', '1'.repeat(30)]) {
      expect((await listen(url, api.alpha, wallet, { lastEventId: id })).status, id).toBe(400)
      expect((await listen(url, api.alpha, wallet, { query: `?lastEventId=${id}` })).status, id).toBe(400)
    }
    expect((await listen(url, api.alpha, wallet, { lastEventId: '' })).status).toBe(200)
  })

  test('beyond those that a tenant, and a node, may have; and is again when one has gone', async () => {
    const { node, nodeUrl } = await ownNode({ streams: { perTenant: 2, perNode: 3 } })
    const [mine, theirs] = [await node.alpha.wallet(), await node.beta.wallet()]
    const first = await listen(nodeUrl, node.alpha, mine)
    await listen(nodeUrl, node.alpha, mine)
    const path = (wallet: string) => `/v1/wallets/${wallet}/events`
    const refused = await node.alpha.get(path(mine))
    expectProblem(refused, 'too_many_streams')
    expect(refused.headers['retry-after']).toMatch(/^\d+$/)
    await listen(nodeUrl, node.beta, theirs)
    expectProblem(await node.beta.get(path(theirs)), 'streams_exhausted')
    first.close()
    await until(async () => (await node.alpha.get(path(mine))).status === 200)
  })
})

test('a stream ends by itself after a while, and can be resumed', async () => {
  const { node, nodeUrl } = await ownNode({ streams: { lifeMsMax: 50 } })
  const stream = await listen(nodeUrl, node.alpha, await node.alpha.wallet())
  await until(() => stream.isOver())
})

test('a node that stops ends its streams', async () => {
  const node = await openNode()
  const nodeUrl = await node.app.listen({ host: '127.0.0.1', port: 0 })
  const wallet = await node.alpha.wallet(1)
  const streams = await Promise.all([1, 2, 3].map(() => listen(nodeUrl, node.alpha, wallet)))
  await Promise.all(streams.map((stream) => stream.untilVersion(1)))
  await node.close()
  await until(() => streams.every((stream) => stream.isOver()))
})

/** A wallet of tenant alpha on each of these shards. */
async function onShards<const Numbers extends number[]>(
  ...numbers: Numbers
): Promise<{ [K in keyof Numbers]: string }> {
  const found: string[] = []
  for (const number of numbers) {
    let wallet: string
    do wallet = await api.alpha.wallet()
    while (api.router.shardOf(parseId('wal', wallet) ?? '') !== number)
    found.push(wallet)
  }
  return found as { [K in keyof Numbers]: string }
}

/** Takes the slot of a wallet to a shard that it is not on. */
async function move(wallet: string, to: number): Promise<void> {
  const { router } = api
  const pools = urls.map((each) => connect(each, { max: 2 }))
  const mover = createMover({ router, pool: (shard) => pools[shard] as (typeof pools)[number] })
  await Promise.all(router.shards.map(({ number }) => router.look(number)))
  const { epoch, shardCount, drained } = router.map
  const slots = [slotOfId(parseId('wal', wallet) ?? '')]
  const made = { id: randomUUID(), epoch: epoch + 1, shardCount, createdUs: Date.now() * 1000, drained }
  expect(await mover.make({ ...made, slots, from: 1 - to, to })).toBe(true)
  await Promise.all(pools.map((sql) => sql.end()))
}
