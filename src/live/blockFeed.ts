import { setTimeout as sleep } from 'node:timers/promises'
import type { Shard } from '../shards/shard.ts'
import type { Feed } from './feed.ts'
import { createWatchers } from './watchers.ts'

/** As much of a shard as this reads. */
type Chain = { readonly number: number; readonly reader: Pick<Shard['reader'], 'headNumber' | 'changedWallets'> }

export type BlockFeedOptions = {
  /** Those that there are, as of now. */
  shards: () => readonly Chain[]
  /** Told when a shard can't be read: once, until it can be again. */
  onTrouble?: (error: unknown) => void
}

/** How often a shard with news is asked for more, and one without; and one that fails. */
const POLL_MS = 200
const IDLE_POLL_MS_MAX = 1_000
const TROUBLE_POLL_MS_MAX = 5_000
/** Who is so far behind does not read what has changed: all who wait look for themselves. */
const BLOCKS_MAX = 200
const WALLETS_MAX = 5_000

/**
 * The feed without a broker: as long as somebody waits, it looks at each shard's chain for new blocks, and reads which wallets they have
 * changed. A shard that is slow holds up no other.
 */
export function createBlockFeed({ shards, onTrouble = () => {} }: BlockFeedOptions): Feed {
  const closing = new AbortController()
  const { signal } = closing
  const following = new Map<number, Promise<void>>()
  const watchers = createWatchers(followAll)

  function followAll(): void {
    for (const chain of signal.aborted ? [] : shards()) {
      if (following.has(chain.number)) continue
      const done = follow(chain).finally(() => {
        following.delete(chain.number)
        // Somebody may have come in the very moment in which it ended.
        if (watchers.size > 0) followAll()
      })
      following.set(chain.number, done)
    }
  }

  /** Goes on until nobody waits any more. */
  async function follow(chain: Chain): Promise<void> {
    let head: number | undefined
    let isTroubled = false
    let pauseMs = POLL_MS
    while (watchers.size > 0 && !signal.aborted) {
      try {
        const before = head
        head = await look(chain, before)
        pauseMs = head === before ? Math.min(IDLE_POLL_MS_MAX, pauseMs * 1.25) : POLL_MS
        isTroubled = false
      } catch (error) {
        if (!isTroubled && !signal.aborted) onTrouble(error)
        isTroubled = true
        pauseMs = Math.min(TROUBLE_POLL_MS_MAX, pauseMs * 2)
      }
      // Shards may have been added.
      followAll()
      await sleep(pauseMs * (0.75 + Math.random() / 2), undefined, { signal, ref: false }).catch(() => {})
    }
  }

  /** @param head that was seen last; `undefined` if none was yet. @returns the one that is there now */
  async function look({ reader }: Chain, head: number | undefined): Promise<number> {
    const number = await reader.headNumber()
    if (number === head) return number
    const wallets =
      head === undefined || number - head > BLOCKS_MAX
        ? undefined
        : await reader.changedWallets({ after: head, upTo: number, limit: WALLETS_MAX })
    if (wallets === undefined || wallets.length === WALLETS_MAX) watchers.wakeAll()
    else watchers.wake(wallets)
    return number
  }

  return {
    watch: watchers.add,
    tell: watchers.wake,
    async close() {
      closing.abort()
      watchers.clear()
      await Promise.all(following.values())
    },
  }
}
