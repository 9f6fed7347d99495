import { randomUUID } from 'node:crypto'
import { Agent } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { readConfig } from '../../src/config.ts'
import { startNode } from '../../src/main.ts'
import { openLog } from '../../src/observe/log.ts'
import { connect } from '../../src/postgres/connect.ts'
import { AUDIT_CONNECTIONS, connectionsOf, NODE_CONNECTIONS } from '../../src/postgres/nodeConnections.ts'
import { newKey } from '../../src/tenants/directory.ts'
import { clientOf } from '../support/api.ts'
import { emptyDatabase } from '../support/database.ts'
import { sendTo } from '../support/node.ts'
import { decided } from './stage.ts'

const CALLERS = 40
const TRANSFERS_EACH = 15

test('a busy node keeps to the number of connections that is told of it, and uses most of them', async () => {
  const urls = [await emptyDatabase(), await emptyDatabase()]
  const ZEROSUM_DEMO_KEY = newKey()
  const config = readConfig({
    ...{ PORT: '0', ZEROSUM_SHARDS: urls.join(','), ZEROSUM_DEMO_KEY, ZEROSUM_DRAIN_MS: '0' },
    ZEROSUM_LOG: 'silent',
    ...{ ZEROSUM_CONSUMERS: 'cache,projections,webhooks', ZEROSUM_WEBHOOKS_ALLOW_PRIVATE: 'true' },
    ZEROSUM_AGE_MS_MAX: '60000',
  })
  const node = await startNode(config, openLog(config.log))
  onTestFinished(() => node.stop())
  const agent = new Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY })
  onTestFinished(() => agent.destroy())
  const client = clientOf(sendTo(node.url, agent), ZEROSUM_DEMO_KEY)

  const admin = connect(urls[0] ?? '', { max: 1, role: null, name: 'onlooker' })
  onTestFinished(() => admin.end())
  const names = urls.map((url) => new URL(url).pathname.slice(1))
  const most = new Map<string, number>()
  const byUse = new Map<string, number>()
  let isOver = false
  const watching = (async () => {
    while (!isOver) {
      const rows = await admin<{ shard: number; name: string; count: number }[]>`
        SELECT array_position(${`{${names.join(',')}}`}::text[], datname::text) - 1 AS shard,
               regexp_replace(application_name, ' \\d+$', '') AS name, count(*)::int AS count
        FROM pg_stat_activity
        WHERE datname = ANY (${`{${names.join(',')}}`}::text[]) AND starts_with(application_name, 'zerosum')
        GROUP BY 1, 2`
      for (const shard of names.keys()) {
        const mine = rows.filter((row) => row.shard === shard)
        const sum = mine.reduce((sum, { count }) => sum + count, 0)
        most.set(`${shard}`, Math.max(sum, most.get(`${shard}`) ?? 0))
        for (const { name, count } of mine)
          byUse.set(`${shard} ${name}`, Math.max(count, byUse.get(`${shard} ${name}`) ?? 0))
      }
      await sleep(20)
    }
  })()

  // Nobody listens there: deliveries fail, and are written down and tried again.
  for (const port of [1, 2, 3]) {
    const body = { url: `http://127.0.0.1:${port}/`, eventTypes: ['transaction.posted', 'entry.posted'] }
    expect((await client.call('POST', '/v1/webhook-endpoints', body)).status).toBe(201)
  }
  const wallets = await Promise.all(Array.from({ length: 12 }, () => client.wallet(1_000_000)))
  await Promise.all(
    Array.from({ length: CALLERS }, async (_, caller) => {
      for (let i = 0; i < TRANSFERS_EACH; i++) {
        const from = wallets[(caller + i) % wallets.length] ?? ''
        const to = wallets[(caller + i + 1 + (i % 5)) % wallets.length] ?? ''
        const key = randomUUID()
        const answers = await Promise.all([
          decided(() => client.pay(from, to, 1, { key })),
          client.get(`/v1/wallets/${from}/entries`),
          client.get(`/v1/wallets/${to}/balance?consistency=strong`),
          client.get('/v1/webhook-endpoints'),
          client.get('/v1/ledger/verification'),
        ])
        expect([201, 202]).toContain(answers[0].status)
      }
    }),
  )
  isOver = true
  await watching

  const { eachShard, firstShard } = NODE_CONNECTIONS
  const uses = JSON.stringify(Object.fromEntries(byUse))
  expect(most.get('0'), uses).toBeLessThanOrEqual(connectionsOf(1, [0]))
  expect(most.get('1'), uses).toBeLessThanOrEqual(connectionsOf(1, [1]))
  expect((most.get('0') ?? 0) + (most.get('1') ?? 0), uses).toBeLessThanOrEqual(connectionsOf(1, [0, 1]))
  // Else the node was not busy, or the number says too much.
  expect(most.get('0'), uses).toBeGreaterThan(eachShard + firstShard - AUDIT_CONNECTIONS - 7)
  expect(most.get('1'), uses).toBeGreaterThan(eachShard - AUDIT_CONNECTIONS - 3)
})
