import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { seededRandom } from '../../bench/load.ts'
import { createKafkaQueue, REQUESTS } from '../../src/async/kafkaQueue.ts'
import { laterRequest, messageText } from '../../src/async/message.ts'
import type { DeadLetter } from '../../src/async/requestQueue.ts'
import { createKafkaSender } from '../../src/bus/kafkaSender.ts'
import { formatId, parseId } from '../../src/core/ids.ts'
import { connect } from '../../src/postgres/connect.ts'
import { newKey } from '../../src/tenants/directory.ts'
import { until } from '../bus/stage.ts'
import { openPassage } from '../http/passage.ts'
import { Keeper } from '../saga/keeper.ts'
import { describeWith } from '../services/available.ts'
import { type KafkaCluster, startKafka } from '../services/kafka.ts'
import { type BatchResult, type Client, clientOf, openApi, type Transfer } from '../support/api.ts'
import { migratedDatabase } from '../support/database.ts'
import { type NodeSettings, startCommand, verifyBooks } from '../support/node.ts'

const ASYNC = { prefer: 'respond-async' }
const FUNDS = 1_000_000n
const SECONDS = 150
const PAID_MAX = 12_000

const ACCEPTED_MIN = 1_000
/** A shard is away for so long at most, or a little longer: after half a minute what waits for it is put off for minutes. */
const AWAY_MS = 15_000

/** `zerosum dlq …` as an operator runs it. */
async function dlq(settings: NodeSettings, ...args: string[]): Promise<{ code: number | null; output: string }> {
  return await startCommand(['dlq', ...args], settings).ended
}

async function deadOf(settings: NodeSettings): Promise<DeadLetter[]> {
  const { code, output } = await dlq(settings, 'list', '--json')
  expect(code, output).toBe(0)
  return JSON.parse(output)
}

type Paid = { idempotencyKey: string; from: string; to: string; amount: string; currency: string }

/** Payments at random, in batches; some keys come again, at once or much later. */
function drawPaid(wallets: readonly string[], random: () => number) {
  const pick = (count: number) => Math.floor(random() * count)
  const all: Paid[] = []
  const fresh = (): Paid => {
    const from = pick(wallets.length)
    const to = (from + 1 + pick(wallets.length - 1)) % wallets.length
    const ends = { from: wallets[from] ?? '', to: wallets[to] ?? '' }
    const paid = { idempotencyKey: `key-${all.length}`, ...ends, amount: `${1 + pick(9)}`, currency: 'USD' }
    all.push(paid)
    return paid
  }
  const batch = () => Array.from({ length: 40 }, () => (random() < 0.2 ? all[pick(all.length)] : undefined) ?? fresh())
  return { all, batch }
}

describeWith('kafka', 'requests that nodes post from Kafka', () => {
  let kafka: KafkaCluster
  beforeAll(async () => {
    kafka = await startKafka({ brokers: 1 })
  }, 180_000)
  afterAll(() => kafka?.stop(), 60_000)

  test('have one effect each, though nodes are killed, join and leave, and keys come several times', async () => {
    const urls = [await migratedDatabase(), await migratedDatabase()]
    const demoKey = newKey()
    const settings = {
      databaseUrl: urls.join(','),
      demoKey,
      kafkaBrokers: kafka.brokers.join(','),
      consumers: 'posting',
    }
    const nodes = [new Keeper(settings), new Keeper(settings)]
    onTestFinished(async () => {
      await Promise.all(nodes.map((node) => node.kill()))
    })
    for (const node of nodes) await node.start()
    const clients = nodes.map((node) => clientOf((request) => node.send(request), demoKey))
    const [first] = clients as [Client]
    const wallets = await Promise.all(Array.from({ length: 12 }, () => first.wallet(FUNDS)))

    const { all, batch } = drawPaid(wallets, seededRandom(7))
    const ids = new Map<string, string>()
    let isOver = false
    /** Sends batch after batch, each by any node until all of it is accepted. */
    async function send(): Promise<void> {
      while (!isOver && all.length < PAID_MAX) {
        const transfers = batch()
        for (let turn = 0; !transfers.every(({ idempotencyKey }) => ids.has(idempotencyKey)); turn++) {
          const path = '/v1/transfers/batch'
          const answer = await clients[turn % 2]
            ?.call<{ results: BatchResult[] }>('POST', path, { transfers }, { headers: ASYNC, key: null })
            .catch(() => undefined)
          for (const [i, { status, transfer }] of (answer?.status === 202 ? answer.body.results : []).entries()) {
            const key = transfers[i]?.idempotencyKey ?? ''
            if (status !== 202 || !transfer) continue
            // A key has one id, whichever node says it.
            expect(ids.get(key) ?? transfer.id).toBe(transfer.id)
            ids.set(key, transfer.id)
          }
          await sleep(200)
        }
      }
    }
    const sending = Promise.all([send(), send(), send()])
    for (const [round, end] of (['kill', 'kill', 'kill', 'stop'] as const).entries()) {
      const node = nodes[round % 2] as Keeper
      await sleep(1_500)
      await node[end]()
      await node.start()
    }
    await until(
      () => all.length > ACCEPTED_MIN,
      () => `${all.length} were accepted`,
      SECONDS,
    )
    isOver = true
    await sending
    console.log(`${all.length} payments were accepted`)
    expect(ids.size).toBe(all.length)

    const sql = urls.map((url) => connect(url, { max: 1, role: null }))
    onTestFinished(async () => {
      await Promise.all(sql.map((each) => each.end()))
    })
    const records = async () => {
      const rows = await Promise.all(
        sql.map(
          (each) =>
            each<{ id: string; refusal: string | null }[]>`SELECT id, refusal FROM requests WHERE kind = 'transfer'`,
        ),
      )
      return rows.flat()
    }
    await until(
      async () => {
        await sleep(500)
        return (await records()).length >= all.length
      },
      () => 'not all were posted',
      SECONDS,
    )
    await until(
      async () =>
        (await Promise.all(sql.map((each) => each`SELECT FROM sagas_in_flight`))).every(({ length }) => length === 0),
      () => 'sagas are in flight',
      SECONDS,
    )
    const found = await records()
    expect(new Map(found.map(({ id, refusal }) => [formatId('trf', id), refusal]))).toEqual(
      new Map([...ids.values()].map((id) => [id, null])),
    )
    expect(found).toHaveLength(all.length)
    const expected = new Map(wallets.map((wallet) => [wallet, FUNDS]))
    for (const { from, to, amount } of all) {
      expected.set(from, (expected.get(from) ?? 0n) - BigInt(amount))
      expected.set(to, (expected.get(to) ?? 0n) + BigInt(amount))
    }
    const balances = await Promise.all(wallets.map(async (wallet) => [wallet, await first.available(wallet)] as const))
    expect(new Map(balances)).toEqual(expected)
    expect(await deadOf(settings)).toEqual([])
    expect(await Promise.all(nodes.map((node) => node.stop()))).toEqual([0, 0])
    const { code, output } = await verifyBooks(settings)
    expect(code, output).toBe(0)
  }, 600_000)

  test('for a shard that is away wait, and those for others do not', async () => {
    const urls = [await migratedDatabase(), await migratedDatabase()] as const
    const passage = await openPassage(urls[1])
    onTestFinished(() => passage.close())
    const async = { works: true, brokers: kafka.brokers }
    const api = await openApi({ url: urls[0], moreUrls: [passage.urlOf(urls[1])], async })
    onTestFinished(() => api.close())
    const wallets: string[] = []
    const on = (shard: number) => wallets.filter((id) => api.router.shardOf(parseId('wal', id) ?? '') === shard)
    while (on(0).length < 2 || on(1).length < 2) wallets.push(await api.alpha.wallet(1_000))
    const pay = async (shard: number) => {
      const [from = '', to = ''] = on(shard)
      const { status, body } = await api.alpha.pay(from, to, 1, { headers: ASYNC })
      expect(status).toBe(202)
      return body.id
    }
    const isPosted = async (id: string) =>
      (await api.alpha.get<Transfer>(`/v1/transfers/${id}`)).body.status === 'completed'
    const before = await pay(1)
    await until(
      () => isPosted(before),
      () => 'not posted',
      SECONDS,
    )
    passage.cut()
    const cutMs = Date.now()
    const waiting: string[] = []
    for (let i = 0; i < 3 || (i < 20 && Date.now() - cutMs < AWAY_MS); i++) {
      waiting.push(await pay(1))
      const other = await pay(0)
      await until(
        () => isPosted(other),
        () => `the other shard's was held up, ${i}`,
        SECONDS,
      )
    }
    passage.reopen()
    for (const id of waiting)
      await until(
        () => isPosted(id),
        () => 'not posted when the shard was back',
        SECONDS,
      )
    const [from = '', to = ''] = on(1)
    const paid = 1n + BigInt(waiting.length)
    expect([await api.alpha.available(from), await api.alpha.available(to)]).toEqual([1_000n - paid, 1_000n + paid])
  }, 300_000)

  test('that can not be posted are set aside; the command lists them with the reason, and has them posted again', async () => {
    const databaseUrl = await migratedDatabase()
    const settings = { databaseUrl, demoKey: newKey(), kafkaBrokers: kafka.brokers.join(','), consumers: 'posting' }
    const node = new Keeper(settings)
    onTestFinished(() => node.kill())
    await node.start()
    const client = clientOf((request) => node.send(request), settings.demoKey)
    const wallet = await client.wallet(5)
    const tenantId = '01970000-0000-7000-8000-00000000000a'
    const walletId = parseId('wal', wallet) ?? ''
    const stranger = laterRequest(tenantId, 'key', { kind: 'top-up', walletId, amount: 5n, currency: 'USD' })
    const sender = createKafkaSender({ brokers: kafka.brokers, clientId: 'test', ready: async () => {} })
    onTestFinished(() => sender.close())
    const texts = ['poison', '{"tenantId":1}', messageText(stranger)]
    await sender.send(texts.map((value) => ({ topic: REQUESTS, key: 'k', value })))
    const good = await client.call<Transfer>(
      'POST',
      '/v1/top-ups',
      { walletId: wallet, amount: '7', currency: 'USD' },
      { headers: ASYNC },
    )
    const watching = createKafkaQueue({ brokers: kafka.brokers, partitions: 12, onTrouble: () => {} })
    onTestFinished(() => watching.close())
    let seen: DeadLetter[] = []
    await until(
      async () => {
        seen = await watching.dead(1_000)
        return texts.every((text) => seen.some((one) => one.text === text))
      },
      () => JSON.stringify(seen),
      SECONDS,
    )
    await until(
      async () => (await client.available(wallet)) === 12n,
      () => good.text,
      SECONDS,
    )

    const dead = await deadOf(settings)
    const reasons = new Map(dead.map(({ text, reason }) => [text, reason]))
    expect(reasons.get('poison')).toBe('it is not JSON')
    expect(reasons.get(texts[1] ?? '')).toMatch(/^it is no transfer/)
    expect(reasons.get(texts[2] ?? '')).toBe('there is no such tenant')
    const name = formatId('trf', stranger.id)
    const listed = await dlq(settings, 'list')
    expect(listed.output).toContain(name)
    expect(listed.output).toContain('there is no such tenant')
    expect((await dlq(settings, 'retry', 'trf_00000000000000000000000000000000')).code).toBe(1)
    expect((await dlq(settings, 'retry')).code).toBe(2)
    expect((await dlq(settings, 'forget')).code).toBe(2)

    const sql = connect(databaseUrl, { max: 1, role: null })
    onTestFinished(() => sql.end())
    await sql`INSERT INTO tenants (id, name) VALUES (${tenantId}, 'late')`
    const retried = await dlq(settings, 'retry', name)
    expect(retried).toMatchObject({ code: 0, output: expect.stringContaining('1 put back') })
    // The ledger says what it has against it.
    const record = async () =>
      (await sql<{ refusal: string }[]>`SELECT refusal FROM requests WHERE id = ${stranger.id}`)[0]
    await until(
      async () => (await record()) !== undefined,
      () => 'in vain',
      SECONDS,
    )
    expect((await record())?.refusal).toBe('to_not_found')
    await until(
      async () => !(await watching.dead(1_000)).some(({ text }) => text === texts[2]),
      () => 'the letter stayed',
      SECONDS,
    )
  }, 300_000)
})

describe('requests that a node posts from its shards', () => {
  test('are set aside likewise, and posted again', async () => {
    const settings = { databaseUrl: await migratedDatabase(), demoKey: newKey(), consumers: 'posting' }
    const node = new Keeper(settings)
    onTestFinished(() => node.kill())
    await node.start()
    const client = clientOf((request) => node.send(request), settings.demoKey)
    const [from, to] = [await client.wallet(5), await client.wallet()]
    const sql = connect(settings.databaseUrl, { max: 1, role: null })
    onTestFinished(() => sql.end())
    const id = '01970000-0000-8000-8000-00000000000b'
    await sql`INSERT INTO queued_requests (id, message, due_us) VALUES (${id}, 'poison', 0)`
    const { body } = await client.pay(from, to, 5, { headers: ASYNC })
    await until(
      async () => (await client.available(to)) === 5n,
      () => body.id,
      SECONDS,
    )
    await until(
      async () => (await deadOf(settings)).length === 1,
      () => 'nothing was set aside',
      SECONDS,
    )
    const [dead] = await deadOf(settings)
    expect(dead).toMatchObject({
      name: formatId('trf', id),
      text: 'poison',
      reason: 'it is not JSON',
      origin: 'shard 0',
      attempts: 1,
    })
    const fixed = laterRequest(
      ...([
        await tenantOf(),
        'fixed',
        { kind: 'top-up', walletId: parseId('wal', to) ?? '', amount: 2n, currency: 'USD' },
      ] as const),
    )
    await sql`UPDATE queued_requests SET message = ${messageText(fixed)} WHERE id = ${id}`
    expect(await dlq(settings, 'retry', '--all')).toMatchObject({
      code: 0,
      output: expect.stringContaining('1 put back'),
    })
    await until(
      async () => (await client.available(to)) === 7n,
      () => 'not posted',
      SECONDS,
    )
    await until(
      async () => (await sql`SELECT FROM queued_requests`).length === 0,
      () => 'it is still there',
      SECONDS,
    )
    expect(await node.stop()).toBe(0)

    async function tenantOf(): Promise<string> {
      const [tenant] = await sql<{ id: string }[]>`SELECT id FROM tenants WHERE name = 'demo'`
      return tenant?.id ?? ''
    }
  }, 300_000)
})
