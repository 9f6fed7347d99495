import { onEachShard, type Pools } from '../bus/pools.ts'
import { pruneTraces } from '../ledger/sql/pruneTraces.ts'
import { removeInPortions } from '../postgres/portions.ts'

export type TracePruningOptions = {
  /** The numbers of the shards, as of now. */
  shards: () => readonly number[]
  pools: Pools
  onTrouble: (error: unknown) => void
  intervalMs?: number
}

/** Longer than readers of blocks should ever be behind. */
export const TRACES_KEPT_US = 7 * 24 * 3600 * 1_000_000

/** Removes the trace contexts of old requests from each shard, again and again. It runs while tracing is off too: it may have been on. */
export function startTracePruning({ shards, pools, onTrouble, intervalMs }: TracePruningOptions): {
  stop(): Promise<void>
} {
  return onEachShard(shards, (shard) =>
    removeInPortions(
      (limit) => pruneTraces(pools(shard), { beforeUs: Date.now() * 1000 - TRACES_KEPT_US, limit }),
      onTrouble,
      intervalMs,
    ),
  )
}
