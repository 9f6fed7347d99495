import { describe, expect, onTestFinished, test } from 'vitest'
import { redisPrefix } from '../../src/redis/installation.ts'
import { firstMapMadeUs } from '../../src/shards/storedMap.ts'
import { newKey } from '../../src/tenants/directory.ts'
import { until } from '../cache/wait.ts'
import { describeWith } from '../services/available.ts'
import { type RedisServer, startRedis } from '../services/redis.ts'
import { clientOf } from '../support/api.ts'
import { migratedDatabase } from '../support/database.ts'
import { startNode } from '../support/node.ts'
import { listen } from './listen.ts'

/** Two nodes in processes of their own, on one database. */
async function twoNodes(redis?: RedisServer) {
  const demoKey = newKey()
  const settings = { databaseUrl: await migratedDatabase(), demoKey, ...(redis && { redisUrl: redis.url }) }
  const [one, two] = [await startNode(settings), await startNode(settings)]
  onTestFinished(async () => {
    await Promise.all([one.kill(), two.kill()])
  })
  return { one, two, databaseUrl: settings.databaseUrl, client: clientOf(one.send, demoKey) }
}

/** Money that is sent through one node shows on a stream of the other; both stop in good order while it is open. */
async function expectHeard({ one, two, client }: Awaited<ReturnType<typeof twoNodes>>, times = 3): Promise<void> {
  const wallet = await client.wallet(1)
  const stream = await listen(two.url, client, wallet)
  const local = await listen(one.url, client, wallet)
  await stream.untilVersion(1)
  const versions = Array.from({ length: times }, (_, i) => i + 2)
  for (const version of versions) {
    await client.topUp(wallet, 1)
    await Promise.all([stream.untilVersion(version), local.untilVersion(version)])
  }
  for (const { entries } of [stream, local]) expect(entries.map(({ id }) => id)).toEqual(versions.map(String))
  expect(await Promise.all([one.stop(), two.stop()])).toEqual([0, 0])
  await until(() => stream.isOver() && local.isOver())
}

describe('two nodes', () => {
  test('hear of what the other has posted by the database', async () => {
    await expectHeard(await twoNodes())
  })
})

describeWith('redis', 'two nodes with Redis', () => {
  test('hear of what the other has posted', async () => {
    const redis = await startRedis()
    onTestFinished(() => redis.stop())
    const nodes = await twoNodes(redis)
    // Both listen.
    const channel = `${redisPrefix(await firstMapMadeUs(nodes.databaseUrl))}news`
    await until(async () => Number(await redis.ask('PUBLISH', channel, '')) === 2)
    await expectHeard(nodes)
  })

  test('hear of it all the same when Redis has gone', async () => {
    const redis = await startRedis()
    onTestFinished(() => redis.stop())
    const nodes = await twoNodes(redis)
    await redis.kill()
    await expectHeard(nodes, 1)
  })
})
