import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, expect, onTestFinished, test } from 'vitest'
import { newKey } from '../../src/tenants/directory.ts'
import { describeWith } from '../services/available.ts'
import { type RedisServer, startRedis } from '../services/redis.ts'
import { type Balance, type Client, clientOf } from '../support/api.ts'
import { emptyDatabase } from '../support/database.ts'
import { type NodeProcess, type NodeSettings, startNode } from '../support/node.ts'

const WAIT_MS_MAX = 90_000

/** Waits until something is as it should be; fails with how it is if that takes too long. */
async function eventually<T>(look: () => Promise<T>, isRight: (found: T) => boolean): Promise<T> {
  const deadline = Date.now() + WAIT_MS_MAX
  for (;;) {
    const found = await look()
    if (isRight(found)) return found
    if (Date.now() > deadline) throw new Error(`it stays as it is: ${JSON.stringify(found)}`)
    await sleep(50)
  }
}

const nodes: NodeProcess[] = []
afterEach(async () => {
  for (const node of nodes.splice(0)) expect(await node.stop()).toBe(0)
})

/** Two nodes on the same two databases, with what else they share. */
async function startNodes(settings: NodeSettings): Promise<[Client, Client]> {
  const demoKey = newKey()
  const databaseUrl = [await emptyDatabase(), await emptyDatabase()].join(',')
  const started = []
  for (let i = 0; i < 2; i++) started.push(await startNode({ ...settings, databaseUrl, demoKey }))
  nodes.push(...started)
  const [one, two] = started.map((node) => clientOf(node.send, demoKey))
  if (!one || !two) throw new Error('two nodes were started')
  return [one, two]
}

const balanceOf = async (client: Client, wallet: string) =>
  (await client.get<Balance & { source: string }>(`/v1/wallets/${wallet}/balance`)).body

describeWith('redis', 'balances of several nodes', () => {
  let redis: RedisServer
  const start = async () => {
    redis = await startRedis()
    onTestFinished(() => redis.stop())
    return await startNodes({ redisUrl: redis.url })
  }

  test('what one node posts, another shows from the cache', async () => {
    const [one, two] = await start()
    const [payer, payee] = [await one.wallet(1_000), await one.wallet()]
    for (const [client, wallet] of [
      [one, payer],
      [two, payee],
    ] as const)
      await balanceOf(client, wallet)
    expect((await one.pay(payer, payee, 300)).status).toBe(201)
    const seen = await eventually(
      () => balanceOf(two, payee),
      ({ available }) => available === '300',
    )
    expect(
      await eventually(
        () => balanceOf(two, payee),
        ({ source }) => source === 'cache',
      ),
    ).toMatchObject({ available: '300', version: seen.version })
    expect(
      (await one.get<Balance & { source: string }>(`/v1/wallets/${payer}/balance?consistency=strong`)).body,
    ).toMatchObject({
      ...{ available: '700', source: 'database' },
    })
  })

  test('the cache lost everything, or was away while money moved: no request fails, and balances come right again', async () => {
    const [one, two] = await start()
    const [payer, payee] = [await one.wallet(1_000), await one.wallet()]
    expect((await one.pay(payer, payee, 1)).status).toBe(201)
    await redis.flush()
    expect(await balanceOf(two, payer)).toMatchObject({ available: '999' })
    await redis.kill()
    for (let i = 0; i < 20; i++) {
      expect((await one.pay(payer, payee, 1)).status).toBe(201)
      expect(await balanceOf(two, payee)).toMatchObject({ available: `${i + 2}`, source: 'database' })
    }
    await redis.restart()
    for (const client of [one, two]) {
      expect(
        await eventually(
          () => balanceOf(client, payee),
          ({ source }) => source === 'cache',
        ),
      ).toMatchObject({ available: '21' })
    }
  })
})

test('what happens to a wallet is told to a webhook endpoint, once, also when two nodes run', async () => {
  const told: { type: string; data: { id: string; kind: string } }[] = []
  const receiver = createServer(async (request, response) => {
    let body = ''
    for await (const chunk of request.setEncoding('utf8')) body += chunk
    told.push(JSON.parse(body))
    response.end()
  })
  await new Promise<void>((done) => receiver.listen(0, '127.0.0.1', done))
  onTestFinished(() => void receiver.close())
  const [one, two] = await startNodes({ webhooksAllowPrivate: true })
  const url = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/hook`
  const made = await one.call('POST', '/v1/webhook-endpoints', { url, eventTypes: ['transaction.posted'] })
  expect(made.status, made.text).toBe(201)
  const [payer, payee] = [await one.wallet(1_000), await two.wallet()]
  const ids: string[] = []
  for (let i = 0; i < 10; i++) {
    const { body } = await (i % 2 ? one : two).pay(payer, payee, 1)
    ids.push(body.id)
  }
  const transfers = () => told.filter(({ data }) => data.kind === 'transfer').map(({ data }) => data.id)
  await eventually(
    async () => transfers(),
    (found) => new Set(found).size >= 10,
  )
  expect(new Set(transfers()).size).toBe(transfers().length)
  expect(told.every(({ type }) => type === 'transaction.posted')).toBe(true)
})
