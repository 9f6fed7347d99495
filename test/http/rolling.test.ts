import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { Agent } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { newKey } from '../../src/tenants/directory.ts'
import { describeWith } from '../services/available.ts'
import { startHaproxy } from '../services/haproxy.ts'
import { freePorts } from '../services/ports.ts'
import { type Answer, clientOf, type Transfer } from '../support/api.ts'
import { emptyDatabase } from '../support/database.ts'
import { type NodeProcess, sendTo, startNode, verifyBooks } from '../support/node.ts'

/** Requests come at this distance, whether those before were answered or not. */
const EVERY_MS = 50
/** As docs/operations/balancer.md tells operators to set it. The balancer is as it is shipped. */
const DRAIN_MS = Number(/`ZEROSUM_DRAIN_MS` to (\d+)/.exec(readFileSync('docs/operations/balancer.md', 'utf8'))?.[1])
const FUNDS = 1_000_000

describeWith('haproxy', 'two nodes behind the balancer', () => {
  test('are restarted one after the other, then one is killed, and no request fails', async () => {
    const databaseUrl = [await emptyDatabase(), await emptyDatabase()].join(',')
    const demoKey = newKey()
    const ports = await freePorts(2)
    const start = async (port: number) => {
      const node = await startNode({ databaseUrl, demoKey, drainMs: DRAIN_MS, env: { PORT: `${port}` } })
      onTestFinished(() => node.kill())
      return node
    }
    const nodes = new Map<number, NodeProcess>()
    for (const port of ports) nodes.set(port, await start(port))
    const balancer = await startHaproxy(ports.map((port) => `127.0.0.1:${port}`))
    onTestFinished(() => balancer.process.stop())
    const areReady = async () => {
      const metrics = await (await fetch(balancer.metricsUrl)).text()
      return [1, 2].every((i) =>
        metrics.includes(`haproxy_server_status{proxy="nodes",server="node-${i}",state="UP"} 1`),
      )
    }
    while (!(await areReady())) await sleep(50)

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
    // The balancer sends these to nobody a second time: they need the drain.
    const changed: Promise<string>[] = []
    const changes = setInterval(() => {
      const change = client.call<unknown>('PATCH', `/v1/wallets/${wallets[changed.length % 8]}`, { status: 'active' })
      changed.push(change.then(({ status, text }) => (status === 200 ? '' : `${status} ${text}`), String))
    }, EVERY_MS / 5)
    onTestFinished(() => {
      clearInterval(load)
      clearInterval(changes)
    })

    for (const [port, node] of nodes) {
      await sleep(500)
      expect(await node.stop()).toBe(0)
      nodes.set(port, await start(port))
      while (!(await areReady())) await sleep(50)
    }
    await sleep(500)
    clearInterval(changes)
    expect((await Promise.all(changed)).filter(Boolean)).toEqual([])
    // A call that it had begun goes to the other node with the same key, and is done once.
    await nodes.get(ports[0] ?? 0)?.kill()
    await sleep(2_000)
    clearInterval(load)
    const answers = await Promise.all(sent)
    expect(answers.length).toBeGreaterThan(50)
    const failed = answers.flatMap((answer) =>
      answer instanceof Error ? [answer.message] : answer.status === 201 ? [] : [`${answer.status} ${answer.text}`],
    )
    expect(failed).toEqual([])
    for (const [wallet, amount] of amounts) expect(await client.available(wallet)).toBe(amount)
    expect(await nodes.get(ports[1] ?? 0)?.stop()).toBe(0)
    expect(await verifyBooks({ databaseUrl })).toMatchObject({ code: 0 })
  })
})
