import { setTimeout as sleep } from 'node:timers/promises'
import { onEachShard, type Pools } from '../bus/pools.ts'
import { pruneTraces } from '../ledger/sql/pruneTraces.ts'

export type TracePruningOptions = {
  /** The numbers of the shards, as of now. */
  shards: () => readonly number[]
  pools: Pools
  onTrouble: (error: unknown) => void
  intervalMs?: number
}

const INTERVAL_MS = 600_000
/** Between portions, while there is more. */
const PAUSE_MS = 1_000
const PORTION = 1_000
/** Longer than readers of blocks should ever be behind. */
export const TRACES_KEPT_US = 7 * 24 * 3600 * 1_000_000

/** Removes the trace contexts of old requests from each shard, again and again. It runs while tracing is off too: it may have been on. */
export function startTracePruning({ shards, pools, onTrouble, intervalMs = INTERVAL_MS }: TracePruningOptions): {
  stop(): Promise<void>
} {
  const pruning = onEachShard(shards, (shard) => {
    const stopping = new AbortController()
    const { signal } = stopping
    const pause = (ms: number) => sleep(ms, undefined, { signal }).catch(() => {})

    async function run(): Promise<void> {
      await pause(intervalMs * Math.random())
      while (!signal.aborted) {
        const removed = await pruneTraces(pools(shard), {
          beforeUs: Date.now() * 1000 - TRACES_KEPT_US,
          limit: PORTION,
        }).catch((error) => {
          onTrouble(error)
          return 0
        })
        await pause(removed === PORTION ? PAUSE_MS : intervalMs * (0.5 + Math.random()))
      }
    }

    const running = run()
    return {
      async stop() {
        stopping.abort()
        await running
      },
    }
  })
  return pruning
}
