import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { readConfig } from '../../src/config.ts'
import { connect } from '../../src/postgres/connect.ts'
import { startEmbedded } from '../../src/postgres/embedded.ts'
import { newKey } from '../../src/tenants/directory.ts'
import { type Block, type Client, clientOf, type PageOf, type Wallet } from '../support/api.ts'
import { emptyDatabase } from '../support/database.ts'
import { type NodeSettings, startNode, verifyBooks } from '../support/node.ts'
import { migrateAsBeforeMaps, openOldWallets } from './old-database.ts'

async function dataDirectory(): Promise<string> {
  const dataDir = await mkdtemp(join(tmpdir(), 'zerosum-shards-'))
  onTestFinished(() => rm(dataDir, { recursive: true, force: true }))
  return dataDir
}

/** Starts a node; what `work` makes of it, and what the node has printed. */
async function withNode<T>(settings: NodeSettings, work: (client: Client) => Promise<T>): Promise<[T, string]> {
  const demoKey = newKey()
  const node = await startNode({ ...settings, demoKey })
  try {
    return [await work(clientOf(node.send, demoKey)), node.output()]
  } finally {
    expect(await node.stop()).toBe(0)
  }
}

const blockCounts = (client: Client, shards: number) =>
  Promise.all(
    Array.from({ length: shards }, async (_, shard) => {
      const { body } = await client.get<PageOf<Block>>(`/v1/ledger/blocks?shard=${shard}&limit=1`)
      return body.data[0]?.number ?? 0
    }),
  )

/** Opens funded wallets for many holders, and finds them again by holder and by id. */
async function useWallets(client: Client): Promise<string[]> {
  const holders = Array.from({ length: 12 }, (_, i) => `customer ${i}`)
  return await Promise.all(
    holders.map(async (holderId) => {
      const id = await client.wallet(7, { holderId })
      const { body } = await client.get<PageOf<Wallet>>(`/v1/wallets?holderId=${encodeURIComponent(holderId)}`)
      expect(body.data.map((wallet) => wallet.id)).toEqual([id])
      return id
    }),
  )
}

describe('a node without settings', () => {
  test('runs two embedded shards, uses both, and finds everything again after a restart', async () => {
    const dataDir = await dataDirectory()
    const [wallets, output] = await withNode({ dataDir }, async (client) => {
      const opened = await useWallets(client)
      expect(Math.min(...(await blockCounts(client, 2)))).toBeGreaterThan(0)
      expect((await client.get('/v1/ledger/blocks?shard=2')).status).toBe(404)
      return opened
    })
    expect(output).not.toContain('begun with one shard')
    await withNode({ dataDir }, async (client) => {
      for (const id of wallets) expect(await client.available(id)).toBe(7n)
    })
    const { code, output: report } = await verifyBooks({ dataDir })
    expect(report).toMatch(/^shard 0: the books agree.*\nshard 1: the books agree/m)
    expect(code).toBe(0)
  })

  test('goes on with one shard in a data directory that was begun with one, and says so', async () => {
    const dataDir = await dataDirectory()
    const server = await startEmbedded(dataDir)
    await server.createDatabase('shard0')
    await migrateAsBeforeMaps(server.url('shard0'))
    await openOldWallets(server.url('shard0'), 1)
    await server.stop()
    for (let round = 0; round < 2; round++) {
      const [, output] = await withNode({ dataDir }, async (client) => {
        expect((await client.get('/v1/ledger/blocks?shard=0')).status).toBe(200)
        expect((await client.get('/v1/ledger/blocks?shard=1')).status).toBe(404)
      })
      expect(output).toContain('begun with one shard: it goes on with one')
    }
    expect((await verifyBooks({ dataDir })).output).toMatch(/^shard 0: the books agree[^\n]*\n$/)
  })

  test('makes the second shard if it was stopped before that was there', async () => {
    const dataDir = await dataDirectory()
    const server = await startEmbedded(dataDir)
    await server.createDatabase('shard0')
    await server.stop()
    await withNode({ dataDir }, async (client) => {
      expect((await client.get('/v1/ledger/blocks?shard=1')).status).toBe(200)
    })
  })
})

describe('a node on several databases', () => {
  test('spreads wallets over them, and refuses to start, or be verified, with a part of them', async () => {
    const urls = await Promise.all([emptyDatabase(), emptyDatabase(), emptyDatabase()])
    await withNode({ databaseUrl: urls.join(',') }, async (client) => {
      await useWallets(client)
      expect(Math.min(...(await blockCounts(client, 3)))).toBeGreaterThan(0)
    })
    expect(await verifyBooks({ databaseUrl: urls.join(', ') })).toMatchObject({ code: 0 })

    const part = urls.slice(0, 2).join(',')
    const { code, output } = await verifyBooks({ databaseUrl: part })
    expect(code).toBe(1)
    expect(output).toMatch(/^the shard map \(epoch 1\) has 3 shards, ZEROSUM_SHARDS lists 2: [^\n]*\n$/)
    await expect(withNode({ databaseUrl: part }, async () => {})).rejects.toThrow(output.trim())
  })

  test('keeps tenants and keys in the first', async () => {
    const urls = await Promise.all([emptyDatabase(), emptyDatabase()])
    await withNode({ databaseUrl: urls.join(',') }, async () => {})
    const names = await Promise.all(
      urls.map(async (url) => {
        const sql = connect(url, { max: 1 })
        const rows = await sql<{ name: string }[]>`SELECT name FROM tenants`
        await sql.end()
        return rows.map(({ name }) => name)
      }),
    )
    expect(names).toEqual([['demo'], []])
  })
})

describe('ZEROSUM_SHARDS', () => {
  test('may list several databases', () => {
    const { shardUrls } = readConfig({ ZEROSUM_SHARDS: 'postgres://a/0, postgresql://b/1,postgres://c/2' })
    expect(shardUrls).toEqual(['postgres://a/0', 'postgresql://b/1', 'postgres://c/2'])
  })

  test.each([',', 'postgres://a/0,', 'postgres://u:secret@a/0,mysql://u:secret@b/1'])('is refused as %j', (text) => {
    expect(() => readConfig({ ZEROSUM_SHARDS: text })).toThrow(/ZEROSUM_SHARDS, item 2 is not a postgres:/)
    expect(() => readConfig({ ZEROSUM_SHARDS: text })).not.toThrow(/secret/)
  })
})
