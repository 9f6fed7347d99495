import type { Outcome } from '../core/post.ts'
import type { Request } from '../core/request.ts'
import { ReadsSaturated } from '../guard/readGuard.ts'
import { QueueFull } from '../ledger/batcher.ts'
import { LedgerUnavailable, RequestUndecided } from '../ledger/poster.ts'
import { failureOf } from '../postgres/connect.ts'

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
  /** There is no room now. */
  | { readonly is: 'full' }
  /** `away`: the shard does not answer. */
  | { readonly is: 'later'; readonly reason: string; readonly away: boolean }
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
  if (error instanceof QueueFull || error instanceof ReadsSaturated) return { is: 'full' }
  if (error instanceof RequestUndecided) return { is: 'later', reason: error.message, away: false }
  if (error instanceof LedgerUnavailable || failureOf(error) === 'unreachable')
    return { is: 'later', reason: 'the ledger is not available', away: true }
  const { message, cause } = error instanceof Error ? error : new Error(`${error}`)
  const reason = cause instanceof Error ? `${message}: ${cause.message}` : message
  return { is: 'dead', reason: reason.slice(0, REASON_MAX) }
}

const DELAY_MS = 1_000
const DELAY_MS_MAX = 30_000
/** So long a request is put off again and again. */
export const PUT_OFF_MS_MAX = 24 * 3600 * 1000

/**
 * Puts off, for longer each time, a day in all; then sets aside.
 * @param attempts how often it was put off before
 * @param jitter 0 to 1: what failed together should not come back together
 */
export function putOff(
  { attempts, firstMs }: { attempts: number; firstMs: number | null },
  reason: string,
  nowMs: number,
  jitter: number,
): Disposition {
  const sinceMs = firstMs ?? nowMs
  if (nowMs - sinceMs > PUT_OFF_MS_MAX) return { fate: 'dead', reason: `put off for a day: ${reason}` }
  const delayMs = Math.min(DELAY_MS_MAX, DELAY_MS * 2 ** Math.min(attempts, 10)) * (0.5 + jitter / 2)
  return { fate: 'later', dueMs: Math.ceil(nowMs + delayMs), firstMs: sinceMs, reason }
}
