import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, onTestFinished, test } from 'vitest'
import { awaitShards, ShardsAway } from '../../src/shards/awaitShards.ts'
import { newKey } from '../../src/tenants/directory.ts'
import { listOf, type ShardServer, startShardServers } from '../saga/servers.ts'
import { clientOf } from '../support/api.ts'
import { emptyDatabase } from '../support/database.ts'
import { startCommand, startNode } from '../support/node.ts'

async function servers(count: number): Promise<ShardServer[]> {
  const started = await startShardServers(count)
  onTestFinished(async () => {
    await Promise.all(started.map((server) => server.close()))
  })
  return started
}

describe('a node that is started while a shard is away', () => {
  test('says what it waits for, and begins when it is there; later a shard may be away, and /readyz tells which', async () => {
    const [first, second] = (await servers(2)) as [ShardServer, ShardServer]
    await second.kill()
    const settings = { databaseUrl: listOf([first, second]), demoKey: newKey(), startWaitMs: 120_000 }
    const waiting = startCommand(['start'], settings)
    onTestFinished(() => waiting.kill())
    const starting = startNode(settings)
    while (!waiting.output().includes('waiting for shard 1 (127.0.0.1:')) await sleep(20)
    expect(waiting.output()).not.toContain('shard 0')
    expect(waiting.output()).not.toContain('listens')
    process.kill(waiting.pid ?? 0, 'SIGTERM')
    expect((await waiting.ended).code).toBe(143)
    await second.restart()
    const node = await starting
    onTestFinished(() => node.kill())
    const client = clientOf(node.send, settings.demoKey)
    const ready = () => client.get('/readyz')
    // Shards that take longer than two seconds count as silent: a busy machine may take that.
    await expect.poll(ready).toMatchObject({ status: 200, body: { status: 'ready' } })
    second.passage.cut()
    await expect.poll(async () => (await ready()).body).toEqual({ status: 'degraded', silentShards: [1] })
    first.passage.cut()
    await expect.poll(ready).toMatchObject({ status: 503, body: { detail: 'No shard answers: 0, 1.' } })
  })

  test('ends with code 1 when the time to wait is over, and names the shard without its password', async () => {
    const url = new URL(await emptyDatabase())
    const there = url.href
    const { code, output } = await startCommand(['start'], {
      databaseUrl: `${there},postgres://someone:secret@127.0.0.1:9/nowhere`,
      startWaitMs: 300,
    }).ended
    expect(code).toBe(1)
    expect(output).toContain('shard 1 (127.0.0.1:9/nowhere): connect ECONNREFUSED')
    expect(output).toContain('ZEROSUM_START_WAIT_MS')
    expect(output).not.toMatch(/secret|shard 0|\n\s+at /)
  })
})

describe('waiting for databases', () => {
  test('does not wait for one that turns the log-in away, or that does not exist', async () => {
    const wrongs = [await emptyDatabase(), await emptyDatabase()].map((url) => new URL(url))
    const [password, name] = wrongs as [URL, URL]
    password.password = 'wrong'
    name.pathname = '/no_such_database'
    for (const url of [password, name]) {
      const said: string[] = []
      const waited = awaitShards([url.href], { waitMsMax: 3_600_000, say: (text) => said.push(text) })
      await expect(waited).rejects.toThrow(ShardsAway)
      await expect(waited).rejects.toThrow(/turns this node away: shard 0 \(.*authentication failed|no_such_database/)
      expect(said).toEqual([])
    }
  })
})
