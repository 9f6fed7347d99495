import { randomUUID } from 'node:crypto'
import { Agent } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { newKey } from '../../src/tenants/directory.ts'
import { type Answer, clientOf, type Transfer } from '../support/api.ts'
import { emptyDatabase } from '../support/database.ts'
import { type NodeProcess, sendTo, startNode, verifyBooks } from '../support/node.ts'
import { startBalancer } from './balancer.ts'

/** Requests come at this distance, whether those before were answered or not. */
const EVERY_MS = 50
/** Twice what the balancer takes to notice, at most. */
const DRAIN_MS = 5_000
const FUNDS = 1_000_000

test('two nodes behind a balancer are restarted one after the other, and no request fails', async () => {
  const databaseUrl = [await emptyDatabase(), await emptyDatabase()].join(',')
  const demoKey = newKey()
  const start = async () => {
    const node = await startNode({ databaseUrl, demoKey, drainMs: DRAIN_MS })
    onTestFinished(() => node.kill())
    return node
  }
  const balancer = await startBalancer()
  onTestFinished(() => balancer.close())
  let nodes: NodeProcess[] = [await start(), await start()]
  for (const { url } of nodes) balancer.add(url)
  while (balancer.ready().length < 2) await sleep(20)

  const agent = new Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY })
  onTestFinished(() => agent.destroy())
  const client = clientOf(sendTo(balancer.url, agent), demoKey)
  const wallets = await Promise.all(Array.from({ length: 8 }, () => client.wallet(FUNDS)))

  const sent: Promise<Answer<Transfer> | Error>[] = []
  const amounts = new Map(wallets.map((wallet) => [wallet, BigInt(FUNDS)]))
  const load = setInterval(() => {
    const from = wallets[sent.length % 8] ?? ''
    const to = wallets[(sent.length + 1 + (sent.length % 7)) % 8] ?? ''
    if (from === to) return
    amounts.set(from, (amounts.get(from) ?? 0n) - 1n)
    amounts.set(to, (amounts.get(to) ?? 0n) + 1n)
    sent.push(client.pay(from, to, 1, { key: randomUUID() }).catch((error: Error) => error))
  }, EVERY_MS)
  onTestFinished(() => clearInterval(load))

  const old = nodes
  for (const node of old) {
    await sleep(500)
    expect(await node.stop()).toBe(0)
    balancer.remove(node.url)
    const next = await start()
    nodes = [...nodes.filter((one) => one !== node), next]
    balancer.add(next.url)
    while (!balancer.ready().includes(next.url)) await sleep(20)
  }
  await sleep(500)
  clearInterval(load)
  const answers = await Promise.all(sent)
  expect(answers.length).toBeGreaterThan(50)
  const failed = answers.flatMap((answer) =>
    answer instanceof Error ? [answer.message] : answer.status === 201 ? [] : [`${answer.status} ${answer.text}`],
  )
  expect(failed).toEqual([])
  for (const [wallet, amount] of amounts) expect(await client.available(wallet)).toBe(amount)
  for (const node of nodes) expect(await node.stop()).toBe(0)
  expect(await verifyBooks({ databaseUrl })).toMatchObject({ code: 0 })
}, 400_000)
