import type { Balance } from '../ledger/sql/balances.ts'

/**
 * The port to a balance cache. What is in it was true once: it shows balances, and never decides whether money may move.
 *
 * A cache keeps one entry a wallet, the newest that it was given (`isNewer`). So it doesn't matter in which order writes come, from
 * how many nodes, how late or how often: what was read before a block never takes the place of what was written after it. An entry
 * goes only by its age, by `forget`, or with the server that held it.
 */
export type BalanceCache = {
  /**
   * The newest entry, of whichever tenant; `undefined` if there is none. The caller compares the tenant.
   * @throws if the cache does not answer, or not in time
   */
  read(walletId: string): Promise<Cached | undefined>
  /**
   * Writes each entry unless a newer one is there. One that is not written leaves the age of the newer one as it is.
   * @throws if the cache does not answer, or not in time; any of them may have been written
   */
  write(entries: readonly Cached[]): Promise<void>
  /**
   * Writes each entry that is newer than the one that is there; where there is none, nothing: what comes late may be long out of date, and
   * would be shown as if it were not.
   * @throws as `write`
   */
  repair(entries: readonly CachedBalance[]): Promise<void>
  /** @throws if the cache does not answer, or not in time; any of them may be forgotten */
  forget(walletIds: readonly string[]): Promise<void>
  close(): Promise<void>
}

/** A balance, and whose. `version` is the number of the account's last entry; it never falls, not even when a wallet moves. */
export type CachedBalance = Balance & { readonly tenantId: string; readonly walletId: string }

/** A tenant asked for a wallet that it doesn't have: so that asking again costs no look-up. Remembered for seconds. */
export type Missing = {
  readonly tenantId: string
  readonly walletId: string
  readonly missing: true
  /** When the ledger was asked, microseconds since 1970. */
  readonly asOfUs: number
}

export type Cached = CachedBalance | Missing

/** How long entries live. Each lives somewhat shorter or longer, so that what was written together doesn't go together. */
export type Lifetimes = { readonly balanceMs: number; readonly missingMs: number }

/**
 * A balance lives for ten minutes: that is how long it may be wrong if nothing ever says that it has changed, for every path by which
 * that is said can lose its message but the bus.
 */
export const LIFETIMES: Lifetimes = { balanceMs: 600_000, missingMs: 5_000 }
const JITTER = 0.2

/** How long this entry is to live: its kind's lifetime, give or take 20 %; whole milliseconds, at least 1. */
export function lifetimeMs(entry: Cached, { balanceMs, missingMs }: Lifetimes, chance = Math.random()): number {
  const lifeMs = isMissing(entry) ? missingMs : balanceMs
  return Math.max(1, Math.round(lifeMs * (1 - JITTER + 2 * JITTER * chance)))
}

export function isMissing(entry: Cached): entry is Missing {
  return 'missing' in entry
}

/** Of a wallet that nobody has: before the version of any that is there. */
export const MISSING_VERSION = -1

export function versionOf(entry: Cached): number {
  return isMissing(entry) ? MISSING_VERSION : entry.version
}

/**
 * Whether an entry takes the place of another of the same wallet: it has a higher version; or the same one and was seen later, which says
 * that nothing has changed since. A wallet that is there is newer than none.
 */
export function isNewer(entry: Cached, known: Cached): boolean {
  const step = versionOf(entry) - versionOf(known)
  return step > 0 || (step === 0 && entry.asOfUs > known.asOfUs)
}
