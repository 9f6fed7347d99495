import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { beginReplay, endReplay } from '../../src/bus/marks.ts'
import { type Consumers, startConsumers } from '../../src/consumers/consumers.ts'
import { connect, type Sql } from '../../src/postgres/connect.ts'
import { PROJECTIONS, projectionsGroup } from '../../src/projections/group.ts'
import { openProjections, type Projections } from '../../src/projections/projections.ts'
import { until } from '../bus/stage.ts'
import { type Api, openApi } from '../support/api.ts'
import { migratedDatabase } from '../support/database.ts'
import { expectProblem } from './problem.ts'

type Line = { transactionId: string; transferId: string | null; kind: string; direction: string; amount: string }
type Feed = {
  data: (Line & { counterparty: string | null; completedAt: string })[]
  nextCursor: string | null
  asOf: string
}
type Totals = { data: { day: string; currency: string; kind: string; count: number; amount: string }[]; asOf: string }

let api: Api
let sql: Sql
let projections: Projections
let consumers: Consumers | undefined
let urls: string[]
let gate: Promise<void> = Promise.resolve()

beforeAll(async () => {
  urls = [await migratedDatabase(), await migratedDatabase()]
  sql = connect(urls[0] ?? '', { max: 2, name: 'test' })
  projections = openProjections({ sql, progress: async () => await consumers?.progress(PROJECTIONS) })
  api = await openApi({ url: urls[0] ?? '', moreUrls: urls.slice(1), projections })
})
afterAll(async () => {
  await consumers?.stop()
  await api?.close()
  await sql?.end()
})

function start(isRun: boolean): Consumers {
  const group = projectionsGroup(sql)
  return startConsumers({
    ...{ brokers: [], partitions: 1, shards: () => [0, 1], urlOf: (shard) => urls[shard], onTrouble: () => {} },
    worksFor: () => isRun,
    groups: [
      {
        ...group,
        async handle(events, marks) {
          await gate
          await group.handle(events, marks)
        },
      },
    ],
  })
}

const feedOf = async (wallet: string, query = '') => await api.alpha.get<Feed>(`/v1/wallets/${wallet}/activity${query}`)
const totalsOf = async (query: string) => await api.alpha.get<Totals>(`/v1/totals?${query}`)
const today = () => new Date().toISOString().slice(0, 10)

/** Waits until the feed says that it has what was completed up to now. */
async function untilNow(wallet: string) {
  const now = new Date().toISOString()
  await until(async () => (await feedOf(wallet)).body.asOf > now)
}

test('as long as no node makes them, activity and totals say so and show nothing', async () => {
  const wallet = await api.alpha.wallet(10)
  expectProblem(await feedOf(wallet), 'projections_unavailable')
  consumers = start(false)
  expectProblem(await feedOf(wallet), 'projections_unavailable')
  const answer = await totalsOf(`from=${today()}&to=${today()}`)
  expectProblem(answer, 'projections_unavailable')
  expect(answer.text).toContain('ZEROSUM_CONSUMERS')
  expect(answer.headers['retry-after']).toBe('5')
  await consumers.stop()
  consumers = undefined
})

describe('what the projections show', () => {
  beforeAll(() => {
    consumers = start(true)
  })

  test('is a feed with the wallet at the other end, newest first, in pages', async () => {
    const [a, b] = [await api.alpha.wallet(1_000), await api.alpha.wallet()]
    const paid: string[] = []
    for (const amount of [10, 20, 30]) paid.push((await api.alpha.pay(a, b, amount)).body.id)
    await untilNow(a)
    const { status, body } = await feedOf(a)
    expect(status).toBe(200)
    expect(
      body.data.map(({ kind, direction, amount, counterparty }) => [kind, direction, amount, counterparty]),
    ).toEqual([...['30', '20', '10'].map((amount) => ['transfer', 'out', amount, b]), ['top-up', 'in', '1000', null]])
    expect(body.data.slice(0, 3).map(({ transferId }) => transferId)).toEqual(paid.toReversed())
    expect((await feedOf(b)).body.data.map(({ direction, counterparty }) => [direction, counterparty])).toEqual(
      Array(3).fill(['in', a]),
    )
    const pages: Line[] = []
    for (let query: string | undefined = '?limit=3'; query; ) {
      const page: Feed = (await feedOf(a, query)).body
      pages.push(...page.data)
      query = page.nextCursor === null ? undefined : `?limit=3&cursor=${page.nextCursor}`
    }
    expect(pages).toEqual(body.data)
    expectProblem(await feedOf(a, '?cursor=bm9uc2Vuc2U'), 'validation_failed')
  })

  test('is empty for a wallet where nothing happened, and not there for one that is not yours', async () => {
    const [mine, others] = [await api.alpha.wallet(), await api.beta.wallet(5)]
    await untilNow(mine)
    expect((await feedOf(mine)).body).toMatchObject({ data: [], nextCursor: null })
    expectProblem(await feedOf(others), 'not_found')
    expectProblem(await feedOf('wal_nothing'), 'not_found')
  })

  test('is a total for each day, currency and kind', async () => {
    const [a, b] = [await api.alpha.wallet(), await api.alpha.wallet()]
    const yen = await api.alpha.wallet(700, { currency: 'JPY' })
    await untilNow(a)
    const before = (await totalsOf(`from=${today()}&to=${today()}`)).body.data
    await api.alpha.topUp(a, 50)
    await api.alpha.pay(a, b, 5)
    await untilNow(a)
    const { body } = await totalsOf(`from=${today().slice(0, 4)}-01-01&to=${today().slice(0, 4)}-12-31`)
    const of = (data: Totals['data'], kind: string, currency: string) =>
      data.find((total) => total.kind === kind && total.currency === currency) ?? { count: 0, amount: '0' }
    for (const [kind, amount] of [
      ['top-up', 50],
      ['transfer', 5],
    ] as const) {
      const [then, now] = [of(before, kind, 'USD'), of(body.data, kind, 'USD')]
      expect(now.count).toBe(then.count + 1)
      expect(Number(now.amount)).toBe(Number(then.amount) + amount)
    }
    const inYen = await totalsOf(`from=${today()}&to=${today()}&currency=JPY`)
    expect(inYen.body.data).toEqual([{ day: today(), currency: 'JPY', kind: 'top-up', count: 1, amount: '700' }])
    expect(yen).toMatch(/^wal_/)
    expect((await totalsOf('from=2020-01-01&to=2020-12-31')).body.data).toEqual([])
    for (const query of [
      'from=2026-02-30&to=2026-03-01',
      'from=2026-02-02&to=2026-02-01',
      'from=2025-01-01&to=2026-01-02',
      'from=2026-01-01',
    ])
      expectProblem(await totalsOf(query), 'validation_failed')
    const key = await api.keyWith('wallets:read')
    expect((await api.as(key).get(`/v1/totals?from=${today()}&to=${today()}`)).status).toBe(403)
  })

  test('says up to when it is true while it is behind', async () => {
    const [a, b] = [await api.alpha.wallet(100), await api.alpha.wallet()]
    await untilNow(a)
    let open = () => {}
    gate = new Promise((done) => {
      open = done
    })
    onTestFinished(() => open())
    const first = await api.alpha.pay(a, b, 1)
    const { body } = await feedOf(a)
    expect(body.data).toHaveLength(1)
    expect(body.asOf < (first.body as unknown as { completedAt: string }).completedAt).toBe(true)
    open()
    await untilNow(a)
    expect((await feedOf(a)).body.data).toHaveLength(2)
    const lag = await consumers?.lag()
    expect(lag).toMatchObject({ relay: [], groups: [{ group: PROJECTIONS, shards: [{ shard: 0 }, { shard: 1 }] }] })
  })

  test('is not shown while it is made again', async () => {
    const wallet = await api.alpha.wallet(1)
    await untilNow(wallet)
    await sql.begin((tx) => beginReplay(tx, PROJECTIONS))
    onTestFinished(() => endReplay(sql, PROJECTIONS))
    expectProblem(await feedOf(wallet), 'projections_unavailable')
  })
})
