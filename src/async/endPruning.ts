import { setTimeout as sleep } from 'node:timers/promises'
import type { Subscription } from '../bus/bus.ts'
import type { Sql } from '../postgres/connect.ts'
import { ENDS_KEPT_US, pruneEnds } from './ends.ts'

const INTERVAL_MS = 600_000
/** Between portions, while there is more. */
const PAUSE_MS = 1_000
const PORTION = 1_000

/** Removes old ends of requests again and again, a portion at a time. @param sql on the first shard's database */
export function startEndPruning(sql: Sql, onTrouble: (error: unknown) => void, intervalMs = INTERVAL_MS): Subscription {
  const stopping = new AbortController()
  const { signal } = stopping
  const pause = (ms: number) => sleep(ms, undefined, { signal }).catch(() => {})

  async function run(): Promise<void> {
    await pause(intervalMs * Math.random())
    while (!signal.aborted) {
      const beforeUs = Date.now() * 1000 - ENDS_KEPT_US
      const removed = await pruneEnds(sql, { beforeUs, limit: PORTION }).catch((error: unknown) => {
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
}
