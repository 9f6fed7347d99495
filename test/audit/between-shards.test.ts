import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { readdir, readFile } from 'node:fs/promises'
import { getPriority } from 'node:os'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { type Audits, startAudits } from '../../src/audit/background.ts'
import { verifyAll } from '../../src/audit/verification.ts'
import { parseId, slotOfId } from '../../src/core/ids.ts'
import { requestOf, stepRequest } from '../../src/core/request.ts'
import { begunSaga, type Saga } from '../../src/core/saga.ts'
import { connect, type Tx } from '../../src/postgres/connect.ts'
import { newId } from '../../src/shards/newId.ts'
import { type Api, openApi } from '../support/api.ts'
import { migratedDatabase } from '../support/database.ts'

/** Two shards, with wallets on each. */
type Town = { api: Api; urls: readonly [string, string]; wallets: readonly [string[], string[]] }

const uuidOf = (wallet: string) => parseId('wal', wallet) ?? ''

async function openTown(giveUpMs = 20_000): Promise<Town> {
  const urls = [await migratedDatabase(), await migratedDatabase()] as const
  const api = await openApi({ url: urls[0], moreUrls: [urls[1]], sagaOptions: { giveUpMs } })
  const wallets: [string[], string[]] = [[], []]
  while (wallets.some((each) => each.length < 4)) {
    const wallet = await api.alpha.wallet(10_000)
    wallets[api.router.shardOf(uuidOf(wallet)) === 0 ? 0 : 1].push(wallet)
  }
  return { api, urls, wallets }
}

/** A little of everything that goes between shards. */
async function live({ api, wallets: [here, there] }: Town): Promise<void> {
  const [anna = '', ben = ''] = here
  const [cleo = '', dan = ''] = there
  const { alpha } = api
  for (const [from, to] of [
    [anna, cleo],
    [dan, ben],
    [cleo, anna],
  ] as const) {
    expect((await alpha.pay(from, to, 100)).status).toBe(201)
  }
  const legs = [
    { from: anna, to: cleo, amount: '5', currency: 'USD' },
    { from: dan, to: anna, amount: '7', currency: 'USD' },
  ]
  expect((await alpha.call('POST', '/v1/transfers', { legs })).status).toBe(201)
  const paid = await alpha.pay(anna, dan, 50)
  expect((await alpha.call('POST', `/v1/transfers/${paid.body.id}/reverse`, { amount: '20' })).status).toBe(201)
  expect((await alpha.pay(anna, `wal_${'0'.repeat(29)}${cleo.slice(-3)}`, 5)).body).toMatchObject({
    code: 'to_not_found',
  })
  for (const end of ['capture', 'release', undefined]) {
    const { body } = await alpha.hold(anna, cleo, 30)
    if (end) expect((await alpha.call('POST', `/v1/holds/${body.id}/${end}`, {})).status).toBe(200)
  }
}

/** Changes books behind the program's back. */
async function tamper(url: string, change: (sql: Tx) => Promise<unknown>): Promise<void> {
  const sql = connect(url, { max: 1, role: null })
  await sql.begin(async (sql) => {
    await sql`SET LOCAL session_replication_role = replica`
    await change(sql)
  })
  await sql.end()
}

let town: Town
beforeAll(async () => {
  town = await openTown()
  await live(town)
})
afterAll(() => town.api.close())

describe('the audit of several shards', () => {
  test('finds books in order after everything that goes between shards', async () => {
    const verification = await verifyAll(town.urls)
    expect(verification.shards.map(({ discrepancy }) => discrepancy)).toEqual([null, null])
    expect(verification.transit).toMatchObject({ inFlight: 0, balanced: true, discrepancy: null })
    expect(verification.transit.sagas).toBeGreaterThan(5)
    expect(verification.balanced).toBe(true)
  })

  test('looks at new blocks only when it is told what was in order before', async () => {
    const before = await verifyAll(town.urls)
    const [anna = ''] = town.wallets[0]
    await town.api.alpha.pay(anna, town.wallets[1][0] ?? '', 1)
    const since = await verifyAll(town.urls, { since: before })
    const whole = await verifyAll(town.urls)
    expect(since.balanced).toBe(true)
    expect(since.shards.map(({ head, requests, entries }) => ({ head, requests, entries }))).toEqual(
      whole.shards.map(({ head, requests, entries }) => ({ head, requests, entries })),
    )
  })

  test.each([
    ['a transit account with another peer', 0, (sql: Tx) => sql`UPDATE accounts SET peer = 3 WHERE kind = 'transit'`],
    [
      'a saga that stands as in flight though it is over',
      0,
      (sql: Tx) =>
        sql`INSERT INTO sagas_in_flight (id) SELECT id FROM requests WHERE result->'saga' IS NOT NULL LIMIT 1`,
    ],
    [
      'a saga in flight that nobody began',
      1,
      (sql: Tx) => sql`INSERT INTO sagas_in_flight (id) VALUES (${randomUUID()})`,
    ],
    [
      'a step that moved another amount',
      1,
      (sql: Tx) => sql`
        UPDATE requests SET payload = replace(payload::text, '"amount":"100"', '"amount":"101"')::json
        WHERE (block, item) = (SELECT block, item FROM requests WHERE kind = 'saga-commit' ORDER BY block LIMIT 1)`,
    ],
  ])('finds %s', async (_, shard, change) => {
    const own = await openTown()
    onTestFinished(() => own.api.close())
    await live(own)
    await tamper(own.urls[shard as 0 | 1], change)
    const verification = await verifyAll(own.urls)
    expect(verification.balanced).toBe(false)
    expect(verification.shards[shard]?.discrepancy?.problem).toMatch(/\S/)
  })

  test('finds a saga that is forgotten before it is over', async () => {
    const own = await openTown()
    onTestFinished(() => own.api.close())
    const [from = ''] = own.wallets[0]
    const [to = ''] = own.wallets[1]
    // Begun by hand, and nobody goes on with it.
    await own.api.sagas.close()
    const legs = [{ from: uuidOf(from), to: uuidOf(to), amount: 5n, currency: 'USD' }]
    const id = newId(slotOfId(uuidOf(from)))
    await own.api.router
      .shard(0)
      .batcher.submit(requestOf(id, own.api.tenantIds.alpha, 'by hand', { kind: 'transfer', legs, remarks: {} }))
    expect((await verifyAll(own.urls)).balanced).toBe(true)
    await tamper(own.urls[0], (sql) => sql`DELETE FROM sagas_in_flight`)
    const [report] = (await verifyAll(own.urls)).shards
    expect(report?.discrepancy).toMatchObject({ transaction: `txn_${id.replaceAll('-', '')}` })
    expect(report?.discrepancy?.problem).toContain('does not stand as in flight')
    await tamper(own.urls[0], (sql) => sql`INSERT INTO sagas_in_flight (id) VALUES (${id})`)
  })

  test('finds money that came out of nothing between two shards whose own books agree', async () => {
    const own = await openTown()
    onTestFinished(() => own.api.close())
    await live(own)
    const [from = ''] = own.wallets[0]
    const [to = ''] = own.wallets[1]
    const leg = { from: uuidOf(from), to: uuidOf(to), amount: 77n, currency: 'USD', fromShard: 0, toShard: 1 }
    const saga: Saga = {
      ...{ id: newId(slotOfId(leg.from)), tenantId: own.api.tenantIds.alpha, kind: 'move', as: 'transfer', shard: 0 },
      legs: [leg],
    }
    const outcome = await own.api.router.shard(1).batcher.submit(stepRequest(newId(slotOfId(leg.to)), saga, 'commit'))
    expect(outcome.record.refusal).toBeNull()
    const verification = await verifyAll(own.urls)
    expect(verification.shards.map(({ balanced }) => balanced)).toEqual([true, true])
    expect(verification.transit.discrepancy).toMatchObject({ saga: saga.id })
    expect(verification.transit.discrepancy?.problem).toContain('-77 is on one side only')
    expect(verification.balanced).toBe(false)
  })

  test('finds a credit that went to another wallet than the payer meant', async () => {
    const own = await openTown()
    onTestFinished(() => own.api.close())
    const [from = ''] = own.wallets[0]
    const [to = '', stranger = ''] = own.wallets[1]
    const leg = { from: uuidOf(from), to: uuidOf(to), amount: 5n, currency: 'USD' }
    const id = newId(slotOfId(leg.from))
    const on = (shard: number) => own.api.router.shard(shard).batcher
    const begun = await on(0).submit(
      requestOf(id, own.api.tenantIds.alpha, 'by hand', { kind: 'transfer', legs: [leg], remarks: {} }),
    )
    const saga = begunSaga(own.api.tenantIds.alpha, begun.record.result)
    if (!saga) throw new Error('no saga began')
    const astray = { ...saga, legs: saga.legs.map((leg) => ({ ...leg, to: uuidOf(stranger) })) }
    await on(1).submit(stepRequest(newId(slotOfId(leg.to)), astray, 'commit'))
    await on(0).submit(stepRequest(newId(slotOfId(leg.from)), saga, 'finalize'))
    const { transit } = await verifyAll(own.urls)
    expect(transit.discrepancy).toMatchObject({ saga: id })
    expect(transit.discrepancy?.problem).toContain('different sagas')
  })

  test('is not mistaken while money moves', async () => {
    const own = await openTown()
    onTestFinished(() => own.api.close())
    const all = own.wallets.flat()
    let isOver = false
    const client = async (n: number) => {
      for (let i = n; !isOver; i++) {
        const [from, to] = [all[i % all.length] ?? '', all[(i * 3 + 1) % all.length] ?? '']
        if (from !== to) await own.api.alpha.pay(from, to, 1)
      }
    }
    const clients = Array.from({ length: 16 }, (_, n) => client(n))
    let inFlight = 0
    for (let round = 0; round < 12; round++) {
      const { balanced, transit, shards } = await verifyAll(own.urls)
      expect(balanced, JSON.stringify([transit, shards])).toBe(true)
      inFlight += transit.inFlight
    }
    isOver = true
    await Promise.all(clients)
    console.log(`seen in flight: ${inFlight}`)
  })
})

describe('audits that go on by themselves', () => {
  test('leave nothing running when they end, whatever they were at', async () => {
    const closing = new URL('closing.ts', import.meta.url).pathname
    const child = spawn(process.execPath, [closing, await migratedDatabase()], { stdio: 'inherit' })
    onTestFinished(() => void child.kill('SIGKILL'))
    expect(await once(child, 'exit')).toEqual([0, null])
  })

  test('are shown, are made anew, and say so when the books do not agree', async () => {
    const own = await openTown()
    onTestFinished(() => own.api.close())
    await live(own)
    const troubles: unknown[] = []
    const audits = startAudits({ urls: () => own.urls, intervalMs: 50, onTrouble: (error) => troubles.push(error) })
    onTestFinished(() => audits.close())
    const until = async (isSo: (balanced: boolean) => boolean) => {
      for (let i = 0; i < 1_200; i++) {
        const last = await audits.last()
        if (last && isSo(last.verification.balanced)) return last
        await new Promise((done) => setTimeout(done, 50))
      }
      throw new Error('no such audit')
    }
    const first = await until((balanced) => balanced)
    expect(first.verification.shards).toHaveLength(2)
    if (process.platform === 'linux') expect(await nicenesses()).toEqual([getPriority(), getPriority() + 5])
    await tamper(own.urls[1], (sql) => sql`UPDATE blocks SET hash = sha256(hash) WHERE number = 2`)
    await own.api.alpha.wallet(5)
    // What was found in order is not looked at again for an hour; a new thread begins from the beginning.
    const again = startAudits({ urls: () => own.urls, intervalMs: 50, onTrouble: (error) => troubles.push(error) })
    onTestFinished(() => again.close())
    const bad = await until((balanced) => !balanced)
    expect(bad.verification.shards[1]?.discrepancy).toMatchObject({ block: 2 })
    await expect.poll(() => troubles.join('\n')).toContain('the books do not agree')
    // The first of the two, which has seen nothing wrong by itself, does not take it back.
    const sql = connect(own.urls[0] ?? '', { max: 1, name: 'test' })
    onTestFinished(() => sql.end())
    const since = () => sql<{ balanced: boolean }[]>`
      SELECT (report->>'balanced')::boolean AS balanced FROM verifications WHERE finished_us > ${bad.finishedUs}`
    await expect.poll(async () => (await since()).length).toBeGreaterThan(8)
    expect(new Set((await since()).map(({ balanced }) => balanced))).toEqual(new Set([false]))
  })

  test('wait while the node has no rest, but the first one never, and none for ever', async () => {
    const url = await migratedDatabase()
    const start = (putOffMsMax: number, hasRest: () => boolean) => {
      const onTrouble = (error: unknown) => expect.unreachable(String(error))
      const audits = startAudits({ urls: () => [url], intervalMs: 1, putOffMsMax, hasRest, onTrouble })
      onTestFinished(() => audits.close())
      return audits
    }
    const finishedUs = async (audits: Audits) => (await audits.last())?.finishedUs ?? 0
    let asked = 0
    let hasRest = false
    const patient = start(3_600_000, () => {
      asked += 1
      return hasRest
    })
    await expect.poll(() => finishedUs(patient)).toBeGreaterThan(0)
    const firstUs = await finishedUs(patient)
    await expect.poll(() => asked).toBeGreaterThan(20)
    expect(await finishedUs(patient)).toBe(firstUs)
    hasRest = true
    await expect.poll(() => finishedUs(patient)).toBeGreaterThan(firstUs)
    await patient.close()
    const hurried = start(10, () => false)
    const beforeUs = await finishedUs(hurried)
    await expect.poll(() => finishedUs(hurried)).toBeGreaterThan(beforeUs)
    const onceUs = await finishedUs(hurried)
    await expect.poll(() => finishedUs(hurried)).toBeGreaterThan(onceUs)
  })
})

/** Of this process's threads, each once. */
async function nicenesses(): Promise<number[]> {
  const threads = await readdir('/proc/self/task')
  const stats = await Promise.all(threads.map((thread) => readFile(`/proc/self/task/${thread}/stat`, 'utf8')))
  // The name may have blanks in it; after it, niceness is the 17th (proc_pid_stat(5)).
  return [...new Set(stats.map((stat) => Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[16])))].sort(
    (a, b) => a - b,
  )
}
