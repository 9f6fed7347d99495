import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, onTestFinished, test } from 'vitest'
import { verifyAll } from '../../src/audit/verification.ts'
import { slotOfId } from '../../src/core/ids.ts'
import { requestOf } from '../../src/core/request.ts'
import { firstShardMap, layOutSlots } from '../../src/core/shardMap.ts'
import { connect, type Sql } from '../../src/postgres/connect.ts'
import { checkShards, prepareShards, ShardListError } from '../../src/shards/map.ts'
import { newId } from '../../src/shards/newId.ts'
import { readStored, type Stored, writeStored } from '../../src/shards/storedMap.ts'
import { emptyDatabase } from '../support/database.ts'
import { openLedger, TENANT } from '../support/ledger.ts'
import { migrateAsBeforeMaps, openOldWallets } from './old-database.ts'

const databases = (count: number) => Promise.all(Array.from({ length: count }, () => emptyDatabase()))

async function withOwner<T>(url: string, work: (sql: Sql) => Promise<T>): Promise<T> {
  const sql = connect(url, { max: 1, role: null })
  try {
    return await work(sql)
  } finally {
    await sql.end()
  }
}

const storedIn = (urls: readonly string[]): Promise<Stored[]> =>
  Promise.all(urls.map((url) => withOwner(url, readStored)))

/** Takes map and number away, as if a crash had come before them. */
const forget = (url: string) =>
  withOwner(url, async (sql) => {
    await sql`ALTER TABLE shard_map DISABLE TRIGGER append_only`
    await sql`DELETE FROM shard_map`
    await sql`ALTER TABLE shard_map ENABLE TRIGGER append_only`
    await sql`UPDATE chain_head SET shard = NULL`
  })

/** Opens a wallet on shard 0. */
async function openWallet(url: string): Promise<void> {
  const [stored] = await storedIn([url])
  const id = newId(stored?.map?.shards.indexOf(0) ?? 0)
  const ledger = openLedger(url)
  try {
    const wallet = { kind: 'wallet-open', holderId: 'a', currency: 'USD', overdraftLimit: 0n, limits: {} } as const
    await ledger.batcher.submit(requestOf(id, TENANT, 'open', wallet))
  } finally {
    await ledger.close()
  }
}

/** Why a list is refused. What is stored is the same before and after, and a look at it says the same. */
async function refusalOf(urls: readonly string[]): Promise<string> {
  const before = await storedIn(urls)
  const error = await prepareShards(urls).catch((reason: unknown) => reason)
  expect(error).toBeInstanceOf(ShardListError)
  expect(await storedIn(urls)).toEqual(before)
  const { message } = error as ShardListError
  await expect(checkShards(urls)).rejects.toThrow(new ShardListError(message))
  for (const url of urls) {
    expect(message).not.toContain(new URL(url).password || 'postgres://')
    expect(message).not.toContain(new URL(url).pathname)
  }
  return message
}

describe('databases that are all new', () => {
  test.each([1, 2, 3])('get their numbers and one map for %i shards', async (count) => {
    const urls = await databases(count)
    const { map, applied } = await prepareShards(urls)
    expect(map).toMatchObject(firstShardMap(count))
    expect(applied.map((files) => files.length > 0)).toEqual(urls.map(() => true))
    const stored = await storedIn(urls)
    expect(stored).toEqual(urls.map((_, shard) => ({ shard, hasBlocks: false, map })))
    await expect(checkShards(urls)).resolves.toBeUndefined()
  })

  test('keep that map at the next start, with or without accounts', async () => {
    const urls = await databases(2)
    const { map } = await prepareShards(urls)
    expect(await prepareShards(urls)).toEqual({ map, applied: [[], []] })
    await openWallet(urls[0] ?? '')
    expect(await prepareShards(urls)).toEqual({ map, applied: [[], []] })
  })

  test.each([2, 5])('get one map, though %i nodes start at once', async (nodes) => {
    const urls = await databases(3)
    const starts = await Promise.all(Array.from({ length: nodes }, () => prepareShards(urls)))
    const [first] = starts
    for (const { map } of starts) expect(map).toEqual(first?.map)
    expect(await storedIn(urls)).toEqual(urls.map((_, shard) => ({ shard, hasBlocks: false, map: first?.map })))
  })

  test('that two nodes list in different orders get the numbers of one of them; the other is refused', async () => {
    const urls = await databases(2)
    const [one, other] = await Promise.allSettled([prepareShards(urls), prepareShards(urls.toReversed())])
    const refused = one.status === 'rejected' ? one : other
    expect([one.status, other.status].sort()).toEqual(['fulfilled', 'rejected'])
    expect(refused).toMatchObject({ reason: expect.any(ShardListError) })
    const stored = await storedIn(urls)
    expect(stored.map(({ shard }) => shard).sort()).toEqual([0, 1])
  })

  test('wait for a node that is at it, and take what it has stored', async () => {
    const urls = await databases(2)
    const { map } = await prepareShards(urls)
    for (const url of urls) await forget(url)
    const sql = connect(urls[1] ?? '', { max: 1, role: null })
    onTestFinished(() => sql.end())
    const kept = { ...firstShardMap(2), createdUs: 42n }
    let isDone = false
    let start: ReturnType<typeof prepareShards> | undefined
    await sql.begin(async (sql) => {
      await sql`SELECT pg_advisory_xact_lock(8203717)`
      start = prepareShards(urls).finally(() => {
        isDone = true
      })
      await sleep(300)
      expect(isDone).toBe(false)
      await writeStored(sql, 1, kept)
    })
    expect((await start)?.map).toEqual(kept)
    expect(map).not.toEqual(kept)
  })
})

describe('a crash half way', () => {
  test.each([
    ['the first', [0]],
    ['the last', [2]],
    ['two', [0, 1]],
  ])('that kept the map from %s is healed: it gets that of the others', async (_, lacking) => {
    const urls = await databases(3)
    const { map } = await prepareShards(urls)
    for (const item of lacking) await forget(urls[item] ?? '')
    expect((await prepareShards(urls)).map).toEqual(map)
    expect(await storedIn(urls)).toEqual(urls.map((_, shard) => ({ shard, hasBlocks: false, map })))
  })

  test('is not what happened when there are accounts already: an empty database stands in the place of a shard', async () => {
    const urls = await databases(2)
    await prepareShards(urls)
    await openWallet(urls[0] ?? '')
    const replaced = [urls[0] ?? '', await emptyDatabase()]
    expect(await refusalOf(replaced)).toBe(
      'ZEROSUM_SHARDS, item 2 is not the database of shard 1: it holds no shard map, while there are accounts on the shards ' +
        'already. List the right database, or restore it from its backup. One that is new is added by: zerosum shards add URL',
    )
  })
})

describe('a list', () => {
  test('that is longer than the map is refused', async () => {
    const urls = await databases(2)
    await prepareShards(urls)
    expect(await refusalOf([...urls, await emptyDatabase()])).toBe(
      'the shard map (epoch 1) has 2 shards, ZEROSUM_SHARDS lists 3: list the databases of shards 0 to 1, in this order, ' +
        'without item 3. To add a database, leave the list as it was and run: zerosum shards add URL',
    )
    await expect(prepareShards(urls)).resolves.toMatchObject({ map: { shardCount: 2 } })
  })

  test('that is shorter than the map is refused, whichever is missing', async () => {
    const urls = await databases(3)
    await prepareShards(urls)
    const [a = '', b = '', c = ''] = urls
    const start = (count: number) => `the shard map \\(epoch 1\\) has 3 shards, ZEROSUM_SHARDS lists ${count}: `
    const which = 'list the databases of shards 0 to 2, in this order; missing: '
    expect(await refusalOf([a, b])).toMatch(new RegExp(`^${start(2)}${which}shard 2\\.`))
    expect(await refusalOf([b, c])).toMatch(new RegExp(`^${start(2)}${which}shard 0\\.`))
    expect(await refusalOf([b])).toMatch(new RegExp(`^${start(1)}${which}shard 0, shard 2\\.`))
  })

  test('in another order is refused', async () => {
    const urls = await databases(3)
    await prepareShards(urls)
    const [a = '', b = '', c = ''] = urls
    expect(await refusalOf([a, c, b])).toBe(
      'ZEROSUM_SHARDS, item 2 is the database of shard 2, item 3 is the database of shard 1: ' +
        'list the shards in their first order, from shard 0 on',
    )
  })

  test('that names a database twice is refused, though the URLs differ, and nothing is stored', async () => {
    const [a = '', b = ''] = await databases(2)
    const again = new URL(a)
    again.searchParams.set('connect_timeout', '9')
    for (const list of [
      [a, b, a],
      [a, b, again.href],
    ]) {
      expect(await refusalOf(list)).toBe('ZEROSUM_SHARDS, items 1 and 3 are the same database: list each shard once')
    }
    expect(await refusalOf([b, a, a])).toContain('items 2 and 3 are the same')
    await prepareShards([a, b])
    expect(await refusalOf([a, again.href])).toContain('items 1 and 2 are the same')
  })

  test('whose databases hold different epochs is refused, naming shards and epochs', async () => {
    const urls = await databases(3)
    const { map } = await prepareShards(urls)
    await withOwner(urls[1] ?? '', (sql) => writeStored(sql, 1, { ...map, epoch: 2, createdUs: 42n }))
    expect(await refusalOf(urls)).toMatch(
      /hold different shard maps:\n- item 1 \(shard 0\), item 3 \(shard 2\): epoch 1, made 20\S+ for 3 shards\n- item 2 \(shard 1\): epoch 2, made 1970\S+ for 3 shards\nList/,
    )
  })

  test('whose databases hold different slots in one epoch is refused', async () => {
    const urls = await databases(2)
    const { map } = await prepareShards(urls)
    const shards = map.shards.map((shard) => 1 - shard)
    const stored = (await storedIn(urls))[0]?.map
    if (!stored) throw new Error('no map')
    await forget(urls[1] ?? '')
    await withOwner(urls[1] ?? '', (sql) => writeStored(sql, 1, { ...stored, shards }))
    expect(await refusalOf(urls)).toMatch(/hold different shard maps:\n- item 1 \(shard 0\): epoch 1.*\n- item 2/)
  })

  test('of databases of two installations is refused', async () => {
    const [one, other] = [await databases(2), await databases(2)]
    await prepareShards(one)
    await prepareShards(other)
    expect(await refusalOf([one[0] ?? '', other[1] ?? ''])).toContain('List the databases of one installation only')
  })

  test('with a new database before an old one leaves the new one without a number', async () => {
    const [a = '', b = ''] = await databases(2)
    await prepareShards([a])
    await refusalOf([b, a])
    expect((await storedIn([b]))[0]).toEqual({ shard: undefined, hasBlocks: false, map: undefined, change: undefined })
  })
})

describe('a database of the version that had one shard', () => {
  async function oldDatabase(): Promise<{ url: string; wallets: string[] }> {
    const url = await emptyDatabase()
    await migrateAsBeforeMaps(url)
    return { url, wallets: await openOldWallets(url, 5) }
  }

  test('gets a map in which all its accounts are on it', async () => {
    const { url, wallets } = await oldDatabase()
    const { map, applied } = await prepareShards([url])
    expect(map).toMatchObject({ epoch: 1, shardCount: 1, shards: layOutSlots(1) })
    expect(applied).toEqual([expect.arrayContaining(['0002_shard_map.sql'])])
    expect(wallets.map((id) => map.shards[slotOfId(id)])).toEqual(wallets.map(() => 0))
    expect((await prepareShards([url])).map).toEqual(map)
    expect(await verifyAll([url])).toMatchObject({ balanced: true })
  })

  test('is refused among others, wherever it is in the list, before its first map and after', async () => {
    const { url } = await oldDatabase()
    const other = await emptyDatabase()
    expect(await refusalOf([url, other])).toBe(
      'ZEROSUM_SHARDS lists 2 databases, but item 1 holds the accounts of an earlier version, which had one shard: ' +
        'list that database alone. To add a database, leave the list as it was and run: zerosum shards add URL',
    )
    expect(await refusalOf([other, url])).toContain('item 2 holds the accounts of an earlier version')
    await prepareShards([url])
    expect(await refusalOf([url, other])).toBe(
      'the shard map (epoch 1) has 1 shard, ZEROSUM_SHARDS lists 2: list the database of shard 0 alone, ' +
        'without item 2. To add a database, leave the list as it was and run: zerosum shards add URL',
    )
  })

  test('is migrated before it is verified', async () => {
    const { url } = await oldDatabase()
    await expect(checkShards([url])).rejects.toThrow('item 1 was written by an earlier version: run zerosum migrate')
    const [table] = await withOwner(url, (sql) => sql`SELECT to_regclass('shard_map') AS name`)
    expect(table).toEqual({ name: null })
    await prepareShards([url])
    await expect(checkShards([url])).resolves.toBeUndefined()
  })

  test('that was never used may be one of several', async () => {
    const url = await emptyDatabase()
    await migrateAsBeforeMaps(url)
    expect((await prepareShards([url, await emptyDatabase()])).map.shardCount).toBe(2)
  })
})
