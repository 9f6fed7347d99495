/**
 * What becomes of a delivery after an attempt: pure, the clock and chance come in as data. The schedule is the one that Standard
 * Webhooks 1.0.0 gives as its example; it spans three days.
 */

const SECOND_MS = 1_000
const MINUTE_MS = 60 * SECOND_MS
const HOUR_MS = 60 * MINUTE_MS

/** Between one attempt and the next. */
export const DELAYS_MS: readonly number[] = [
  5 * SECOND_MS,
  5 * MINUTE_MS,
  30 * MINUTE_MS,
  2 * HOUR_MS,
  5 * HOUR_MS,
  10 * HOUR_MS,
  14 * HOUR_MS,
  20 * HOUR_MS,
  24 * HOUR_MS,
]
/** Delays are longer by up to this share, so that what failed together does not come back together. */
const JITTER = 0.2
/** What is asked for by Retry-After is heeded up to here. */
export const RETRY_AFTER_MS_MAX = HOUR_MS

/** What an endpoint answered; `status` is `null` when it did not. */
export type Answer = {
  readonly status: number | null
  /** The header, if there was one. */
  readonly retryAfter: string | null
  /** If nobody was asked, because the host could not be reached lately: how long that will be so. */
  readonly putOffMs?: number
}

/** What is to be done now. */
export type Verdict =
  | { readonly kind: 'delivered' }
  /** Again, then. While `restUntilMs` is not over, the endpoint wants nothing at all. */
  | { readonly kind: 'retry'; readonly atMs: number; readonly restUntilMs: number | null }
  | { readonly kind: 'dead'; readonly restUntilMs: number | null }
  /** The endpoint wants nothing any more. */
  | { readonly kind: 'gone' }

/**
 * @param tries attempts so far, this one included: 1 after the first
 * @param nowMs milliseconds since 1970
 * @param chance 0 to 1
 */
export function judge({ status, retryAfter, putOffMs }: Answer, tries: number, nowMs: number, chance: number): Verdict {
  if (status !== null && status >= 200 && status <= 299) return { kind: 'delivered' }
  if (status === 410) return { kind: 'gone' }
  const askedMs = status === 429 || status === 503 ? retryAfterMs(retryAfter, nowMs) : null
  const restMs = putOffMs === undefined ? askedMs : putOffMs * (1 + JITTER * chance)
  const restUntilMs = restMs === null ? null : nowMs + restMs
  const delayMs = DELAYS_MS[tries - 1]
  if (delayMs === undefined) return { kind: 'dead', restUntilMs }
  return { kind: 'retry', atMs: nowMs + Math.max(delayMs * (1 + JITTER * chance), restMs ?? 0), restUntilMs }
}

/** How long a Retry-After (RFC 9110, 10.2.3) asks to wait, within bounds; `null` when it is none, or over. */
function retryAfterMs(text: string | null, nowMs: number): number | null {
  if (text === null) return null
  const ms = /^\d{1,9}$/.test(text) ? Number(text) * SECOND_MS : Date.parse(text) - nowMs
  return ms > 0 ? Math.min(ms, RETRY_AFTER_MS_MAX) : null
}
