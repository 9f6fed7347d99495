import { type BulkheadPolicy, bulkhead } from 'cockatiel'
import type { Balance } from '../ledger/sql/balances.ts'
import type { HistoryEntry } from '../ledger/sql/history.ts'
import type { Router } from '../shards/router.ts'
import type { Feed } from './feed.ts'

/** What there is to say of a wallet, in order. `sequence` is the number of the last entry that it tells of, or has in it. */
export type WalletEvent =
  | { readonly kind: 'entry'; readonly sequence: number; readonly entry: HistoryEntry }
  | { readonly kind: 'balance'; readonly sequence: number; readonly walletId: string; readonly balance: Balance }

/** Follows wallets, of any number of readers. */
export type Follow = (wallet: FollowedWallet) => AsyncGenerator<readonly WalletEvent[], void, void>

export type FollowedWallet = {
  readonly tenantId: string
  readonly walletId: string
  /** Begins after this entry; without it, with the balance as it is. */
  readonly after: number | undefined
  /** Ends it. */
  readonly signal: AbortSignal
}

export type FollowOptions = {
  router: Pick<Router, 'read' | 'shardOf'>
  feed: Feed
  /** How often it looks by itself, whatever the feed says. */
  lookMs?: number
  /** Told of reads that failed; they are made again. */
  onTrouble?: (error: unknown) => void
}

const LOOK_MS = 5_000
/** However much happens, a wallet is read no more often than this. */
const PAUSE_MS = 100
/** Entries that are read, and told of, at once. */
const PAGE_MAX = 100
/** Reads that run at once, of each shard: other readers want its database too. Those that wait are no more than there are streams. */
const READS_MAX = 3

/**
 * Reads what happens to wallets from the ledger, as it happens: each round tells of the entries since the last one, oldest first, and then of the
 * balance, if anything is new. Entries come once each and without a gap, whatever the feed does and wherever the wallet goes. Some are left out, as
 * in the list of entries; the balance comes all the same.
 *
 * The first balance always comes, also if nothing is new: who was cut off may have seen an entry and not the balance after it.
 *
 * It reads when it is asked for more, and not ahead: who is slow costs no memory. It ends when the signal says so, or the wallet is not there.
 */
export function createFollow({ router, feed, lookMs = LOOK_MS, onTrouble = () => {} }: FollowOptions): Follow {
  const bulkheads = new Map<number, BulkheadPolicy>()

  /** Reads where the wallet is, when it is its turn. */
  function read<T>(walletId: string, work: Parameters<typeof router.read<T>>[1]): Promise<T> {
    const shard = router.shardOf(walletId)
    const turns = bulkheads.get(shard) ?? bulkhead(READS_MAX, Number.POSITIVE_INFINITY)
    bulkheads.set(shard, turns)
    return turns.execute(() => router.read(walletId, work))
  }

  return async function* follow({ tenantId, walletId, after, signal }) {
    const alarm = createAlarm(signal)
    let last = after
    let isFirst = true

    /** @returns whether the wallet is there */
    async function* round(): AsyncGenerator<readonly WalletEvent[], boolean, void> {
      const balance = await read(walletId, ({ reader }) => reader.balance(tenantId, walletId))
      if (!balance) return false
      const { version } = balance
      // Who begins without a number, or with one that was never given, begins here.
      let told = Math.min(last ?? version, version)
      const isNew = isFirst || told < version
      while (told < version && !signal.aborted) {
        const range = { after: told, upTo: version, limit: PAGE_MAX }
        const entries = await read(walletId, ({ reader }) => reader.entriesAfter(walletId, range))
        told = entries.length === PAGE_MAX ? (entries.at(-1)?.sequence ?? version) : version
        last = entries.at(-1)?.sequence ?? last
        if (entries.length > 0) yield entries.map((entry) => ({ kind: 'entry', sequence: entry.sequence, entry }))
      }
      if (signal.aborted) return true
      last = version
      isFirst = false
      if (isNew) yield [{ kind: 'balance', sequence: version, walletId, balance }]
      return true
    }

    const unwatch = feed.watch(walletId, (version) => {
      if (version === undefined || last === undefined || version > last) alarm.ring()
    })
    try {
      while (!signal.aborted) {
        try {
          if (!(yield* round())) return
          await alarm.pause(PAUSE_MS)
          await alarm.wait(lookMs * (0.75 + Math.random() / 2))
        } catch (error) {
          if (!signal.aborted) onTrouble(error)
          await alarm.pause(lookMs)
        }
      }
    } finally {
      unwatch()
    }
  }
}

/** Something to be woken by: what rings before somebody waits is heard when he does. */
function createAlarm(signal: AbortSignal) {
  let hasRung = false
  let onRing: (() => void) | undefined
  function sleep(ms: number, isWoken: boolean): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer)
        signal.removeEventListener('abort', done)
        onRing = undefined
        resolve()
      }
      const timer = setTimeout(done, ms)
      signal.addEventListener('abort', done)
      if (isWoken) onRing = done
      if (signal.aborted || (isWoken && hasRung)) done()
    })
  }
  return {
    ring() {
      hasRung = true
      onRing?.()
    },
    /** Waits until it rings, or for so long. */
    async wait(ms: number) {
      await sleep(ms, true)
      hasRung = false
    },
    /** Waits for so long, whatever rings. */
    pause: (ms: number) => sleep(ms, false),
  }
}
