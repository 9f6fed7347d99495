import {
  BrokenCircuitError,
  CircuitState,
  ConsecutiveBreaker,
  circuitBreaker,
  DelegateBackoff,
  handleWhenResult,
} from 'cockatiel'
import { LRUCache } from 'lru-cache'

/** A call was not made: its host could not be reached lately. */
export type PutOff = {
  /** It is tried again in so long, at the earliest. */
  readonly putOffMs: number
  /** It is being tried right now: whether it can be reached will be known then. */
  readonly isBeingTried: boolean
}

/**
 * What stands before the calls to hosts: a breaker for each. It opens when a host could not be *reached* several times in a row: its name
 * leads nowhere, or no connection comes about, TLS included. What comes after that is the endpoint's own affair, an answer that is an
 * error or late too: no endpoint is to suffer from another one behind the same host. After a while one call is the trial.
 */
export type HostGuard = {
  /**
   * Makes a call, or puts it off.
   * @param host whatever stands for it
   * @param work makes the call; says so as soon as the host is reached, and not at all if it was not
   * @throws what `work` throws
   */
  run<T extends object>(host: string, work: (onReached: () => void) => Promise<T>): Promise<T | PutOff>
  /** How many are not called now, or only to try. */
  readonly unreachable: number
}

export type HostGuardOptions = {
  /** So many hosts are known at once. */
  readonly hostsMax?: number
}

type Known = {
  readonly breaker: ReturnType<typeof circuitBreaker>
  /** Times in a row that it was not reached. */
  readonly failures: ConsecutiveBreaker
  /** Calls of which it is not known whether they reach it, or that are under way. */
  calls: number
  /** Milliseconds since 1970: not called before. */
  againMs: number
}

/** Five deliveries of one endpoint are under way at once, at most: a blip is no more than that. */
export const FAILURES_MAX = 5
/** How long a breaker stays open at first; twice as long each time that a trial has failed. */
export const OPEN_MS = 1_000
/** Half of what an endpoint rests that has been failing for long: of one that is alone on its host, every attempt is made by then. */
export const OPEN_MS_MAX = 30_000
/** It takes a trial no longer than that to reach a host, as a rule. */
export const TRIAL_MS = 1_000
/** It is open for up to this share less, so that nodes and hosts do not try together. */
const JITTER = 0.25
/** Nothing is kept of hosts that are reached. Of others so many are known, and so long after the last call; then it begins anew. */
const HOSTS_MAX = 5_000
export const KNOWN_MS = 600_000

export function createHostGuard({ hostsMax = HOSTS_MAX }: HostGuardOptions = {}): HostGuard {
  // By the clock that cockatiel goes by.
  const perf = { now: () => Date.now() }
  const hosts = new LRUCache<string, Known>({ max: hostsMax, ttl: KNOWN_MS, updateAgeOnGet: true, perf })

  function knownOf(host: string): Known {
    const found = hosts.get(host)
    if (found) return found
    const failures = new ConsecutiveBreaker(FAILURES_MAX)
    const breaker = circuitBreaker(
      handleWhenResult((isReached) => isReached === false),
      {
        breaker: failures,
        halfOpenAfter: new DelegateBackoff(({ attempt }) => {
          const openMs = Math.min(OPEN_MS * 2 ** (attempt - 1), OPEN_MS_MAX) * (1 - JITTER * Math.random())
          known.againMs = Date.now() + openMs
          return openMs
        }),
      },
    )
    const known: Known = { breaker, failures, calls: 0, againMs: 0 }
    hosts.set(host, known)
    return known
  }

  return {
    async run<T extends object>(host: string, work: (onReached: () => void) => Promise<T>) {
      const known = knownOf(host)
      const { breaker, failures } = known
      const made = Promise.withResolvers<T>()
      known.calls++
      try {
        // The policy would have this one wait for the one that is being tried.
        if (breaker.state === CircuitState.HalfOpen) throw new BrokenCircuitError()
        await breaker.execute(() => {
          const reached = Promise.withResolvers<boolean>()
          const onEnd = () => reached.resolve(false)
          made.resolve(work(() => reached.resolve(true)))
          made.promise.then(onEnd, onEnd)
          return reached.promise
        })
        return await made.promise
      } catch (error) {
        if (!(error instanceof BrokenCircuitError)) throw error
        const isBeingTried = breaker.state === CircuitState.HalfOpen
        const openMs = Math.min(Math.max(known.againMs - Date.now(), 0), OPEN_MS_MAX)
        return { putOffMs: isBeingTried ? TRIAL_MS : openMs, isBeingTried }
      } finally {
        known.calls--
        const isFine = breaker.state === CircuitState.Closed && failures.state === 0
        if (isFine && known.calls === 0 && hosts.peek(host) === known) hosts.delete(host)
      }
    },
    get unreachable() {
      return [...hosts.values()].filter(({ breaker }) => breaker.state !== CircuitState.Closed).length
    },
  }
}
