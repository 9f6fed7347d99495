import {
  BrokenCircuitError,
  BulkheadRejectedError,
  bulkhead,
  CircuitState,
  CountBreaker,
  circuitBreaker,
  ExponentialBackoff,
  handleWhen,
  wrap,
} from 'cockatiel'
import { ConnectionLost, failureOf } from '../postgres/connect.ts'

/** Too many calls wait for a database already: this one was not begun, and may be asked again. */
export class ReadsSaturated extends Error {}

/** What stands before the reads of one database. */
export type ReadGuard = {
  /** @throws ReadsSaturated; ConnectionLost at once while the breaker is open; what `work` throws */
  run<T>(work: () => Promise<T>): Promise<T>
  readonly breaker: CircuitState
}

export type ReadGuardOptions = {
  /** As many as there are connections. */
  atOnceMax: number
  waitingMax?: number
  /** How long the breaker stays open at first and at most; longer each time that a try has failed. */
  openMs?: number
  openMsMax?: number
}

/** The breaker does not open before so many calls were made; of fewer connections as many as there are. */
const CALLS_MIN = 5

/**
 * A bulkhead and a breaker: what waits is bounded, and while the database is silent callers are told so at once, instead of after the time
 * that each would wait. Nothing is tried again here: whoever asks knows whether that is of use.
 */
export function createReadGuard({
  atOnceMax,
  waitingMax = 500,
  openMs = 500,
  openMsMax = 5_000,
}: ReadGuardOptions): ReadGuard {
  // When every connection has met silence, more than half of these did: it is time to stop asking, whatever was answered before.
  const window = 2 * atOnceMax - 1
  const breaker = circuitBreaker(
    handleWhen((error) => failureOf(error) === 'unreachable'),
    {
      halfOpenAfter: new ExponentialBackoff({ initialDelay: openMs, maxDelay: openMsMax }),
      breaker: new CountBreaker({
        threshold: 0.5,
        size: window,
        minimumNumberOfCalls: Math.min(CALLS_MIN, atOnceMax),
      }),
    },
  )
  const policy = wrap(bulkhead(atOnceMax, waitingMax), breaker)

  return {
    async run(work) {
      try {
        // The policy would have this one wait for the one that is being tried.
        if (breaker.state === CircuitState.HalfOpen) throw new BrokenCircuitError()
        return await policy.execute(work)
      } catch (error) {
        if (error instanceof BulkheadRejectedError)
          throw new ReadsSaturated(`${waitingMax} calls wait for the database already`, { cause: error })
        if (error instanceof BrokenCircuitError)
          throw new ConnectionLost('the database was silent lately and is not asked for a moment', { cause: error })
        throw error
      }
    },
    get breaker() {
      return breaker.state
    },
  }
}
