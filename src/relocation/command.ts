import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { SLOT_COUNT } from '../core/ids.ts'
import type { MapChange } from '../core/mapChange.ts'
import { layOutSlots, type ShardMap } from '../core/shardMap.ts'
import { readLayout } from '../ledger/sql/layout.ts'
import { countWallets } from '../ledger/sql/relocation.ts'
import { connect, type Sql } from '../postgres/connect.ts'
import { createSagas } from '../saga/sagas.ts'
import { checkShards, prepareAdded, prepareShards, ShardListError, storeAdded } from '../shards/map.ts'
import { createRouter, type Router } from '../shards/router.ts'
import { openShard } from '../shards/shard.ts'
import { alone } from './lock.ts'
import { createMover, type Mover } from './mover.ts'
import { type Move, planMoves, portionsOf } from './plan.ts'
import { countNodesBehind } from './presence.ts'

/** What the commands work on. */
export type Asked = {
  readonly databases: {
    readonly urls: readonly string[]
    create?(number: number): Promise<string>
  }
  /** Names this process in the blocks that it writes. */
  readonly writer: string
}

type Tools = {
  readonly urls: readonly string[]
  readonly router: Router
  readonly mover: Mover
  readonly pool: (shard: number) => Sql
}

const ATTEMPTS_MAX = 20
const PAUSE_MS = 500
const ANSWER_MS_MAX = 10 * 60_000
const LOCK_ANSWER_MS_MAX = 10_000
const ALL_SLOTS = Array.from({ length: SLOT_COUNT }, (_, slot) => slot)

/** Prints how many slots and wallets each shard has, and is to have. Changes nothing. @returns the exit code */
export async function printPlan({ databases: { urls } }: Asked): Promise<number> {
  await checkShards(urls)
  const { pool, close } = openPools(urls)
  try {
    const layouts = await Promise.all(urls.map((_, shard) => readLayout(pool(shard), shard)))
    const [map] = layouts.map((layout) => layout.map).sort((a, b) => b.epoch - a.epoch)
    if (!map) throw new ShardListError('There are no shards.')
    printMap(map, await walletsBySlot(map, pool))
    if (layouts.some(({ open }) => open)) {
      console.log(
        '\nA change of the map is under way. If whoever made it died, a node ends it; so does: zerosum shards move',
      )
    }
    return 0
  } finally {
    await close()
  }
}

function printMap(map: ShardMap, wallets: ReadonlyMap<number, number>): void {
  const due = layOutSlots(map.shardCount, map.drained)
  const count = (shards: readonly number[], shard: number) => shards.filter((one) => one === shard).length
  console.log('shard   slots now   slots then     wallets')
  for (let shard = 0; shard < map.shardCount; shard++) {
    const held = ALL_SLOTS.filter((slot) => map.shards[slot] === shard)
    const cells = [held.length, count(due, shard), sumOf(held, wallets)].map((cell) => `${cell}`.padStart(12))
    console.log(`${`${shard}`.padStart(5)}${cells.join('')}${map.drained.includes(shard) ? '   drained' : ''}`)
  }
  const moves = planMoves(map)
  console.log(moves.length === 0 ? '\nEvery slot is where it should be.' : '\nzerosum shards move would move:')
  for (const { from, to, slots } of moves) {
    console.log(`  ${slots.length} slots with ${sumOf(slots, wallets)} wallets from shard ${from} to shard ${to}`)
  }
}

/** Adds a database as the next shard. @param url not where the databases are made here */
export async function addShard(asked: Asked, url: string | undefined): Promise<number> {
  const { databases } = asked
  if (!url && !databases.create) throw new ShardListError('Give the URL of the new database: zerosum shards add URL')
  if (url && databases.create)
    throw new ShardListError('PostgreSQL is embedded, and makes the database: zerosum shards add')
  return await withTools(asked, async ({ urls, router, mover }) => {
    const number = urls.length
    const added = url ?? (await databases.create?.(number)) ?? ''
    await prepareAdded(urls, added)
    await change(router, mover, (map) => (map.shardCount > number ? undefined : { shardCount: number + 1 }))
    await storeAdded(urls, added)
    console.log(`The database is shard ${number} now. It has no wallets yet.`)
    if (url) {
      console.log(
        'Put its URL at the end of ZEROSUM_SHARDS for every node, and restart them, one after the other. Then:',
      )
    }
    console.log('zerosum shards move')
    return 0
  })
}

/** Has a shard emptied, or filled again. */
export async function drainShard(asked: Asked, number: number, isDrained: boolean): Promise<number> {
  return await withTools(asked, async (tools) => {
    const { router, mover } = tools
    const { map } = router
    if (number >= map.shardCount)
      throw new ShardListError(`There is no shard ${number}: they are 0 to ${map.shardCount - 1}.`)
    const others = map.drained.filter((one) => one !== number)
    if (isDrained && others.length === map.shardCount - 1) {
      throw new ShardListError(`Shard ${number} is the only one that is not drained: its wallets have nowhere to go.`)
    }
    const drained = isDrained ? [...others, number].sort((a, b) => a - b) : others
    if (drained.length !== map.drained.length) await change(router, mover, () => ({ drained }))
    const code = await moveAll(tools)
    if (code === 0 && isDrained) {
      console.log(
        `Shard ${number} has no wallets any more. Keep its database in the list: its chain is part of the books.`,
      )
    }
    return code
  })
}

/** Moves slots until all shards have their share. */
export async function moveSlots(asked: Asked): Promise<number> {
  return await withTools(asked, moveAll)
}

async function moveAll(tools: Tools): Promise<number> {
  const { router, pool, mover } = tools
  const moves = planMoves(router.map)
  if (moves.length === 0) {
    console.log('Every slot is where it should be.')
    return 0
  }
  const behind = await countNodesBehind(pool(0), router.map.shardCount)
  if (behind > 0) {
    console.error(
      `${behind} node${behind > 1 ? 's know' : ' knows'} fewer than ${router.map.shardCount} shards, and could not reach what moves to the others: ` +
        'restart with the whole list in ZEROSUM_SHARDS, then run this again.',
    )
    return 1
  }
  const wallets = await walletsBySlot(router.map, pool)
  const total = moves.reduce((sum, { slots }) => sum + sumOf(slots, wallets), 0)
  const slotsTotal = moves.reduce((sum, { slots }) => sum + slots.length, 0)
  let slotsDone = 0
  for (const move of moves) {
    const name = `shard ${move.from} to ${move.to}`
    await mover.copyAhead(move, (block, blocks) => progress(`${name}: history`, block, blocks))
    for (const portion of portionsOf(move, wallets)) {
      await mover.copyAhead(portion)
      await change(router, mover, (map) => leftOf(portion, map))
      slotsDone += portion.slots.length
      progress(`${name}: slots`, slotsDone, slotsTotal)
    }
  }
  console.log(`Moved ${slotsTotal} slots with ${total} wallets.`)
  return 0
}

/**
 * Makes a change; again if sagas did not end in time, of the map as it is then.
 * @param of what is to be changed of a map; `undefined` if nothing is left to do
 */
async function change(
  router: Router,
  mover: Mover,
  of: (map: ShardMap) => Partial<MapChange> | undefined,
): Promise<void> {
  for (let attempt = 1; attempt <= ATTEMPTS_MAX; attempt++) {
    const { map } = router
    const what = of(map)
    if (!what) return
    const isMade = await mover.make({
      ...{ id: randomUUID(), epoch: map.epoch + 1, createdUs: Date.now() * 1000 },
      ...{ shardCount: map.shardCount, drained: map.drained, slots: [], from: 0, to: 0, ...what },
    })
    await Promise.all(router.shards.map(({ number }) => router.look(number)))
    if (isMade) return
    await sleep(PAUSE_MS * attempt * (0.5 + Math.random()))
  }
  throw new Error(
    'Transfers between shards do not end, so that what they have to do with can not be moved: see that all shards can be reached, then run this again.',
  )
}

/** What of a portion is still to be moved. */
function leftOf({ from, to, slots }: Move, map: ShardMap): Move | undefined {
  const left = slots.filter((slot) => map.shards[slot] === from)
  return left.length === 0 ? undefined : { from, to, slots: left }
}

/** Opens the shards as a node does; ends first what an earlier command left half done. Nobody else changes the map meanwhile. */
async function withTools(
  { databases: { urls }, writer }: Asked,
  work: (tools: Tools) => Promise<number>,
): Promise<number> {
  const { map } = await prepareShards(urls)
  // Nodes write beside this, and take turns with it: what is tried again is no news, and what fails for good is thrown.
  const onTrouble = () => {}
  const router = createRouter(
    urls.map((url, number) => openShard({ number, url, writer, onTrouble })),
    map,
  )
  const { pool, close } = openPools(urls)
  // Where no node runs, nobody else would end sagas that are in flight.
  const sagas = createSagas({ router, onTrouble })
  const mover = createMover({ router, pool })
  const lock = connect(urls[0] ?? '', { max: 1, name: 'zerosum mover lock', answerMsMax: LOCK_ANSWER_MS_MAX })
  try {
    const code = await alone(lock, async () => {
      const layouts = await Promise.all(router.shards.map(({ number }) => router.look(number)))
      const left = layouts.find(({ open }) => open)?.open
      if (left) {
        const isMade = await mover.resume(left.change)
        console.log(`A change that was broken off is ${isMade ? 'finished' : 'undone'}.`)
        await Promise.all(router.shards.map(({ number }) => router.look(number)))
      }
      if (router.map.shardCount !== urls.length) {
        throw new ShardListError('A shard was added meanwhile: run this again with the whole list.')
      }
      return await work({ urls, router, mover, pool })
    })
    if (code !== undefined) return code
    console.error(
      'Somebody else is changing the shard map: another of these commands, or a node that ends one. Try again.',
    )
    return 1
  } finally {
    await sagas.close()
    await Promise.all([...router.shards.map((shard) => shard.close()), lock.end(), close()])
  }
}

/** Pools that connect when they are first used. */
function openPools(urls: readonly string[]): { pool: (shard: number) => Sql; close(): Promise<void> } {
  const pools = urls.map((url) => connect(url, { max: 2, name: 'zerosum mover', answerMsMax: ANSWER_MS_MAX }))
  return {
    pool(shard) {
      const sql = pools[shard]
      if (!sql) throw new Error(`shard ${shard} is not in the list`)
      return sql
    },
    async close() {
      await Promise.all(pools.map((sql) => sql.end()))
    },
  }
}

async function walletsBySlot(map: ShardMap, pool: Tools['pool']): Promise<Map<number, number>> {
  const counts = await Promise.all(
    Array.from({ length: map.shardCount }, (_, shard) =>
      countWallets(
        pool(shard),
        ALL_SLOTS.filter((slot) => map.shards[slot] === shard),
      ),
    ),
  )
  return new Map(counts.flatMap((each) => [...each]))
}

function sumOf(slots: readonly number[], wallets: ReadonlyMap<number, number>): number {
  return slots.reduce((sum, slot) => sum + (wallets.get(slot) ?? 0), 0)
}

const BAR_WIDTH = 30

/** A bar on a terminal; elsewhere nothing. */
function progress(what: string, done: number, total: number): void {
  if (!process.stderr.isTTY) return
  const share = total === 0 ? 1 : done / total
  const bar = '█'.repeat(Math.round(share * BAR_WIDTH)).padEnd(BAR_WIDTH, '░')
  process.stderr.write(
    `\r\x1b[K${what} ${bar} ${Math.floor(share * 100)}% (${done} of ${total})${share >= 1 ? '\n' : ''}`,
  )
}
