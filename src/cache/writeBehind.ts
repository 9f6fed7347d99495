import { type CachedBalance, isNewer } from './cache.ts'

/** What waits to be written to the cache, of each wallet the newest. */
export type WriteBehind = {
  /** Never throws, never waits. */
  add(balances: readonly CachedBalance[]): void
  /** What still waits of a wallet, or is just being written. */
  newest(walletId: string): CachedBalance | undefined
  /** Whether the last write failed: what waits may be old. */
  readonly isBehind: boolean
  readonly waiting: number
  /** How many were dropped because too many waited. */
  readonly dropped: number
  /** Ends when all that waits has been written, or the time is over; nothing is written after it. */
  close(waitMsMax: number): Promise<void>
}

export type WriteBehindOptions = {
  /** Writes a batch, within a bounded time. @throws if it may not have been written */
  write(balances: readonly CachedBalance[]): Promise<void>
  /** How many wallets may wait. */
  waitingMax: number
}

const BATCH_MAX = 250
const RETRY_MS = 100
const RETRY_MS_MAX = 2_000

/**
 * Writes in the background, one batch at a time; what comes meanwhile is the next batch, and of a wallet that changes often only the newest is
 * in it. A batch that fails stays, and is tried again after a pause: so what was posted while the cache was away is put right when it comes back.
 *
 * If more wallets wait than may, those that wait for the longest are dropped. The cache then has an older balance of them, or none. The older one
 * stays until the wallet's next change, the bus's word of this one, or its age takes it away, whichever comes first. It can't come back after
 * that, as newer wins.
 */
export function createWriteBehind({ write, waitingMax }: WriteBehindOptions): WriteBehind {
  /** In the order in which they came, the oldest first. */
  const waiting = new Map<string, CachedBalance>()
  let dropped = 0
  let failures = 0
  let isWriting = false
  let isClosed = false
  let timer: NodeJS.Timeout | undefined
  let onEmpty: (() => void) | undefined

  async function writeAll(): Promise<void> {
    isWriting = true
    while (waiting.size > 0 && !isClosed) {
      const batch = waiting.values().take(BATCH_MAX).toArray()
      try {
        await write(batch)
        failures = 0
      } catch {
        failures += 1
        break
      }
      for (const balance of batch) {
        if (waiting.get(balance.walletId) === balance) waiting.delete(balance.walletId)
      }
    }
    isWriting = false
    if (waiting.size === 0) onEmpty?.()
    else if (!isClosed) schedule(Math.min(RETRY_MS_MAX, RETRY_MS * 2 ** failures) * (0.5 + Math.random() / 2))
  }

  function schedule(delayMs: number): void {
    timer = setTimeout(() => {
      timer = undefined
      void writeAll()
    }, delayMs)
    timer.unref()
  }

  return {
    add(balances) {
      if (isClosed) return
      for (const balance of balances) {
        const known = waiting.get(balance.walletId)
        if (known && !isNewer(balance, known)) continue
        waiting.delete(balance.walletId)
        waiting.set(balance.walletId, balance)
      }
      for (const id of waiting.keys()) {
        if (waiting.size <= waitingMax) break
        waiting.delete(id)
        dropped += 1
      }
      // Blocks that are told of in the same turn of the event loop go together.
      if (waiting.size > 0 && !isWriting && !timer) schedule(0)
    },
    newest: (walletId) => waiting.get(walletId),
    get isBehind() {
      return failures > 0
    },
    get waiting() {
      return waiting.size
    },
    get dropped() {
      return dropped
    },
    async close(waitMsMax) {
      if (waiting.size > 0 && !isClosed) {
        clearTimeout(timer)
        if (!isWriting) void writeAll()
        let deadline: NodeJS.Timeout | undefined
        await new Promise<void>((done) => {
          onEmpty = done
          deadline = setTimeout(done, waitMsMax)
        })
        clearTimeout(deadline)
      }
      isClosed = true
      clearTimeout(timer)
    },
  }
}
