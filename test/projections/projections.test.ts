import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { seededRandom } from '../../bench/load.ts'
import type { ConsumerGroup } from '../../src/bus/bus.ts'
import { createEmbeddedBus } from '../../src/bus/embeddedBus.ts'
import { type LedgerEvent, TRANSACTIONS, type TransactionData } from '../../src/bus/events.ts'
import { forgetMarks, marksOfBlocks } from '../../src/bus/marks.ts'
import { parseId } from '../../src/core/ids.ts'
import { connect, type Sql } from '../../src/postgres/connect.ts'
import { replayProjections } from '../../src/projections/command.ts'
import { PROJECTIONS, projectionsGroup } from '../../src/projections/group.ts'
import { readActivity, readDailyTotals } from '../../src/projections/reader.ts'
import { caughtUp, headsOf, NoSuchBlock, rebuildProjections, refetchProjections } from '../../src/projections/replay.ts'
import type { Total } from '../../src/projections/totals.ts'
import { allEvents, until } from '../bus/stage.ts'
import { expectedTotals, walletBalances } from './expected.ts'
import { openTown, type Town } from './town.ts'

let town: Town
let sqls: Sql[]
const pool = (shard: number) => sqls[shard] as Sql
const shards = [0, 1]

beforeAll(async () => {
  town = await openTown()
  sqls = town.urls.map((url) => connect(url, { max: 4, name: 'test' }))
  await town.live(1, 240)
}, 240_000)
afterAll(async () => {
  await Promise.all(sqls.map((sql) => sql.end()))
  await town.close()
}, 60_000)

beforeEach(async () => {
  await pool(0)`TRUNCATE wallet_activity, daily_totals`
  await forgetMarks(pool(0), PROJECTIONS)
  const bus = openBus()
  await bus.rewind(PROJECTIONS, 0)
})

function openBus() {
  const bus = createEmbeddedBus({
    shards: () => shards,
    urlOf: (shard) => town.urls[shard],
    onTrouble: (error) => troubles.push(error),
  })
  onTestFinished(() => bus.close())
  return bus
}
const troubles: unknown[] = []

/** Runs the group until it has done all that there is. */
async function project(group: ConsumerGroup = projectionsGroup(pool(0))) {
  const bus = openBus()
  bus.subscribe(group)
  await caughtUp(pool, await headsOf(pool, shards), bus.lag)
  return bus
}

/** All that was projected. */
async function rows() {
  const sql = pool(0)
  const activity = await sql`SELECT * FROM wallet_activity ORDER BY wallet_id, time_us, transaction_id, leg`
  const totals =
    await sql`SELECT tenant_id, day::text, currency, kind, number, amount FROM daily_totals t ORDER BY tenant_id, t.day, currency, kind`
  return { activity: [...activity], totals: [...totals] }
}

const byKey = ({ tenantId, day, currency, kind }: Total) => [tenantId, day, currency, kind].join(' ')
async function totals(): Promise<Total[]> {
  const { alpha, beta } = town.api.tenantIds
  const days = { from: '2000-01-01', to: '9999-12-31' }
  const both = await Promise.all([alpha, beta].map((tenant) => readDailyTotals(pool(0), tenant, days)))
  return both.flat().sort((a, b) => (byKey(a) < byKey(b) ? -1 : 1))
}

async function completedEvents(): Promise<LedgerEvent[]> {
  const events = await allEvents(town.urls)
  return events.filter(({ topic }) => topic === TRANSACTIONS)
}

describe('the projections', () => {
  test('daily totals are what the ledger itself sums up to, by SQL, without events', async () => {
    await project()
    expect(await totals()).toEqual(await expectedTotals(town.urls))
    const kinds = new Set((await totals()).map(({ kind }) => kind))
    expect(kinds).toEqual(new Set(['transfer', 'top-up', 'withdrawal', 'reversal']))
    const statuses = new Set((await completedEvents()).map(({ data }) => (data as TransactionData).status))
    // The town has seen everything that could have been counted by mistake.
    expect(statuses).toEqual(new Set(['completed', 'pending', 'compensated', 'refused', null]))
  })

  test('a feed adds up to the balance of its wallet, and its open holds to what is held', async () => {
    await project()
    const { activity } = await rows()
    const balances = await walletBalances(town.urls)
    const sums = new Map([...balances.keys()].map((id) => [id, { posted: 0n, held: 0n }]))
    const held = new Map<string, bigint>()
    for (const row of activity as {
      wallet_id: string
      kind: string
      direction: string
      amount: bigint
      hold_id: string
    }[]) {
      const sum = sums.get(row.wallet_id)
      if (!sum) throw new Error(`no wallet ${row.wallet_id}`)
      const signed = row.direction === 'in' ? row.amount : -row.amount
      const key = `${row.hold_id} ${row.wallet_id}`
      if (row.kind === 'hold') {
        if (row.direction === 'out') held.set(key, row.amount)
      } else if (row.hold_id !== null) held.delete(key)
      if (!['hold', 'release', 'expiry'].includes(row.kind)) sum.posted += signed
    }
    for (const [key, amount] of held) {
      const sum = sums.get(key.split(' ')[1] ?? '')
      if (sum) sum.held += amount
    }
    expect(sums).toEqual(balances)
    expect(new Set(activity.map(({ kind }) => kind))).toEqual(
      new Set(['transfer', 'top-up', 'withdrawal', 'reversal', 'hold', 'capture', 'release']),
    )
  })

  test('what was asked once stands once at each end, with the other end, in whatever steps it was done', async () => {
    const { alpha } = town.api
    // The first shard leads, or the second; both wallets on one, or not.
    const [a, b] = [await alpha.wallet(500), await alpha.wallet()]
    const paid = await alpha.call<{ id: string }>('POST', '/v1/transfers', {
      ...{ from: a, to: b, amount: '30', currency: 'USD', memo: 'two\tlines "x"'.replace('\t', ' ') },
    })
    await project()
    const [walletA, walletB] = [a, b].map((id) => parseId('wal', id) ?? '')
    const tenantId = town.api.tenantIds.alpha
    const feed = await readActivity(pool(0), { tenantId, walletId: walletA ?? '' }, { limit: 10 })
    const transferId = parseId('trf', paid.body.id)
    expect(feed).toMatchObject([
      {
        ...{ kind: 'transfer', direction: 'out', counterparty: walletB, amount: '30', currency: 'USD', transferId },
        ...{ leg: 0, holdId: null, reverses: null, memo: 'two lines "x"' },
      },
      { kind: 'top-up', direction: 'in', counterparty: null, amount: '500' },
    ])
    expect(await readActivity(pool(0), { tenantId, walletId: walletB ?? '' }, { limit: 10 })).toMatchObject([
      { kind: 'transfer', direction: 'in', counterparty: walletA, amount: '30', transferId },
    ])
    expect(
      await readActivity(pool(0), { tenantId: town.api.tenantIds.beta, walletId: walletA ?? '' }, { limit: 9 }),
    ).toEqual([])
  })

  test('a feed is read page by page, newest first, each row once', async () => {
    await project()
    const [busiest] = await pool(0)<{ wallet_id: string; tenant_id: string; count: bigint }[]>`
      SELECT wallet_id, tenant_id, count(*) FROM wallet_activity GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 1`
    const wallet = { tenantId: busiest?.tenant_id ?? '', walletId: busiest?.wallet_id ?? '' }
    const all = await readActivity(pool(0), wallet, { limit: 1_000 })
    expect(all).toHaveLength(Number(busiest?.count))
    expect(all.map(({ timeUs }) => timeUs)).toEqual(all.map(({ timeUs }) => timeUs).toSorted((x, y) => y - x))
    const paged = []
    for (let before = all[0]; before; ) {
      const page = await readActivity(pool(0), wallet, paged.length === 0 ? { limit: 3 } : { limit: 3, before })
      paged.push(...page)
      before = page.at(-1)
    }
    expect(paged).toEqual(all)
  })

  test.each([1, 2, 3])('events that come twice and in any portions make the same rows, seed %i', async (seed) => {
    await project()
    const before = await rows()
    await pool(0)`TRUNCATE wallet_activity, daily_totals`
    await forgetMarks(pool(0), PROJECTIONS)
    const random = seededRandom(seed)
    const { handle } = projectionsGroup(pool(0))
    const events = await completedEvents()
    const streams = shards.map((shard) => events.filter(({ place }) => place.shard === shard))
    const next = shards.map(() => 0)
    let repeated = 0
    while (streams.some((stream, shard) => (next[shard] ?? 0) < stream.length)) {
      const shard = Math.floor(random() * 2)
      const begin = Math.max(0, (next[shard] ?? 0) - (random() < 0.3 ? Math.floor(random() * 40) : 0))
      const batch = streams[shard]?.slice(begin, begin + 1 + Math.floor(random() * 40)) ?? []
      repeated += Math.max(0, (next[shard] ?? 0) - begin)
      next[shard] = Math.max(next[shard] ?? 0, begin + batch.length)
      if (batch.length > 0) await handle(batch, marksOfBlocks(PROJECTIONS, batch))
    }
    expect(repeated).toBeGreaterThan(20)
    expect(await rows()).toEqual(before)
  })

  test('sums go beyond what one amount can be', async () => {
    const tenant = `ten_${'0'.repeat(31)}1`
    const [template] = (await completedEvents()).filter(({ data }) => (data as TransactionData).kind === 'top-up')
    if (!template) throw new Error('no top-up')
    const amount = `${2n ** 63n - 1n}`
    const events = [1, 2, 3].map((block) => {
      const id = `txn_${'0'.repeat(31)}${block}`
      const movements = (template.data as TransactionData).movements.map((one) => ({ ...one, amount }))
      const place = { shard: 0, block, index: 0 }
      return {
        ...template,
        tenant,
        place,
        time: `2026-03-0${block}T23:59:59.999999Z`,
        data: { ...template.data, id, movements },
      }
    }) as LedgerEvent[]
    const [first, second, third] = events as [LedgerEvent, LedgerEvent, LedgerEvent]
    const mine = [first, { ...second, time: first.time }, { ...third, time: '2026-03-02T00:00:00.000000Z' }]
    await projectionsGroup(pool(0)).handle(mine, marksOfBlocks(PROJECTIONS, mine))
    const found = await readDailyTotals(pool(0), parseId('ten', tenant) ?? '', { from: '2026-03-01', to: '2026-03-02' })
    expect(found).toMatchObject([
      { day: '2026-03-01', number: 2n, amount: 2n * BigInt(amount) },
      { day: '2026-03-02', number: 1n, amount: BigInt(amount) },
    ])
  })
})

describe('a replay', () => {
  test('from 0 makes the same rows again while the group runs and money moves', async () => {
    const bus = await project()
    const old = await rows()
    const living = town.live(2, 60)
    for (let i = 0; i < 4; i++) await rebuildProjections(pool(0), bus)
    await living
    await rebuildProjections(pool(0), bus)
    await caughtUp(pool, await headsOf(pool, shards), bus.lag)
    const after = await rows()
    expect(after.activity).toEqual(expect.arrayContaining(old.activity))
    expect(await totals()).toEqual(await expectedTotals(town.urls))
    await rebuildProjections(pool(0), bus)
    await caughtUp(pool, await headsOf(pool, shards), bus.lag)
    expect(await rows()).toEqual(after)
  })

  test('refuses what a consumer had in hand when it began', async () => {
    const before = await project()
    const expected = await rows()
    await before.close()
    await town.live(3, 8)
    const group = projectionsGroup(pool(0))
    const waiting: (() => void)[] = []
    let isHeld = true
    const bus = openBus()
    bus.subscribe({
      ...group,
      async handle(events, marks) {
        if (isHeld) await new Promise<void>((done) => waiting.push(done))
        await group.handle(events, marks)
      },
    })
    // They have read the newest blocks, and have written nothing yet.
    await until(() => waiting.length > 0)
    await rebuildProjections(pool(0), bus)
    isHeld = false
    for (const go of waiting) go()
    await caughtUp(pool, await headsOf(pool, shards), bus.lag)
    expect((await rows()).activity).toEqual(expect.arrayContaining(expected.activity))
    expect(await totals()).toEqual(await expectedTotals(town.urls))
  })

  test('from 0 that fails half way leaves all as it was', async () => {
    const bus = await project()
    const before = await rows()
    const broken = {
      ...bus,
      async rewind(name: string, sinceUs: number) {
        await bus.rewind(name, sinceUs)
        throw new Error('a shard is down')
      },
    }
    await expect(rebuildProjections(pool(0), broken)).rejects.toThrow('a shard is down')
    await caughtUp(pool, await headsOf(pool, shards), bus.lag)
    expect(await rows()).toEqual(before)
  })

  test('from a later block counts nothing twice', async () => {
    const bus = await project()
    const before = await rows()
    await refetchProjections(pool, shards, bus, 3)
    await caughtUp(pool, await headsOf(pool, shards), bus.lag)
    expect(await rows()).toEqual(before)
    await expect(refetchProjections(pool, shards, bus, 10_000_000)).rejects.toThrow(NoSuchBlock)
  })

  test('from a later block fetches what a restored first shard lacks', async () => {
    const first = await project()
    await first.close()
    // As a backup has it: rows and marks of some time ago.
    const sql = pool(0)
    const saved = await rows()
    const marks = await sql<{ shard: number; block: bigint; index: number }[]>`
      SELECT shard, block, index FROM consumer_marks WHERE consumer_group = ${PROJECTIONS}`
    await town.live(4, 24)
    const second = await project()
    const expected = await rows()
    expect(expected.activity.length).toBeGreaterThan(saved.activity.length)
    await second.close()
    await restore(saved, marks)
    const bus = await project()
    expect(await rows()).toEqual(saved)
    await refetchProjections(
      pool,
      shards,
      bus,
      Number(marks.map(({ block }) => block).sort((a, b) => Number(a - b))[0]),
    )
    await caughtUp(pool, await headsOf(pool, shards), bus.lag)
    expect(await rows()).toEqual(expected)
  })

  test('is a command, which ends when all is there again', async () => {
    const bus = await project()
    await bus.close()
    const before = await rows()
    const asked = { urls: town.urls }
    expect(await replayProjections({ ...asked, from: 0 })).toBe(0)
    expect(await rows()).toEqual(before)
    expect(await replayProjections({ ...asked, from: 2 })).toBe(0)
    expect(await rows()).toEqual(before)
    expect(await replayProjections({ ...asked, from: 99_999_999 })).toBe(1)
  })
})

async function restore(
  saved: Awaited<ReturnType<typeof rows>>,
  marks: readonly { shard: number; block: bigint; index: number }[],
) {
  const text = (rows: readonly object[]) =>
    JSON.stringify(rows, (_, value) => (typeof value === 'bigint' ? `${value}` : value))
  await pool(0).begin(async (sql) => {
    await sql`TRUNCATE wallet_activity, daily_totals`
    await sql`INSERT INTO wallet_activity SELECT * FROM json_populate_recordset(NULL::wallet_activity, ${text(saved.activity)}::json)`
    await sql`INSERT INTO daily_totals SELECT * FROM json_populate_recordset(NULL::daily_totals, ${text(saved.totals)}::json)`
    for (const { shard, block, index } of marks) {
      await sql`UPDATE consumer_marks SET block = ${block}, index = ${index} WHERE consumer_group = ${PROJECTIONS} AND shard = ${shard}`
    }
  })
}
