import {
  BrokenCircuitError,
  type BulkheadPolicy,
  BulkheadRejectedError,
  bulkhead,
  CircuitState,
  CountBreaker,
  circuitBreaker,
  ExponentialBackoff,
  handleAll,
  TimeoutStrategy,
  timeout,
  wrap,
} from 'cockatiel'
import { ReadsSaturated } from '../guard/readGuard.ts'
import type { Balance } from '../ledger/sql/balances.ts'
import { type BalanceCache, type Cached, type CachedBalance, isMissing, isNewer } from './cache.ts'
import { createWriteBehind } from './writeBehind.ts'

/** Where an answer comes from. */
export type Source = 'cache' | 'database'

/** `balance` is `undefined` if the tenant has no such wallet. */
export type BalanceAnswer = { readonly balance: Balance | undefined; readonly source: Source }

/** Balances as they are shown: from the cache if it has them, else from the database. */
export type Balances = {
  /**
   * @param options.strong asks the database: all that was committed before the call is in the answer
   * @throws ReadsSaturated; whatever `load` throws. Never because of the cache
   */
  read(tenantId: string, walletId: string, options?: { strong?: boolean }): Promise<BalanceAnswer>
  /**
   * What a block has changed, wallets that it opened included (at version 0), as they are after it. To be called when the block is
   * committed and not before. Returns at once, never throws; written in the background.
   */
  afterCommit(changes: readonly CachedBalance[]): void
  /** What was counted since the start, and how things are now. */
  readonly counters: BalanceCounters
  /** Writes what waits to be written, for a second at most. The cache itself is closed by whoever made it. */
  close(): Promise<void>
}

export type BalanceCounters = {
  /** Reads that the cache answered, and those that it could have but did not. Strong reads are neither. */
  readonly hits: number
  readonly misses: number
  /** Strong reads: they don't ask it. */
  readonly strong: number
  /** Calls of the cache that failed or came too late; not those that the breaker held back. */
  readonly errors: number
  /** Loads from the database, those of strong reads included; and those that were refused. */
  readonly loads: number
  readonly rejected: number
  /** Of the breakers of reads and of writes, whichever is worse: 0 closed (all is well), 1 open, 2 half open. */
  readonly breakerState: number
  /** Changes that wait to be written, and those that were dropped because too many did. */
  readonly writesWaiting: number
  readonly writesDropped: number
}

export type BalancesOptions = {
  cache: BalanceCache
  /** From the database, as it is now; `undefined` if the tenant has no such wallet. */
  load(tenantId: string, walletId: string): Promise<Balance | undefined>
  /** Which database that will be: each has its own limit, so that a slow one holds up no others. */
  shardOf?: (walletId: string) => number
  /** Loads that run at once, and that wait, of each shard. */
  loadsMax?: number
  loadsWaitingMax?: number
  /** How long a read waits for the cache. */
  cacheMsMax?: number
  /** How long a write in the background does. */
  writeMsMax?: number
  /** How many changed wallets may wait to be written. */
  writesWaitingMax?: number
  breaker?: {
    /** It opens when more than half of the last so many calls have failed. */
    window?: number
    /** Not before so many were made. */
    callsMin?: number
    /** How long it stays open at first and at most; it is longer each time that a try has failed. */
    openMs?: number
    openMsMax?: number
  }
  /** Microseconds since 1970. */
  clockUs?: () => number
}

/** Answers from the database that are on their way to the cache; beyond, the cache goes without. */
const FILLS_MAX = 64
const CLOSE_MS_MAX = 1_000

/**
 * Reads through the cache.
 *
 *   the cache has it        that is the answer
 *   it doesn't              one load for all who ask at once, its answer goes into the cache
 *   it is late, or fails    the same; and when more than half of the reads fail, the breaker opens
 *   the breaker is open     the same at once. Now and then a read is tried on the cache beside it, and nobody waits for that: if it is
 *                           answered, the breaker closes
 *
 * Writes have a breaker of their own: they may take ten times as long, so a cache that is too slow to be read would be taken for well by them.
 * While it is open nothing that the cache says is believed: one that is full, or became a replica, is read as ever and hears of no change.
 *
 * What this node has posted itself it also shows, though it may not have been written yet: a client that posts and then reads here finds what it did.
 */
export function createBalances({
  cache,
  load,
  shardOf = () => 0,
  loadsMax = 4,
  loadsWaitingMax = 500,
  cacheMsMax = 50,
  writeMsMax = 500,
  writesWaitingMax = 20_000,
  breaker: { window = 20, callsMin = 5, openMs = 500, openMsMax = 5_000 } = {},
  clockUs = () => Date.now() * 1000,
}: BalancesOptions): Balances {
  const count = { hits: 0, misses: 0, strong: 0, errors: 0, loads: 0, rejected: 0 }
  let fills = 0
  const flights = new Map<string, Promise<Balance | undefined>>()
  const bulkheads = new Map<number, BulkheadPolicy>()

  const guardOf = (msMax: number) => {
    const breaker = circuitBreaker(handleAll, {
      halfOpenAfter: new ExponentialBackoff({ initialDelay: openMs, maxDelay: openMsMax }),
      breaker: new CountBreaker({ threshold: 0.5, size: window, minimumNumberOfCalls: callsMin }),
    })
    return { breaker, policy: wrap(breaker, timeout(msMax, TimeoutStrategy.Aggressive)) }
  }
  const reading = guardOf(cacheMsMax)
  const writing = guardOf(writeMsMax)
  const isClosed = ({ breaker }: typeof reading) => breaker.state === CircuitState.Closed

  /** Has the cache do something. @throws BrokenCircuitError at once if it is not worth trying; else what went wrong */
  async function guarded<T>({ breaker, policy }: typeof reading, work: () => Promise<T>): Promise<T> {
    // The policy would have this one wait for the one that is being tried.
    if (breaker.state === CircuitState.HalfOpen) throw new BrokenCircuitError()
    try {
      return await policy.execute(work)
    } catch (error) {
      if (!(error instanceof BrokenCircuitError)) count.errors += 1
      throw error
    }
  }

  const changes = createWriteBehind({
    write: (balances) => guarded(writing, () => cache.write(balances)),
    waitingMax: writesWaitingMax,
  })

  async function readCache(walletId: string): Promise<Cached | undefined> {
    // Other nodes' changes may be missing in what can't be written. What is loaded instead is tried to be written, so that ends by itself.
    if (isClosed(reading) && !isClosed(writing)) return undefined
    const answer = guarded(reading, () => cache.read(walletId)).catch(() => undefined)
    // What is tried while the breaker is open is only tried: what the cache says then is for the breaker.
    return isClosed(reading) && isClosed(writing) ? await answer : undefined
  }

  /**
   * What the cache says, or this node knows better; `undefined` if neither does.
   * @param before what waited to be written when the read began: it may be written, and wait no more, while the cache answers
   */
  async function recall(walletId: string, before: CachedBalance | undefined): Promise<Cached | undefined> {
    const cached = await readCache(walletId)
    const own = changes.newest(walletId) ?? before
    if (!own || (cached && !isNewer(own, cached))) return cached
    // It has waited for a while, and others may have posted since.
    return changes.isBehind ? undefined : own
  }

  function bulkheadOf(walletId: string): BulkheadPolicy {
    const shard = shardOf(walletId)
    let found = bulkheads.get(shard)
    if (!found) {
      found = bulkhead(loadsMax, loadsWaitingMax)
      bulkheads.set(shard, found)
    }
    return found
  }

  async function loadBounded(tenantId: string, walletId: string): Promise<Balance | undefined> {
    try {
      return await bulkheadOf(walletId).execute(() => {
        count.loads += 1
        return load(tenantId, walletId)
      })
    } catch (error) {
      if (!(error instanceof BulkheadRejectedError)) throw error
      count.rejected += 1
      throw new ReadsSaturated(`${loadsWaitingMax} reads wait for the database already`, { cause: error })
    }
  }

  async function loadAndFill(tenantId: string, walletId: string): Promise<Balance | undefined> {
    const askedUs = clockUs()
    const balance = await loadBounded(tenantId, walletId)
    fill(balance ? { ...balance, tenantId, walletId } : { tenantId, walletId, missing: true, asOfUs: askedUs })
    return balance
  }

  /** In the background. A late one does no harm: newer wins. */
  function fill(entry: Cached): void {
    if (fills >= FILLS_MAX || !isClosed(reading)) return
    fills += 1
    guarded(writing, () => cache.write([entry]))
      .catch(() => {}) // counted; the next read loads it again
      .finally(() => {
        fills -= 1
      })
  }

  /** One load for all who ask while it runs. Tenants don't share: the answer depends on who asks. */
  function loadOnce(tenantId: string, walletId: string): Promise<Balance | undefined> {
    const name = `${tenantId} ${walletId}`
    let flight = flights.get(name)
    if (!flight) {
      flight = loadAndFill(tenantId, walletId).finally(() => flights.delete(name))
      flights.set(name, flight)
    }
    return flight
  }

  return {
    async read(tenantId, walletId, { strong = false } = {}) {
      // A load that has begun already may not have seen what was committed since, so a strong read joins none.
      if (strong) {
        count.strong += 1
        return { balance: await loadAndFill(tenantId, walletId), source: 'database' }
      }
      const before = changes.newest(walletId)
      const cached = await recall(walletId, before)
      const answer = cached && answerFor(tenantId, cached)
      if (answer) {
        count.hits += 1
        return answer
      }
      count.misses += 1
      const loaded = await loadOnce(tenantId, walletId)
      // The load that was joined may have begun before the caller's own change was committed.
      const own = changes.newest(walletId) ?? before
      const isOwn = own && own.tenantId === tenantId && (!loaded || own.version > loaded.version)
      return isOwn ? { balance: balanceOf(own), source: 'cache' } : { balance: loaded, source: 'database' }
    },
    afterCommit: (balances) => changes.add(balances),
    get counters() {
      return {
        ...count,
        breakerState: worst(reading.breaker.state, writing.breaker.state),
        writesWaiting: changes.waiting,
        writesDropped: changes.dropped,
      }
    },
    close: () => changes.close(CLOSE_MS_MAX),
  }
}

/** Of two breakers: open before half open before closed. */
function worst(one: CircuitState, other: CircuitState): CircuitState {
  return (
    [CircuitState.Open, CircuitState.HalfOpen].find((state) => state === one || state === other) ?? CircuitState.Closed
  )
}

/**
 * What an entry says to a tenant; `undefined` if it says nothing. A wallet belongs to one tenant for good, so the others don't have it; that one
 * tenant doesn't have it says nothing to another.
 */
function answerFor(tenantId: string, cached: Cached): BalanceAnswer | undefined {
  const isTheirs = cached.tenantId === tenantId
  if (isMissing(cached)) return isTheirs ? { balance: undefined, source: 'cache' } : undefined
  return { balance: isTheirs ? balanceOf(cached) : undefined, source: 'cache' }
}

function balanceOf({ currency, posted, pendingIn, pendingOut, version, asOfUs }: CachedBalance): Balance {
  return { currency, posted, pendingIn, pendingOut, version, asOfUs }
}
