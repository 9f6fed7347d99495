import { setTimeout as sleep } from 'node:timers/promises'
import type { EmbeddedBus } from '../bus/embeddedBus.ts'
import { beginReplay, endReplay, forgetMarks } from '../bus/marks.ts'
import type { Sql } from '../postgres/connect.ts'
import { PROJECTIONS } from './group.ts'
import { ownProjections } from './sql/lock.ts'

/** There is no such block. */
export class NoSuchBlock extends Error {}

/** While shards are asked, the transaction waits. */
const IDLE_IN_TRANSACTION_MS_MAX = 60_000
const POLL_MS = 100
const STALL_MS_MAX = 120_000

/**
 * Empties the tables, and has the group make them again from the first block on: the rows will be what they were. Until the group has
 * caught up they are not complete. Nodes may go on meanwhile. It is the blocks that are read, also where Kafka is the bus, so it does not
 * matter what Kafka still has; members of the group that Kafka feeds wait until `finishReplay`.
 *
 * Tables and marks are emptied in one transaction, and the group is sent back before it is committed: when this fails half way the tables
 * are as they were, and what comes again is marked already. Handlers are kept out until then, and what they had in hand is refused.
 * @param sql a pool on the first shard's database
 */
export async function rebuildProjections(sql: Sql, bus: Pick<EmbeddedBus, 'rewind'>): Promise<void> {
  await sql.begin(async (sql) => {
    await sql.unsafe(`SET LOCAL idle_in_transaction_session_timeout = ${IDLE_IN_TRANSACTION_MS_MAX}`)
    await ownProjections(sql)
    await sql`TRUNCATE wallet_activity, daily_totals`
    await forgetMarks(sql, PROJECTIONS)
    await beginReplay(sql, PROJECTIONS)
    await bus.rewind(PROJECTIONS, 0)
  })
}

/**
 * Has the group take all from a block on again, of every shard; and keeps tables and marks, so that what was counted is not counted again.
 * It adds what is missing at the end, and mends nothing else: of each shard, events beyond the last one that is marked.
 * That is what a first shard lacks that was restored from a backup: tables and marks are older than the progress that the other
 * shards have recorded. Once the group has handled later events of a shard, only `rebuildProjections` finds what was left out.
 * @param pool on a shard's database
 * @param block 1 or more. The bus goes back to a time, so some shards go back further than that
 * @throws NoSuchBlock if no shard has that many
 */
export async function refetchProjections(
  pool: (shard: number) => Sql,
  shards: readonly number[],
  bus: Pick<EmbeddedBus, 'rewind'>,
  block: number,
): Promise<void> {
  const found = await Promise.all(
    shards.map((shard) => pool(shard)<{ time_us: bigint }[]>`SELECT time_us FROM blocks WHERE number = ${block}`),
  )
  const times = found.flatMap((rows) => rows.map(({ time_us }) => Number(time_us)))
  if (times.length === 0) throw new NoSuchBlock(`no shard has a block ${block}`)
  await pool(0).begin(async (sql) => {
    await ownProjections(sql)
    await beginReplay(sql, PROJECTIONS)
  })
  await bus.rewind(PROJECTIONS, Math.min(...times))
}

/**
 * Lets the members of the group that Kafka feeds go on. To be called when the group has caught up with the heads of all shards as they were after
 * the replay began: what Kafka had brought until then is done, and the marks say so.
 */
export async function finishReplay(sql: Sql): Promise<void> {
  await endReplay(sql, PROJECTIONS)
}

/** Where the chains of these shards end. */
export async function headsOf(pool: (shard: number) => Sql, shards: readonly number[]): Promise<Map<number, number>> {
  const heads = await Promise.all(
    shards.map(async (shard) => {
      const [head] = await pool(shard)<{ number: bigint }[]>`SELECT number FROM chain_head`
      return [shard, Number(head?.number ?? 0)] as const
    }),
  )
  return new Map(heads)
}

/**
 * Waits until the group has handled these blocks, whatever comes meanwhile.
 * @param heads the last block of each shard
 * @param lag how far the group is behind
 * @throws Error if it gets no further for two minutes
 */
export async function caughtUp(
  pool: (shard: number) => Sql,
  heads: ReadonlyMap<number, number>,
  lag: EmbeddedBus['lag'],
): Promise<void> {
  let best = Number.POSITIVE_INFINITY
  for (let sinceMs = Date.now(); ; ) {
    // First the ends, then how far it is to them: so what is left is never taken for less than it is.
    const now = await headsOf(pool, [...heads.keys()])
    const left = (await lag(PROJECTIONS)).reduce((sum, { shard, blocks }) => {
      const done = (now.get(shard) ?? 0) - blocks
      return sum + Math.max(0, (heads.get(shard) ?? 0) - done)
    }, 0)
    if (left === 0) return
    if (left < best) {
      best = left
      sinceMs = Date.now()
    }
    if (Date.now() - sinceMs > STALL_MS_MAX)
      throw new Error(`the projections are ${left} blocks behind and get no further`)
    await sleep(POLL_MS)
  }
}
