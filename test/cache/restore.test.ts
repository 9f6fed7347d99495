import { expect, onTestFinished, test } from 'vitest'
import { connect } from '../../src/postgres/connect.ts'
import { redisPrefix } from '../../src/redis/installation.ts'
import { firstMapMadeUs } from '../../src/shards/storedMap.ts'
import { newKey } from '../../src/tenants/directory.ts'
import { until } from '../bus/stage.ts'
import { describeWith } from '../services/available.ts'
import { startRedis } from '../services/redis.ts'
import { type Balance, clientOf } from '../support/api.ts'
import { emptyDatabase } from '../support/database.ts'
import { startCommand, startNode } from '../support/node.ts'

/** Makes a database what another is, as a backup does. */
async function copyDatabase(from: string, to: string): Promise<void> {
  const admin = new URL(from)
  admin.pathname = '/postgres'
  const sql = connect(admin.href, { max: 1, role: null, name: 'test' })
  const [source, target] = [from, to].map((url) => new URL(url).pathname.slice(1)) as [string, string]
  await sql`DROP DATABASE IF EXISTS ${sql(target)} WITH (FORCE)`
  await sql`CREATE DATABASE ${sql(target)} TEMPLATE ${sql(source)}`
  await sql.end()
}

async function headOf(url: string): Promise<number> {
  const sql = connect(url, { max: 1, name: 'test' })
  const [head] = await sql<{ number: bigint }[]>`SELECT number FROM chain_head`
  await sql.end()
  return Number(head?.number)
}

describeWith('redis', 'a database that was restored from a backup', () => {
  const play = async () => {
    const redis = await startRedis()
    onTestFinished(() => redis.stop())
    const demoKey = newKey()
    const settings = { databaseUrl: await emptyDatabase(), redisUrl: redis.url, demoKey }
    const backup = await emptyDatabase()
    const open = async () => {
      const node = await startNode(settings)
      onTestFinished(() => node.kill())
      return { node, client: clientOf(node.send, demoKey) }
    }
    const first = await open()
    const wallet = await first.client.wallet(1_000)
    expect(await first.node.stop()).toBe(0)
    await copyDatabase(settings.databaseUrl, backup)

    const second = await open()
    await second.client.topUp(wallet, 500)
    const shown = async ({ client }: typeof first) =>
      (await client.get<Balance & { source: string }>(`/v1/wallets/${wallet}/balance`)).body
    await until(async () => (await shown(second)).source === 'cache')
    expect((await shown(second)).available).toBe('1500')
    // The ends of the chains are recorded every few seconds.
    const madeUs = await firstMapMadeUs(settings.databaseUrl)
    const head = await headOf(settings.databaseUrl)
    await until(
      async () => (await redis.ask('HGET', `${redisPrefix(madeUs)}heads`, '0'))?.startsWith(`${head} `) ?? false,
    )
    return { redis, settings, backup, second, open, shown }
  }

  test('is shown as it is, though the cache has outlived what came after the backup', async () => {
    const { settings, backup, second, open, shown } = await play()
    expect(await second.node.stop()).toBe(0)
    await copyDatabase(backup, settings.databaseUrl)
    const third = await open()
    expect((await shown(third)).available).toBe('1000')
    await until(async () => (await shown(third)).source === 'cache')
    expect((await shown(third)).available).toBe('1000')
    await until(() => third.node.output().includes('the cache was emptied'))
  }, 300_000)

  test('has a command that brings the rest back to where it is', async () => {
    const { redis, settings, backup, second } = await play()
    expect(await second.node.stop()).toBe(0)
    await copyDatabase(backup, settings.databaseUrl)
    expect(Number(await redis.ask('DBSIZE'))).toBeGreaterThan(0)
    const { code, output } = await startCommand(['restored'], settings).ended
    expect(code, output).toBe(0)
    expect(output).toContain('zerosum replay projections')
    expect(await redis.ask('DBSIZE')).toBe('0')
    expect((await startCommand(['cache', 'flush'], settings).ended).output).toContain('0 keys')
  }, 300_000)
})
