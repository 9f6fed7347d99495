import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, onTestFinished, test } from 'vitest'
import { seededRandom } from '../../bench/load.ts'
import { connect as connectTo } from '../../src/postgres/connect.ts'
import { seedFor } from '../ledger/seed.ts'
import { listOf, type ShardServer, startShardServers } from '../saga/servers.ts'
import { migratedDatabase } from '../support/database.ts'
import { type NodeProcess, startNode } from '../support/node.ts'
import { expectAnsweredAreThere, expectBooks, forAll, pay, retryUnanswered, type Stage, stage } from './stage.ts'

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

  test('ends a node, though clients that say nothing, or half of something, hold on to their connections', async () => {
    const one = await stage({ databaseUrl: await migratedDatabase() }, Math.random)
    const { port, hostname } = new URL(one.node.url)
    const halves = [
      '',
      'POST /v1/transfers HTTP/1.1\r\nHost: x\r\nContent-Le',
      `POST /v1/transfers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${one.demoKey}\r\nContent-Length: 100\r\n\r\n{`,
    ]
    for (const half of halves) {
      const socket = connect(Number(port), hostname).on('error', () => {})
      onTestFinished(() => {
        socket.destroy()
      })
      await once(socket, 'connect')
      if (half) socket.write(half)
    }
    // The node has seen them once it has answered what came later.
    await one.client.get('/livez')
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

describe('with a database that is silent', () => {
  /** A node under load whose databases stop to answer. */
  async function frozen(): Promise<{ one: Stage; servers: ShardServer[] }> {
    const servers = await startShardServers(2)
    onTestFinished(async () => {
      await Promise.all(servers.map((server) => server.close()))
    })
    // It is started again while they come to.
    const one = await stage({ databaseUrl: listOf(servers), startWaitMs: 60_000 }, Math.random)
    await one.load()
    await Promise.all(servers.map((server) => server.freeze()))
    return { one, servers }
  }

  test('SIGTERM ends the node all the same, in the time that there is, and what callers were told is true', async () => {
    const { one, servers } = await frozen()
    expect(await one.node.stop(), one.node.output()).toBe(0)
    await one.rest()
    for (const server of servers) server.thaw()
    await one.start()
    await expectAnsweredAreThere(one, one.sent)
    await retryUnanswered(one, one.sent)
    await expectBooks(one)
  })

  test('a second signal ends it at once', async () => {
    const { one } = await frozen()
    expect(await endedBySecondSignal(one.node)).toEqual({ code: 143, signal: null })
    await one.rest()
  })

  async function endedBySecondSignal({ pid, output, ended }: NodeProcess) {
    process.kill(pid, 'SIGTERM')
    while (!output().includes('answering what is under way')) await sleep(10)
    process.kill(pid, 'SIGTERM')
    return await ended
  }
})

test('a node says what is wrong and ends, when it cannot start', async () => {
  const nowhere = 'postgres://zerosum:secret-password@127.0.0.1:1/nowhere'
  const started = [{ databaseUrl: nowhere }, { databaseUrl: 'mysql://x' }, { demoKey: 'short' }].map((settings) =>
    startNode(settings).then(
      async (node) => {
        await node.kill()
        return new Error('it started')
      },
      (reason: Error) => reason,
    ),
  )
  for (const error of await Promise.all(started)) {
    expect(error.message).toContain('the node did not start')
    expect(error.message).not.toContain('secret-password')
    expect(error.message.split('\n').length, error.message).toBeLessThan(40)
  }
})
