import { spawnSync } from 'node:child_process'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createMetrics, type Metrics } from '../../src/observe/metrics.ts'
import { poolUse } from '../../src/postgres/connect.ts'
import { type Api, openApi } from '../support/api.ts'
import { migratedDatabase } from '../support/database.ts'
import { type Family, figureOf, parseOpenMetrics } from './openmetrics.ts'
import { carrySpans, withSpan } from './spans.ts'

const OPENMETRICS = 'application/openmetrics-text; version=1.0.0'
const TRACE = '0af7651916cd43dd8448eb211c80319c'
const OTHER_TRACE = '1af7651916cd43dd8448eb211c80319c'
const SPAN = 'b7ad6b7169203331'

type Stage = { api: Api; metrics: Metrics; scrape(): Promise<Map<string, Family>> }

/** The app on two shards, with metrics. */
async function openStage(): Promise<Stage> {
  let api: Api | undefined
  const metrics = createMetrics({
    version: '1.2.3',
    queues: () => (api?.router.shards ?? []).map(({ number, batcher }) => ({ shard: number, ...queueOf(batcher) })),
    pools: poolUse,
    cache: () => undefined,
    breakers: () => ({ redis: 2 }),
    unreachableHosts: () => unreachableHosts,
  })
  const url = await migratedDatabase()
  api = await openApi({
    ...{ url, moreUrls: [await migratedDatabase()] },
    onBlock: metrics.block,
    observed: { calls: metrics.calls, metrics: metrics.exposition },
  })
  const { app } = api
  const scrape = async () =>
    parseOpenMetrics((await app.inject({ url: '/metrics', headers: { accept: OPENMETRICS } })).payload)
  return { api, metrics, scrape }
}

/** As the node would say. */
let unreachableHosts: number | undefined = 3

const queueOf = ({ depth, oldestMs }: { depth: number; oldestMs: number }) => ({ depth, oldestMs })

const shardOf = ({ router }: Api, id: string) =>
  router.shardOf(`${id.slice(4, 12)}-${id.slice(12, 16)}-${id.slice(16, 20)}-${id.slice(20, 24)}-${id.slice(24)}`)

/** A wallet of one tenant on that shard. */
async function walletOn(api: Api, shard: number): Promise<string> {
  for (;;) {
    const id = await api.alpha.wallet(10_000)
    if (shardOf(api, id) === shard) return id
  }
}

describe('metrics', () => {
  let stage: Stage
  const endSpans = carrySpans()
  beforeAll(async () => {
    stage = await openStage()
  })
  afterAll(async () => {
    await stage.api.close()
    endSpans()
  })

  /** By how much each figure rises while something is done. */
  async function risesOf(work: () => Promise<unknown>) {
    const before = await stage.scrape()
    await work()
    const after = await stage.scrape()
    return (name: string, labels: Record<string, string> = {}) =>
      (figureOf(after, name, labels) ?? 0) - (figureOf(before, name, labels) ?? 0)
  }

  it('count what was asked, decided, refused and moved', async () => {
    const { alpha } = stage.api
    const from = await alpha.wallet(1_000)
    const to = await alpha.wallet()
    const rises = await risesOf(async () => {
      for (let i = 0; i < 7; i++) expect((await alpha.pay(from, to, 3)).status).toBe(201)
      expect((await alpha.pay(from, to, 5_000)).body).toMatchObject({ code: 'insufficient_funds' })
      const { body } = await alpha.pay(from, to, 100)
      await alpha.call('POST', `/v1/transfers/${body.id}/reverse`, {})
    })
    const route = { method: 'POST', route: '/v1/transfers' }
    expect(rises('zerosum_http_requests_total', { ...route, status: '201' })).toBe(8)
    expect(rises('zerosum_http_requests_total', { ...route, status: '422' })).toBe(1)
    expect(rises('zerosum_http_request_duration_seconds_count', route)).toBe(9)
    expect(rises('zerosum_refusals_total', { code: 'insufficient_funds' })).toBe(1)
    const decided = ['transfer', 'saga-finalize', 'reversal'].map((kind) => ({ kind, outcome: 'accepted' }))
    const transfers = rises('zerosum_requests_decided_total', decided[0])
    expect(transfers).toBe(8)
    expect(rises('zerosum_requests_decided_total', decided[2])).toBe(1)
    expect(rises('zerosum_money_moved_minor_units_total', { currency: 'USD' })).toBe(7 * 3 + 100 + 100)
  })

  it('count money between shards once, and holds when they are captured', async () => {
    const { alpha } = stage.api
    const [from, to] = [await walletOn(stage.api, 0), await walletOn(stage.api, 1)]
    const rises = await risesOf(async () => {
      expect((await alpha.pay(from, to, 40)).status).toBe(201)
      const hold = await alpha.hold(from, to, 60)
      expect(hold.status).toBe(201)
      expect((await alpha.call('POST', `/v1/holds/${hold.body.id}/capture`, {})).status).toBe(200)
      expect((await alpha.pay(from, `wal_${'0'.repeat(32)}`, 40)).status).toBe(422)
    })
    expect(rises('zerosum_money_moved_minor_units_total', { currency: 'USD' })).toBe(100)
    expect(rises('zerosum_sagas_ended_total', { outcome: 'completed' })).toBe(3)
  })

  it('tell of blocks as many and as large as they are', async () => {
    const { alpha } = stage.api
    // On one shard: between shards a transfer is more requests than one.
    const [from, to] = [await walletOn(stage.api, 0), await walletOn(stage.api, 0)]
    const blocksBefore = await stage.api.query<{ count: bigint }>('SELECT count(*) FROM blocks')
    const rises = await risesOf(async () => {
      await Promise.all(Array.from({ length: 30 }, () => alpha.pay(from, to, 1)))
    })
    const blocksAfter = await stage.api.query<{ count: bigint }>('SELECT count(*) FROM blocks')
    const blocks = Number(blocksAfter[0]?.count) - Number(blocksBefore[0]?.count)
    expect(rises('zerosum_blocks_total', { shard: '0' })).toBe(blocks)
    expect(rises('zerosum_block_requests_count', { shard: '0' })).toBe(blocks)
    expect(rises('zerosum_block_commit_seconds_count', { shard: '0' })).toBe(blocks)
    expect(blocks).toBeGreaterThan(0)
    expect(rises('zerosum_block_requests_sum', { shard: '0' })).toBe(30)
    expect(rises('zerosum_requests_decided_total', { kind: 'transfer', outcome: 'accepted' })).toBe(30)
  })

  it('show the trace of a call, if it is kept', async () => {
    const { app } = stage.api
    await withSpan(TRACE, SPAN, true, async () => await app.inject({ url: '/livez' }))
    await withSpan(OTHER_TRACE, SPAN, false, async () => await app.inject({ url: '/readyz' }))
    const buckets = (await stage.scrape()).get('zerosum_http_request_duration_seconds')?.samples ?? []
    const tracesOf = (route: string) =>
      buckets
        .filter(({ labels }) => labels['route'] === route)
        .flatMap(({ exemplar }) => (exemplar ? [exemplar.labels] : []))
    expect(tracesOf('/livez')).toEqual([{ trace_id: TRACE }])
    expect(tracesOf('/readyz')).toEqual([])
  })

  it('are the same in the format that old scrapers read', async () => {
    const { app } = stage.api
    const [open, old] = [
      await app.inject({ url: '/metrics', headers: { accept: `${OPENMETRICS},text/plain;q=0.5` } }),
      await app.inject({ url: '/metrics', headers: { accept: 'text/plain' } }),
    ]
    expect(open.headers['content-type']).toBe('application/openmetrics-text; version=1.0.0; charset=utf-8')
    expect(old.headers['content-type']).toBe('text/plain; version=0.0.4; charset=utf-8')
    expect(old.payload).toContain('# TYPE zerosum_blocks_total counter\n')
    expect(old.payload).not.toContain('EOF')
    expect(old.payload).not.toContain('trace_id')
    // What Node is doing, and what it has collected, may differ from one moment to the next.
    const changing = /\/metrics|^nodejs_(active|gc)_/
    const seriesOf = (text: string) => text.match(/^[a-z]\S+(?= )/gm)?.filter((series) => !changing.test(series))
    expect(seriesOf(old.payload)).toEqual(seriesOf(open.payload))
    expect(seriesOf(old.payload)?.length).toBeGreaterThan(200)
  })

  it('say what is not known by saying nothing', async () => {
    const { metrics } = stage
    metrics.shard(1, { sagas: 3, oldestSagaSeconds: 9.5, replicaLagSeconds: 2 })
    metrics.lag({
      relay: [{ shard: 1, blocks: 4, seconds: 5, doneUs: 0, isFollowed: true }],
      groups: [
        { group: 'cache', shards: [{ shard: 1, blocks: 6, seconds: 7, doneUs: 0, isFollowed: true }] },
        { group: 'webhooks', messages: 8 },
      ],
    })
    metrics.webhooksPending(0)
    const known = await stage.scrape()
    expect(figureOf(known, 'zerosum_shard_up', { shard: '1' })).toBe(1)
    expect(figureOf(known, 'zerosum_sagas_in_flight', { shard: '1' })).toBe(3)
    expect(figureOf(known, 'zerosum_saga_oldest_age_seconds', { shard: '1' })).toBe(9.5)
    expect(figureOf(known, 'zerosum_replica_lag_seconds', { shard: '1' })).toBe(2)
    expect(figureOf(known, 'zerosum_relay_lag_blocks', { shard: '1' })).toBe(4)
    expect(figureOf(known, 'zerosum_consumer_lag_seconds', { group: 'cache', shard: '1' })).toBe(7)
    expect(figureOf(known, 'zerosum_consumer_lag_messages', { group: 'webhooks' })).toBe(8)
    expect(figureOf(known, 'zerosum_webhook_pending')).toBe(0)
    expect(figureOf(known, 'zerosum_webhook_hosts_unreachable')).toBe(3)
    expect(figureOf(known, 'zerosum_ledger_imbalance')).toBeUndefined()
    metrics.shard(1, undefined)
    metrics.lag({
      relay: [],
      groups: [
        { group: 'cache', shards: [] },
        { group: 'webhooks', messages: undefined },
      ],
    })
    metrics.webhooksPending(undefined)
    unreachableHosts = undefined
    const unknown = await stage.scrape()
    expect(figureOf(unknown, 'zerosum_shard_up', { shard: '1' })).toBe(0)
    for (const name of [
      ...['sagas_in_flight', 'saga_oldest_age_seconds', 'replica_lag_seconds', 'relay_lag_blocks', 'relay_lag_seconds'],
      ...['consumer_lag_blocks', 'consumer_lag_seconds', 'consumer_lag_messages', 'webhook_pending'],
      'webhook_hosts_unreachable',
    ]) {
      expect(unknown.get(`zerosum_${name}`)?.samples, name).toEqual([])
    }
  })

  it('tell how long the oldest request has waited to be posted', async () => {
    const waiting = createMetrics({
      ...{ version: '1', pools: () => [], cache: () => undefined, breakers: () => ({}) },
      unreachableHosts: () => undefined,
      queues: () => [{ shard: 3, depth: 2, oldestMs: 1_500 }],
    })
    const families = parseOpenMetrics((await waiting.exposition(OPENMETRICS)).text)
    expect(figureOf(families, 'zerosum_batcher_queue_depth', { shard: '3' })).toBe(2)
    expect(figureOf(families, 'zerosum_batcher_queue_age_seconds', { shard: '3' })).toBe(1.5)
  })

  const promtool = spawnSync('promtool', ['--version']).error ? undefined : 'promtool'
  it.skipIf(!promtool)('please promtool', async () => {
    const { payload } = await stage.api.app.inject({ url: '/metrics' })
    const { status, stdout, stderr } = spawnSync('promtool', ['check', 'metrics'], { input: payload })
    expect(`${stdout}${stderr}`).toBe('')
    expect(status).toBe(0)
  })
})
