import { type Copy, readCopies, readOriginals } from '../ledger/sql/copies.ts'
import type { Sql } from '../postgres/connect.ts'

/** Whether what shards hold as copies is what other shards have recorded. */
export type CopiesReport = {
  readonly copies: number
  readonly balanced: boolean
  readonly discrepancy: { readonly shard: number; readonly request: string; readonly problem: string } | null
}

/**
 * Compares every copied request with the one that it is a copy of, by hash and time: the hash is in the other shard's chain. That the
 * rest of a copy makes its hash is looked at with the shard's own books.
 * @param pools one for each shard, by number
 */
export async function reconcileCopies(pools: readonly Sql[]): Promise<CopiesReport> {
  let copies = 0
  for (const [shard, sql] of pools.entries()) {
    for await (const page of readCopies(sql)) {
      const wrong = await firstWrong(pools, page)
      if (wrong) return { copies, balanced: false, discrepancy: { shard, ...wrong } }
      copies += page.length
    }
  }
  return { copies, balanced: true, discrepancy: null }
}

async function firstWrong(
  pools: readonly Sql[],
  page: readonly Copy[],
): Promise<{ request: string; problem: string } | undefined> {
  for (const [origin, copies] of Map.groupBy(page, ({ shard }) => shard)) {
    const sql = pools[origin]
    const originals = sql ? await readOriginals(sql, copies) : new Map<string, Copy>()
    for (const copy of copies) {
      const original = originals.get(copy.id)
      const place = `item ${copy.item} of block ${copy.block} of shard ${origin}`
      if (!original) return { request: copy.id, problem: `it stands as a copy of ${place}, where it is not` }
      if (original.leaf !== copy.leaf || original.timeUs !== copy.timeUs) {
        return { request: copy.id, problem: `it is not a true copy of ${place}: its hash or time is another` }
      }
    }
  }
  return undefined
}
