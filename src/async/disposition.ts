import type { Outcome } from '../core/post.ts'
import type { Request } from '../core/request.ts'
import { ReadsSaturated } from '../guard/readGuard.ts'
import { QueueFull } from '../ledger/batcher.ts'
import { LedgerUnavailable, RequestUndecided } from '../ledger/poster.ts'
import { failureOf } from '../postgres/connect.ts'
import { SagasSaturated } from '../saga/sagas.ts'

/** What is to become of a request that was taken from the queue: it is over; or it is put off; or it is set aside for people to look at. */
export type Disposition =
  | { readonly fate: 'done' }
  | { readonly fate: 'later'; readonly dueMs: number; readonly firstMs: number; readonly reason: string }
  | { readonly fate: 'dead'; readonly reason: string }

/**
 * What came of an attempt. `ended`: the key had been used before, so the ledger has no record under this id; `recordId` is the same request
 * under its own id, `null` if it was another request.
 */
export type Verdict =
  | { readonly is: 'done' }
  | { readonly is: 'ended'; readonly recordId: string | null }
  /** There is no room now. `crowded`: the shard that too many sagas wait for, which may not answer. */
  | { readonly is: 'full'; readonly crowded?: number }
  /** `doubt`: the shard that it is posted on may not answer. `away`: a shard that it needs does not answer. */
  | { readonly is: 'later'; readonly reason: string; readonly doubt?: true; readonly away?: boolean }
  | { readonly is: 'dead'; readonly reason: string }

/** Judges what the ledger said of a request. */
export function judge({ id }: Pick<Request, 'id'>, { status, record }: Pick<Outcome, 'status' | 'record'>): Verdict {
  // By this very request: it came before, and comes again.
  if (record.id === id) return { is: 'done' }
  return { is: 'ended', recordId: status === 'key_reused' ? null : record.id }
}

const REASON_MAX = 500

/** Judges what kept the ledger from saying anything. What nobody knows a way out of is for people. */
export function judgeFailure(error: unknown): Verdict {
  if (error instanceof SagasSaturated) return { is: 'full', crowded: error.shard }
  if (error instanceof QueueFull || error instanceof ReadsSaturated) return { is: 'full' }
  if (error instanceof RequestUndecided) return { is: 'later', reason: error.message }
  if (error instanceof LedgerUnavailable || failureOf(error) === 'unreachable')
    return { is: 'later', reason: 'the ledger is not available', doubt: true }
  const { message, cause } = error instanceof Error ? error : new Error(`${error}`)
  const reason = cause instanceof Error ? `${message}: ${cause.message}` : message
  return { is: 'dead', reason: reason.slice(0, REASON_MAX) }
}

const DELAY_MS = 1_000
/** What has to wait for longer than that waits for a shard that is away. */
export const DELAY_MS_MAX = 30_000
/** What waits for a shard that is known to be away, and was put off so often that it is not back soon. */
const AWAY_DELAY_MS = 300_000
const AWAY_ATTEMPTS = 6
/** So long a request is put off again and again. */
export const PUT_OFF_MS_MAX = 24 * 3600 * 1000

/**
 * Puts off, for longer each time, a day in all; then sets aside. For a shard that is away all day that makes some 300 attempts.
 * @param attempts how often it was put off before
 * @param isAway whether a shard is known not to answer
 * @param jitter 0 to 1: what failed together should not come back together
 */
export function putOff(
  { attempts, firstMs }: { attempts: number; firstMs: number | null },
  { reason, isAway }: { reason: string; isAway: boolean },
  nowMs: number,
  jitter: number,
): Disposition {
  const sinceMs = firstMs ?? nowMs
  if (nowMs - sinceMs > PUT_OFF_MS_MAX) return { fate: 'dead', reason: `put off for a day: ${reason}` }
  // All of these wait for nearly the same time: so none that is due waits behind one that is not.
  if (isAway && attempts >= AWAY_ATTEMPTS)
    return { fate: 'later', dueMs: Math.ceil(nowMs + AWAY_DELAY_MS * (0.95 + jitter / 20)), firstMs: sinceMs, reason }
  const delayMs = Math.min(DELAY_MS_MAX, DELAY_MS * 2 ** Math.min(attempts, 10)) * (0.5 + jitter / 2)
  return { fate: 'later', dueMs: Math.ceil(nowMs + delayMs), firstMs: sinceMs, reason }
}
