import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { firstShardMap, lengthFault, type ShardMap } from '../core/shardMap.ts'
import { connect, type Sql, type Tx } from '../postgres/connect.ts'
import { isBehind, migrate } from '../postgres/migrate.ts'
import { readStored, type Stored, type StoredMap, writeNumber, writeStored } from './storedMap.ts'

/** The list of databases is not the one that the accounts were opened with. The message says what to do, and no URL. */
export class ShardListError extends Error {}

/** Any number will do, as long as every node takes the same. */
const LOCK_KEY = 8_203_717
const ATTEMPTS_MAX = 200
const PAUSE_MS = 50

/**
 * Makes the databases ready: brings each to the newest schema, sees to it that all of them hold one map, and that each is in
 * its place. Databases that are all new are given their numbers and a map; nothing is written if the list is wrong, but for
 * the schema. Nodes that start together take turns; what a crash left half done is completed.
 * @param urls in the order of the shards' numbers
 * @returns the map, and for each database the names of the migrations that were applied now
 * @throws ShardListError if this is not the list that the map was made for
 */
export async function prepareShards(urls: readonly string[]): Promise<{ map: ShardMap; applied: string[][] }> {
  return await withPools(urls, null, async (pools) => {
    const applied: string[][] = []
    for (const sql of pools) applied.push(await migrate(sql))
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      const map = await inAll(pools, storeTogether)
      if (map) return { map, applied }
      await sleep(PAUSE_MS * (1 + Math.random()))
    }
    throw new Error('other nodes that are starting keep the databases: start this one again')
  })
}

/** Finds whether the list is right, and changes nothing. @throws ShardListError as `prepareShards` */
export async function checkShards(urls: readonly string[]): Promise<void> {
  await withPools(urls, undefined, async (pools) => {
    await inAll(pools, async (txs) => {
      await refuseRepeats(txs)
      agreedMap(await readAll(txs))
      for (const [item, sql] of txs.entries()) {
        if (!(await isBehind(sql))) continue
        throw new ShardListError(
          `ZEROSUM_SHARDS, item ${item + 1} was written by an earlier version: run zerosum migrate`,
        )
      }
    })
  })
}

/**
 * Makes a database ready that is to be one shard more, and gives it the next number. May be called again.
 * @param urls of the shards that there are
 * @throws ShardListError if it is one of those, or something else than an empty database
 */
export async function prepareAdded(urls: readonly string[], url: string): Promise<void> {
  await withPools([...urls, url], null, async (pools) => {
    const last = pools.at(-1)
    if (last) await migrate(last)
    await inAll(pools, async (txs) => {
      const added = txs.at(-1)
      await refuseRepeats(txs, 'The URL is of a database that is a shard already.')
      const stored = (await readAll(txs)).at(-1)
      if (!added || !stored || stored.hasBlocks || stored.map || (stored.shard ?? urls.length) !== urls.length) {
        throw new ShardListError('The database is in use already: give the URL of an empty one.')
      }
      await writeNumber(added, urls.length)
    })
  })
}

/** Gives a database that `prepareAdded` made ready the map of the others; the next node that starts would do so too. */
export async function storeAdded(urls: readonly string[], url: string): Promise<void> {
  await withPools([...urls, url], null, async (pools) => {
    await inAll(pools, async (txs) => {
      const [first] = await readAll(txs)
      const added = txs.at(-1)
      if (first?.map && added) await writeStored(added, urls.length, first.map)
    })
  })
}

/** @returns `undefined` if another node is at it */
async function storeTogether(txs: readonly Tx[]): Promise<ShardMap | undefined> {
  await refuseRepeats(txs)
  // Not waited for: nodes with lists in different orders would wait for each other.
  for (const sql of txs) {
    const [lock] = await sql<{ taken: boolean }[]>`SELECT pg_try_advisory_xact_lock(${LOCK_KEY}) AS taken`
    if (!lock?.taken) return undefined
  }
  const stored = await readAll(txs)
  const map = agreedMap(stored) ?? { ...firstShardMap(txs.length), createdUs: BigInt(Date.now()) * 1000n }
  for (const [number, sql] of txs.entries()) {
    if (stored[number]?.map === undefined) await writeStored(sql, number, map)
  }
  return map
}

async function readAll(txs: readonly Tx[]): Promise<Stored[]> {
  const stored: Stored[] = []
  for (const sql of txs) stored.push(await readStored(sql))
  return stored
}

/**
 * One database under two URLs can't be told by the URLs. Advisory locks belong to a database: what one transaction of ours has
 * taken under keys that nobody else knows, another can't take if it is in the same one.
 */
async function refuseRepeats(txs: readonly Tx[], advice?: string): Promise<void> {
  const secret = (randomBytes(8).readBigInt64BE() >> 13n) << 13n
  for (const [item, sql] of txs.entries()) {
    // In item k keys 0 to k are taken: the last that is gone tells which item has it.
    const [held] = await sql<{ by: number | null }[]>`
      SELECT max(k)::int AS by FROM generate_series(0, ${item}) AS k WHERE NOT pg_try_advisory_xact_lock(${secret}::int8 + k)`
    if (typeof held?.by !== 'number') continue
    throw new ShardListError(
      advice ?? `ZEROSUM_SHARDS, items ${held.by + 1} and ${item + 1} are the same database: list each shard once`,
    )
  }
}

/**
 * The map that all databases of a list hold, or are to hold because a crash kept it from them.
 * @returns `undefined` if none has one, and a list of this length may begin with one
 * @throws ShardListError for any other list than that of the map
 */
export function agreedMap(stored: readonly Stored[]): StoredMap | undefined {
  const map = stored.flatMap((each) => each.map ?? []).sort((a, b) => b.epoch - a.epoch)[0]
  if (!map) {
    refuseOldAmongOthers(stored)
    refuseOrder(stored)
    return undefined
  }
  refuseDifferences(stored, map)
  refuseLength(stored, map)
  refuseOrder(stored)
  refuseStrangers(stored, map)
  return map
}

/** Before there were maps, there was one shard: whatever is in it belongs there. */
function refuseOldAmongOthers(stored: readonly Stored[]): void {
  const old = stored.findIndex(({ hasBlocks }) => hasBlocks)
  if (old < 0 || stored.length === 1) return
  throw new ShardListError(
    `ZEROSUM_SHARDS lists ${stored.length} databases, but item ${old + 1} holds the accounts of an earlier version, which ` +
      `had one shard: list that database alone. ${ADDING}`,
  )
}

function refuseDifferences(stored: readonly Stored[], map: StoredMap): void {
  const groups = Map.groupBy(
    stored.flatMap((each, item) =>
      each.map ? [{ name: nameOf(each, item), map: isOnItsWay(each, map) ? map : each.map }] : [],
    ),
    (each) => JSON.stringify([each.map.epoch, `${each.map.createdUs}`, each.map.shardCount, each.map.shards]),
  )
  if (groups.size <= 1) return
  const lines = [...groups.values()].map((group) => {
    const { epoch, shardCount, createdUs } = group[0]?.map ?? map
    const time = new Date(Number(createdUs / 1000n)).toISOString()
    return `- ${group.map(({ name }) => name).join(', ')}: epoch ${epoch}, made ${time} for ${countOf(shardCount)}`
  })
  throw new ShardListError(
    `the databases of ZEROSUM_SHARDS hold different shard maps:\n${lines.join('\n')}\n` +
      'List the databases of one installation only. If one was restored from an older backup, bring it up to the others.',
  )
}

/** A database that is about to get the map that others have already: some node, or the next to start, ends the change. */
function isOnItsWay({ change }: Stored, { epoch, createdUs }: StoredMap): boolean {
  return change?.epoch === epoch && BigInt(change.createdUs) === createdUs
}

function refuseLength(stored: readonly Stored[], map: ShardMap): void {
  const fault = lengthFault(map, stored.length)
  if (!fault) return
  const { epoch, shardCount } = map
  const numbers = Array.from({ length: shardCount }, (_, number) => number)
  const missing = numbers.filter((number) => !stored.some(({ shard }) => shard === number))
  const surplus = stored.flatMap((each, item) => (each.map ? [] : [`item ${item + 1}`]))
  const counts = `the shard map (epoch ${epoch}) has ${countOf(shardCount)}, ZEROSUM_SHARDS lists ${stored.length}`
  const order = `list the ${shardCount === 1 ? 'database of shard 0 alone' : `databases of shards 0 to ${shardCount - 1}, in this order`}`
  throw new ShardListError(
    fault === 'list_longer'
      ? `${counts}: ${order}${surplus.length > 0 ? `, without ${surplus.join(', ')}` : ''}. ${ADDING}`
      : `${counts}: ${order}; missing: ${missing.map((number) => `shard ${number}`).join(', ')}. ` +
          'Without it the accounts there could not be found.',
  )
}

function refuseOrder(stored: readonly Stored[]): void {
  const astray = stored.flatMap(({ shard }, item) =>
    shard === undefined || shard === item ? [] : [`item ${item + 1} is the database of shard ${shard}`],
  )
  if (astray.length === 0) return
  throw new ShardListError(
    `ZEROSUM_SHARDS, ${astray.join(', ')}: list the shards in their first order, from shard 0 on`,
  )
}

/**
 * Nothing is posted before all databases hold the map. So one that lacks it was left out by a crash only if all are empty; else
 * it stands in the place of another. One that was just added has its number, and no slot is on it yet.
 */
function refuseStrangers(stored: readonly Stored[], map: ShardMap): void {
  const lacking = stored.findIndex(
    ({ map: own, shard, hasBlocks }, item) => !own && (hasBlocks || shard !== item || map.shards.includes(item)),
  )
  if (lacking < 0 || !stored.some(({ hasBlocks }) => hasBlocks)) return
  throw new ShardListError(
    `ZEROSUM_SHARDS, item ${lacking + 1} is not the database of shard ${lacking}: it holds no shard map, while there are accounts ` +
      'on the shards already. List the right database, or restore it from its backup. One that is new is added by: zerosum shards add URL',
  )
}

const ADDING = 'To add a database, leave the list as it was and run: zerosum shards add URL'

function nameOf({ shard }: Stored, item: number): string {
  return `item ${item + 1}${shard === undefined ? '' : ` (shard ${shard})`}`
}

function countOf(shardCount: number): string {
  return shardCount === 1 ? '1 shard' : `${shardCount} shards`
}

/** Has a transaction open in each database; they are committed one after the other, the first database's last. */
async function inAll<T>(pools: readonly Sql[], work: (txs: readonly Tx[]) => Promise<T>, txs: Tx[] = []): Promise<T> {
  const [pool, ...others] = pools
  if (!pool) return await work(txs)
  return await pool.begin((sql) => inAll(others, work, [...txs, sql]))
}

async function withPools<T>(
  urls: readonly string[],
  role: null | undefined,
  work: (pools: Sql[]) => Promise<T>,
): Promise<T> {
  const own = role === null ? { role } : {}
  const pools = urls.map((url) => connect(url, { max: 1, name: 'zerosum shard map', ...own }))
  try {
    return await work(pools)
  } finally {
    await Promise.all(pools.map((sql) => sql.end()))
  }
}
