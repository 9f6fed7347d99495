import { setTimeout as sleep } from 'node:timers/promises'
import { readHead } from '../ledger/sql/chainHead.ts'
import type { Sql } from '../postgres/connect.ts'
import { type ReadBlock, readBlocks } from './blocks.ts'
import type { ConsumerGroup } from './bus.ts'
import { watchOutage } from './outage.ts'
import { confirmLease, Fenced, hasPassed, leaveLease, type Position, recordPosition, takeLease } from './position.ts'

export type FollowOptions = {
  /** Whose position it is, unique among all readers of blocks. */
  reader: string
  shard: number
  /** A pool on a shard's database. */
  pool: (shard: number) => Sql
  /** Names this follower; another run of the same program is another. */
  holder: string
  /**
   * Does what is to be done for blocks, in order; it is done again if that fails, or may have.
   * @param signal aborted when somebody else is at it
   * @param confirm makes sure that these blocks are still the ones to be done; throws if not
   */
  handle: (blocks: readonly ReadBlock[], signal: AbortSignal, confirm: () => Promise<void>) => Promise<void>
  /** Whether blocks may be passed over unread. */
  skips?: ConsumerGroup['skips']
  onTrouble: (error: unknown) => void
  /** Told that trouble is over. */
  onWell?: ((message: string) => void) | undefined
  /** How long after its end a holder that vanished is missed. */
  leaseMs?: number
}

const LEASE_MS = 4_000
/** Idle: how long until the next look, from the first to the tenth in vain. */
const POLL_MS = 10
const POLL_MS_MAX = 100
/** After blocks were passed over: the next will hardly be of more use. */
const SKIPPED_MS = 500
const RETRY_MS = 100
const RETRY_MS_MAX = 5_000

/**
 * Follows the blocks of a shard from where the reader's recorded position is, without a gap, for ever. Many nodes may follow for one
 * reader; the one that has the lease does it, and another goes on from the recorded position when that one is gone. The position is
 * recorded only after the blocks were handled, so each is handled at least once.
 *
 * A block in which a wallet arrives waits until this reader has passed its departure, on the shard that it came from: what is done for one
 * wallet is done in order wherever it lives. No two shards can wait for each other, because a departure is always earlier than
 * the arrival.
 */
export function follow(options: FollowOptions): { stop(): Promise<void> } {
  const { reader, shard, pool, holder, handle, skips, onTrouble, onWell, leaseMs = LEASE_MS } = options
  const outage = watchOutage({ name: `${reader} on shard ${shard}`, onTrouble, onWell })
  const stopping = new AbortController()
  const { signal } = stopping
  const pause = (ms: number) => sleep(ms, undefined, { signal }).catch(() => {})

  async function run(): Promise<void> {
    let failures = 0
    while (!signal.aborted) {
      try {
        const position = await takeLease(pool(shard), reader, holder, leaseMs)
        if (position) {
          await lead(position, () => {
            failures = 0
            outage.worked()
          })
        } else await pause(leaseMs / 8)
      } catch (error) {
        if (signal.aborted) return
        if (!(error instanceof Fenced)) outage.failed(error)
        await pause(backoffMs(failures++))
      }
    }
  }

  /** Goes on until it is stopped, or the lease is lost. @throws what `handle` or the database throws */
  async function lead(begin: Position, onProgress: () => void): Promise<void> {
    const lost = new AbortController()
    const leading = AbortSignal.any([signal, lost.signal])
    const { epoch } = begin
    const keeping = keep(epoch, lost, leading)
    try {
      let idle = 0
      let { block } = begin
      let reading: Promise<ReadBlock[]> | undefined
      while (!leading.aborted) {
        const passed = reading ? block : await passOver(block)
        if (passed > block) {
          block = passed
          await recordPosition(pool(shard), reader, { block, epoch })
          onProgress()
          await sleep(SKIPPED_MS, undefined, { signal: leading }).catch(() => {})
          continue
        }
        reading ??= read(block)
        const blocks = await ready(await reading)
        const last = blocks.at(-1)
        if (!last) {
          await sleep(Math.min(POLL_MS_MAX, POLL_MS * ++idle), undefined, { signal: leading }).catch(() => {})
          reading = undefined
          continue
        }
        idle = 0
        // What comes next is read while this is handled.
        reading = skips ? undefined : read(last.number)
        await handle(blocks, leading, () => confirmLease(pool(shard), reader, epoch))
        block = last.number
        await recordPosition(pool(shard), reader, { block, epoch })
        onProgress()
      }
    } finally {
      const isLost = lost.signal.aborted
      lost.abort()
      await keeping
      // After a failure others may have more luck; if this can't be said, they wait until the lease ends.
      if (!isLost) await leaveLease(pool(shard), reader, epoch).catch(() => {})
    }
  }

  /** The last of the blocks that may be passed over; the number given if the next may not. */
  async function passOver(after: number): Promise<number> {
    if (!skips) return after
    const upTo = (await readHead(pool(shard))).number
    return upTo > after && (await skips({ shard, after, upTo }, pool(shard))) ? upTo : after
  }

  function read(after: number): Promise<ReadBlock[]> {
    const reading = readBlocks(pool(shard), shard, after)
    reading.catch(() => {}) // whoever waits for it is told
    return reading
  }

  /** Keeps the lease while blocks are handled, however long that takes. */
  async function keep(epoch: number, lost: AbortController, leading: AbortSignal): Promise<void> {
    let keptMs = Date.now()
    while (!leading.aborted) {
      await sleep(leaseMs / 4, undefined, { signal: leading }).catch(() => {})
      if (leading.aborted) return
      const askedMs = Date.now()
      const kept = await takeLease(pool(shard), reader, holder, leaseMs).catch(() => 'unknown' as const)
      if (kept === 'unknown' ? Date.now() - keptMs > leaseMs : kept?.epoch !== epoch) return lost.abort()
      if (kept !== 'unknown') keptMs = askedMs
    }
  }

  /** The blocks up to the first one that has to wait for another shard. */
  async function ready(blocks: readonly ReadBlock[]): Promise<readonly ReadBlock[]> {
    for (const [i, { departures }] of blocks.entries()) {
      const latest = new Map<number, number>()
      for (const { shard, timeUs } of departures) latest.set(shard, Math.max(timeUs, latest.get(shard) ?? 0))
      for (const [from, timeUs] of latest) {
        if (!(await hasPassed(pool(from), reader, timeUs))) return blocks.slice(0, i)
      }
    }
    return blocks
  }

  const running = run()
  return {
    async stop() {
      stopping.abort()
      await running
    },
  }
}

/** Half of it is chance, so that nodes that failed together don't come back together. @param failures before, one after the other */
export function backoffMs(failures: number): number {
  return Math.min(RETRY_MS_MAX, RETRY_MS * 2 ** Math.min(failures, 10)) * (0.5 + Math.random() / 2)
}
