import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, onTestFinished, test } from 'vitest'
import { seededRandom } from '../../bench/load.ts'
import { connect as connectTo } from '../../src/postgres/connect.ts'
import { seedFor } from '../ledger/seed.ts'
import { migratedDatabase } from '../support/database.ts'
import { expectAnsweredAreThere, expectBooks, forAll, pay, stage } from './stage.ts'

describe('SIGTERM', () => {
  test('under load: what was taken in is answered, the rest had no effect, and the exit code is 0', async () => {
    const random = seededRandom(seedFor('SIGTERM'))
    const one = await stage({ databaseUrl: await migratedDatabase() }, random)
    for (let round = 1; round <= 2; round++) {
      const before = one.sent.length
      await one.load()
      await sleep(random() * 300)
      expect(await one.node.stop()).toBe(0)
      await one.rest()
      const sent = one.sent.slice(before)
      // What comes in on connections that are open is answered like any other; the rest finds nobody listening.
      for (const { answer } of sent) if (answer) expect.soft(answer.status, answer.text).toBe(201)
      await one.start()
      await expectAnsweredAreThere(one, sent)
      await forAll(sent, async (transfer) => {
        if (transfer.answer?.status === 201) return
        const first = await pay(one.client, transfer)
        expect(first.headers['idempotency-replayed'], 'it was posted, but its caller was not told').toBeUndefined()
        expect(first.status).toBe(201)
        transfer.answer = first
      })
    }
    await expectBooks(one)
    expect(await one.node.stop()).toBe(0)
  })
})

describe('a node that is asked to stop', () => {
  test('first says that it is not ready, and answers all the same; callers are told to go elsewhere', async () => {
    const one = await stage({ databaseUrl: await migratedDatabase(), drainMs: 12_000 }, Math.random)
    const wallet = `/v1/wallets/${one.wallets[0]}`
    expect((await one.client.get(wallet)).headers['connection']).toBe('keep-alive')
    const stopped = one.node.stop()
    let ready = await one.client.get<{ code?: string }>('/readyz')
    while (ready.status === 200) ready = await one.client.get('/readyz')
    expect(ready).toMatchObject({ status: 503, body: { code: 'stopping' } })
    const [from = '', to = ''] = one.wallets
    expect((await one.client.pay(from, to, 1)).status).toBe(201)
    expect(await one.client.get(wallet)).toMatchObject({ status: 200, headers: { connection: 'close' } })
    expect(await stopped).toBe(0)
  })

  test('answers what it was asked before in the same way, so that it waits for no connection that is kept', async () => {
    const databaseUrl = await migratedDatabase()
    const one = await stage({ databaseUrl }, Math.random)
    const [from = '', to = ''] = one.wallets
    const sql = connectTo(databaseUrl, { max: 2, role: null })
    onTestFinished(() => sql.end())
    const underWay = await sql.begin(async (tx) => {
      await tx`SET LOCAL idle_in_transaction_session_timeout = 0`
      await tx`SELECT FROM chain_head FOR UPDATE`
      const answer = one.client.pay(from, to, 1)
      const waiting = () =>
        sql`SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`
      while ((await waiting()).length === 0) await sleep(20)
      const stopped = one.node.stop()
      while (!one.node.output().includes('answering what is under way')) await sleep(10)
      return { answer, stopped }
    })
    expect(await underWay.answer).toMatchObject({ status: 201, headers: { connection: 'close' } })
    expect(await underWay.stopped).toBe(0)
  })

  test('lets go of its leases, so that another need not miss it first', async () => {
    const databaseUrl = await migratedDatabase()
    const one = await stage({ databaseUrl }, Math.random)
    const sql = connectTo(databaseUrl, { max: 1 })
    onTestFinished(() => sql.end())
    const held = async () => [...(await sql`SELECT reader FROM block_readers WHERE leased_until <> '-infinity'`)]
    while ((await held()).length === 0) await sleep(20)
    expect(await one.node.stop()).toBe(0)
    expect(await held()).toEqual([])
  })
})
