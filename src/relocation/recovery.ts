import type { Pools } from '../bus/pools.ts'
import { connect, type Sql } from '../postgres/connect.ts'
import type { Router } from '../shards/router.ts'
import { alone } from './lock.ts'
import { createMover } from './mover.ts'
import { presenceName } from './presence.ts'

const INTERVAL_MS = 1_000
/** Whoever began a change is given so long. */
const AGE_US_MIN = 15_000_000
const ANSWER_MS_MAX = 30_000

export type RelocationRecoveryOptions = {
  router: Router
  urlOf: (shard: number) => string | undefined
  /** On the shards' databases; others use them too. */
  pools: Pools
  onTrouble: (error: unknown) => void
}

/**
 * Looks at the layout of all shards every second: learns of shards that were added, and ends changes of the map that somebody left half
 * done, so that no slot stays closed. A connection to shard 0 meanwhile says how many shards this node knows.
 */
export function startRelocationRecovery({ router, urlOf, pools, onTrouble }: RelocationRecoveryOptions): {
  stop(): Promise<void>
} {
  let isStopped = false
  let timer: NodeJS.Timeout | undefined
  let round: Promise<void> = Promise.resolve()
  let presence: { sql: Sql; shards: number } | undefined

  async function sayHello(): Promise<void> {
    const shards = router.shards.length
    if (presence?.shards !== shards) {
      await presence?.sql.end()
      presence = {
        sql: connect(urlOf(0) ?? '', { max: 1, name: presenceName(shards), answerMsMax: ANSWER_MS_MAX }),
        shards,
      }
    }
    await presence.sql`SELECT 1`
  }

  async function recover(): Promise<void> {
    await sayHello()
    const layouts = await Promise.allSettled(router.shards.map(({ number }) => router.look(number)))
    const oldUs = Date.now() * 1000 - AGE_US_MIN
    const left = layouts.flatMap((layout) => {
      if (layout.status === 'rejected') return []
      const { open, sinceUs } = layout.value
      return open && (sinceUs ?? 0) < oldUs ? [open.change] : []
    })
    if (left.length === 0) return
    await alone(pools(0), async () => {
      const mover = createMover({ router, pool: pools })
      const ended = new Set<string>()
      for (const change of left) {
        if (ended.has(change.id)) continue
        ended.add(change.id)
        // One that waits for a shard keeps no other from its end.
        await mover.resume(change).catch(onTrouble)
      }
    })
  }

  function schedule(): void {
    if (isStopped) return
    timer = setTimeout(
      () => {
        round = recover().catch(onTrouble).then(schedule)
      },
      INTERVAL_MS * (0.5 + Math.random()),
    )
  }
  schedule()
  return {
    async stop() {
      isStopped = true
      clearTimeout(timer)
      await round
      await presence?.sql.end()
    },
  }
}
