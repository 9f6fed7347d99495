import { isInFlight, readSagaTransit, readTransit, type Transit } from '../ledger/sql/transit.ts'
import type { Sql, Tx } from '../postgres/connect.ts'

/** Whether the shards' transit accounts agree with each other. */
export type TransitReport = {
  /** Sagas that have moved money between shards. */
  readonly sagas: number
  /** Those of them that have moved it on one side only, as yet. */
  readonly inFlight: number
  readonly balanced: boolean
  readonly discrepancy: { readonly saga: string; readonly problem: string } | null
}

/** What a saga has moved between two shards, in one currency, both sides added up. */
type Gap = {
  readonly saga: string
  readonly tenantId: string
  readonly between: string
  readonly amount: bigint
  /** What the shards have recorded of the saga: one digest, if they agree. */
  readonly texts: ReadonlySet<string>
}

/**
 * Reconciles the transit accounts of all shards, saga by saga: what left one shard has come to the other, or the saga is still in
 * flight. Nothing is stopped for it: the shards are looked at a moment apart, and a saga that seems to be half done is looked
 * at again.
 * @param pools one for each shard, by number; of each one connection is used, and a second for a moment
 * @param since for each shard the last block that was looked at before; sagas without entries after it are left out
 */
export async function reconcileTransit(pools: readonly Sql[], since: readonly number[] = []): Promise<TransitReport> {
  const { sagas, gaps } = await inAll(pools, (txs) => findGaps(txs, since))
  let inFlight = 0
  for (const gap of gaps) {
    const verdict = await lookAgain(pools, gap)
    if (verdict === 'in flight') inFlight += 1
    else if (verdict) {
      return { sagas, inFlight, balanced: false, discrepancy: { saga: gap.saga, problem: verdict } }
    }
  }
  return { sagas, inFlight, balanced: true, discrepancy: null }
}

/** One snapshot of each shard. */
async function inAll<T>(pools: readonly Sql[], work: (txs: readonly Tx[]) => Promise<T>, txs: Tx[] = []): Promise<T> {
  const [pool, ...others] = pools
  if (!pool) return await work(txs)
  return await pool.begin('ISOLATION LEVEL REPEATABLE READ READ ONLY', async (sql) => {
    // One shard waits while another is read.
    await sql`SET LOCAL idle_in_transaction_session_timeout = 0`
    return await inAll(others, work, [...txs, sql])
  })
}

/** Merges the shards' sums by saga; keeps those that don't cancel out. */
async function findGaps(txs: readonly Tx[], since: readonly number[]): Promise<{ sagas: number; gaps: Gap[] }> {
  const streams = txs.map((sql, shard) => new Stream(readTransit(sql, since[shard] ?? 0)))
  await Promise.all(streams.map((stream) => stream.next()))
  const gaps: Gap[] = []
  for (let sagas = 0; ; sagas++) {
    const heads = streams.flatMap(({ head }) => head?.saga ?? []).sort()
    const [saga] = heads
    if (saga === undefined) return { sagas, gaps }
    const found: [number, Transit][] = []
    for (const [shard, stream] of streams.entries()) {
      while (stream.head?.saga === saga) {
        found.push([shard, stream.head])
        await stream.next()
      }
    }
    gaps.push(...gapsOf(found))
  }
}

function gapsOf(found: readonly (readonly [shard: number, transit: Transit])[]): Gap[] {
  const sums = new Map<string, Gap>()
  for (const [shard, { saga, tenantId, peer, currency, amount, text }] of found) {
    const between = `shards ${Math.min(shard, peer)} and ${Math.max(shard, peer)}, ${currency}`
    const before = sums.get(between)
    const texts = new Set(before?.texts).add(text)
    sums.set(between, { saga, tenantId, between, amount: (before?.amount ?? 0n) + amount, texts })
  }
  return [...sums.values()].filter(({ amount, texts }) => amount !== 0n || texts.size > 1)
}

/** Looks whether the saga is in flight first: if it is over by then, all that it moved is there to be seen. */
async function lookAgain(
  pools: readonly Sql[],
  { saga, tenantId, between, texts }: Gap,
): Promise<'in flight' | string | undefined> {
  if (texts.size > 1) return `shards of the saga have recorded different sagas, between ${between}`
  const flying = await Promise.all(pools.map((sql) => isInFlight(sql, saga)))
  if (flying.includes(true)) return 'in flight'
  const found = await Promise.all(pools.map((sql) => readSagaTransit(sql, { tenantId, saga })))
  const [gap] = gapsOf(found.flatMap((transits, shard) => transits.map((transit) => [shard, transit] as const)))
  // A wallet may have begun to move meanwhile; a saga begins once.
  if (gap && (await Promise.all(pools.map((sql) => isInFlight(sql, saga)))).includes(true)) return 'in flight'
  return gap && `the saga is over, but between ${gap.between}, ${gap.amount} is on one side only`
}

/** Rows of pages, one at a time. */
class Stream {
  head: Transit | undefined
  #page: Transit[] = []
  #at = 0
  readonly #pages: AsyncGenerator<Transit[]>

  constructor(pages: AsyncGenerator<Transit[]>) {
    this.#pages = pages
  }

  async next(): Promise<void> {
    if (this.#at === this.#page.length) {
      const { value, done } = await this.#pages.next()
      this.#page = done ? [] : value
      this.#at = 0
    }
    this.head = this.#page[this.#at++]
  }
}
