import type { Outcome } from '../core/post.ts'
import { isRelocation } from '../core/relocation.ts'
import type { Operation, Request } from '../core/request.ts'
import { createFairQueue } from './fairQueue.ts'
import { LedgerUnavailable, type Poster } from './poster.ts'
import { beginPost, endPost, inBlock, type PostSpans } from './spans.ts'

/** Too many wait: nothing was done, and the same request may be sent again. */
export class QueueFull extends Error {}

/** Gathers requests into batches for one shard's poster. */
export type Batcher = {
  /**
   * Queues a request until its block is durable.
   * @param isPatient nobody waits for it: it leaves half of what its tenant may have waiting to those who are waited for
   * @throws QueueFull, at once, or later when it has to make room for another tenant; LedgerUnavailable at once while the database is not
   * taking blocks, or later, when the outcome is not known
   */
  submit(request: Request, isPatient?: boolean): Promise<Outcome>
  /** How many wait, not counting those that are being posted. */
  readonly depth: number
  /** How long the one that has waited longest has waited, in milliseconds, those that are being posted included; 0 if none. */
  readonly oldestMs: number
  /** Whether blocks go through, as far as is known: `open` if not, so that what comes is refused at once. */
  readonly breaker: 'closed' | 'open'
  /** Ends when all that was queued has been answered. Nothing should be submitted meanwhile. */
  drain(): Promise<void>
}

export type BatcherOptions = {
  post: Poster['post']
  /** The number of the shard, for traces. */
  shard?: number
  /** How many may wait at most; beyond, submit throws. */
  queueMax?: number
  /** Requests in a batch at most. */
  batchMax?: number
  /** Milliseconds, from any beginning. */
  now?: () => number
}

/** Movements in a batch at most, so that a thousand transfers of a hundred legs are not one block. */
const BATCH_MOVEMENTS_MAX = 4_000
/** A second batch is decided while the first is being written, but only when that many wait: each block has a fixed cost. */
const OVERLAP_MIN = 16
const IN_FLIGHT_MAX = 2
/** What was taken out of the queue should not have waited for longer; if it has for so long a time, the queue is kept short. */
const WAIT_MS = 500
const WAIT_SEEN_MS = 100
/** A block that takes so long will hardly be there before the time of whoever comes now is up. */
const STALL_MS = 5_000
/** Nothing is under way and the last batch failed: so long until the next may try. */
const RETRY_MS = 1_000

/** A transfer has so many legs at most (the routes see to it), and a reversal takes all of them back: how many isn't known here. */
const REVERSAL_MOVEMENTS = 100

function movementCount(operation: Operation): number {
  if (operation.kind === 'reversal') return REVERSAL_MOVEMENTS
  if (operation.kind === 'transfer') return operation.legs.length
  return 'saga' in operation ? operation.saga.legs.length : 1
}

/** What ends something that was begun: it goes before what is new, or the new would only make more of it. */
function isUrgent(operation: Operation): boolean {
  return 'saga' in operation || operation.kind === 'expiry' || isRelocation(operation)
}

type Waiting = {
  request: Request
  spans?: PostSpans
  cost: number
  sinceMs: number
  resolve: (outcome: Outcome) => void
  reject: (error: Error) => void
}

/**
 * A bounded queue in front of the poster. There is no timer: an idle batcher posts a request the moment it comes, a busy
 * one posts whatever came while the block before was being written (group commit).
 *
 *   fair        Tenants take turns (fairQueue.ts); when the queue is full, the one with most in it makes room for the others.
 *   short       When requests wait for longer than half a second, and go on to, more come than go: each tenant may then have no more waiting
 *               than its part of one block, and is told at once (after CoDel, RFC 8289: what counts is how long things have waited when
 *               they leave, so a database that stands still for two seconds alone is no reason to refuse anything).
 *   patient     What nobody waits for is let in up to half of such a part, always: so it never takes the room of what the same tenant waits for.
 *   open        While no block goes through, nobody new is let wait in vain. The batch that is under way is the trial; if there is none,
 *               the next request after a second is.
 *
 * Steps of sagas, expiries and moves of slots, which end what was begun, go before all that is new, and wait even then: there are no more of
 * them than whoever sends them lets be under way.
 */
export function createBatcher({
  post,
  shard,
  queueMax = 20_000,
  batchMax = 1_000,
  now = () => performance.now(),
}: BatcherOptions): Batcher {
  const queue = createFairQueue<Waiting>(({ cost }) => cost)
  /** The batches that are being posted, with when they were taken. */
  const inFlight = new Map<readonly Waiting[], number>()
  let onIdle: (() => void)[] = []
  let isScheduled = false
  /** Since when what leaves the queue has waited for too long. */
  let slowSinceMs: number | undefined
  /** When the last batch failed, if it did. */
  let failedMs: number | undefined

  function takeBatch(): Waiting[] {
    const batch = queue.take(batchMax, BATCH_MOVEMENTS_MAX)
    const nowMs = now()
    const waitedMs = nowMs - batch.reduce((first, { sinceMs }) => Math.min(first, sinceMs), nowMs)
    if (waitedMs < WAIT_MS || queue.size === 0) slowSinceMs = undefined
    else slowSinceMs ??= nowMs
    return batch
  }

  async function postBatch(batch: Waiting[]): Promise<void> {
    inFlight.set(batch, now())
    try {
      const traced = batch.flatMap(({ spans }) => spans ?? [])
      const results = await inBlock(traced, () => post(batch.map(({ request }) => request)))
      failedMs =
        results.length > 0 && results.every((result) => result instanceof LedgerUnavailable) ? now() : undefined
      batch.forEach(({ spans, resolve, reject }, i) => {
        const result = results[i]
        if (spans) endPost(spans, result)
        if (result === undefined) reject(new Error('the poster left a request without a result'))
        else if (result instanceof Error) reject(result)
        else resolve(result)
      })
    } catch (error) {
      for (const { spans, reject } of batch) {
        if (spans) endPost(spans, new Error('posting failed'))
        reject(new Error('posting failed', { cause: error }))
      }
    }
    inFlight.delete(batch)
    pump()
  }

  function pump(): void {
    isScheduled = false
    while (queue.size > 0 && inFlight.size < (queue.size >= OVERLAP_MIN ? IN_FLIGHT_MAX : 1))
      void postBatch(takeBatch())
    if (queue.size === 0 && inFlight.size === 0) {
      for (const done of onIdle) done()
      onIdle = []
    }
  }

  function isOpen(): boolean {
    const nowMs = now()
    for (const sinceMs of inFlight.values()) if (nowMs - sinceMs > STALL_MS) return true
    if (failedMs === undefined) return false
    return inFlight.size > 0 || queue.size > 0 || nowMs - failedMs < RETRY_MS
  }

  /** Sees to it that there is room for one more of this tenant's. @throws QueueFull */
  function makeRoom(line: string | undefined, isPatient: boolean): void {
    const own = line === undefined ? 0 : queue.lengthOf(line)
    if (line !== undefined && own > 0) {
      const part = batchMax / queue.lines
      const isSlow = slowSinceMs !== undefined && now() - slowSinceMs > WAIT_SEEN_MS
      if (isSlow && own >= part) throw new QueueFull('more comes in than can be posted')
      if (isPatient && own >= part / 2) throw new QueueFull('the rest of the room is for others')
    }
    if (queue.size < queueMax) return
    const longest = queue.longest()
    if (!longest || own + 1 >= longest.length) throw new QueueFull(`${queueMax} requests are waiting already`)
    const dropped = queue.dropNewest(longest.line)
    if (!dropped) return
    const full = new QueueFull('it had to make room for other tenants')
    if (dropped.spans) endPost(dropped.spans, full)
    dropped.reject(full)
  }

  return {
    submit(request, isPatient = false) {
      const line = isUrgent(request.operation) ? undefined : request.tenantId
      if (line !== undefined && isOpen()) throw new LedgerUnavailable('the ledger database takes no blocks at present')
      makeRoom(line, isPatient)
      const cost = movementCount(request.operation)
      const answer = new Promise<Outcome>((resolve, reject) =>
        queue.push({ ...beginPost(request, shard), cost, sinceMs: now(), resolve, reject }, line),
      )
      // What arrives in the same turn of the event loop goes together.
      if (!isScheduled && inFlight.size < IN_FLIGHT_MAX) {
        isScheduled = true
        setImmediate(pump)
      }
      return answer
    },
    get depth() {
      return queue.size
    },
    get oldestMs() {
      const nowMs = now()
      let oldestMs = nowMs
      for (const { sinceMs } of queue.firsts()) oldestMs = Math.min(oldestMs, sinceMs)
      for (const sinceMs of inFlight.values()) oldestMs = Math.min(oldestMs, sinceMs)
      return nowMs - oldestMs
    },
    get breaker() {
      return isOpen() ? 'open' : 'closed'
    },
    drain() {
      return queue.size === 0 && inFlight.size === 0 ? Promise.resolve() : new Promise((done) => onIdle.push(done))
    },
  }
}
