import type { Outcome } from '../core/post.ts'
import type { Payload, RequestRecord } from '../core/request.ts'
import {
  decide,
  evolve,
  initialState,
  isOver,
  type PartOutcome,
  type Reason,
  type Saga,
  type SagaEvent,
  type Step,
} from '../core/saga.ts'

/** How a saga ended, as its coordinator recorded it. */
export type SagaEnd = {
  readonly status: 'completed' | 'compensated'
  /** Why it came to nothing. */
  readonly reason: Reason | null
  /** The time of the block, microseconds since 1970. */
  readonly timeUs: number
  /** What the last step recorded, as JSON. */
  readonly result: string | null
}

/** This node left off; the saga stands where it stands, and any node may take it up. */
export class SagaInterrupted extends Error {}

export type RunOptions = {
  /** Has a step posted on a shard. */
  submit: (shard: number, step: Step, reason: Reason | undefined) => Promise<Outcome>
  /** Milliseconds since 1970. */
  giveUpAtMs: number
  onTrouble: (error: unknown) => void
}

const RETRY_DELAY_MS = 50
const RETRY_DELAY_MS_MAX = 2_000
/** How often a step is tried in one run. What then is left, recovery takes up. */
const ATTEMPTS_MAX = 8

/**
 * Takes a saga from its beginning to its end: sends the steps that `decide` asks for, tells `evolve` what became of them. It may run
 * any number of times, on any number of nodes, at once: each step is decided once, and says so to everyone.
 * @returns `end` throws SagaInterrupted when a step could not be posted for long, or the run was stopped
 */
export function runSaga(
  saga: Saga,
  { submit, giveUpAtMs, onTrouble }: RunOptions,
): { end: Promise<SagaEnd>; stop(): void } {
  let interrupt = () => {}
  const promise = new Promise<SagaEnd>((resolve, reject) => {
    let state = initialState(saga)
    let end: SagaEnd | undefined
    const sent = new Set<string>()
    const timers = new Set<NodeJS.Timeout>()

    const after = (ms: number, work: () => void) => {
      const timer = setTimeout(() => {
        timers.delete(timer)
        work()
      }, ms)
      timers.add(timer)
    }
    const stop = (work: () => void) => {
      for (const timer of timers) clearTimeout(timer)
      timers.clear()
      isStopped = true
      work()
    }
    let isStopped = false
    interrupt = () => stop(() => reject(new SagaInterrupted('this node stops')))

    function happen(event: SagaEvent): void {
      state = evolve(state, event)
      if (isOver(state)) stop(() => (end ? resolve(end) : reject(new Error(`saga ${saga.id} ended without a record`))))
      else advance()
    }

    function advance(): void {
      for (const { shard, step, reason } of decide(state)) {
        const name = `${step} ${shard}`
        if (sent.has(name)) continue
        sent.add(name)
        void send(shard, step, reason, 1)
      }
    }

    async function send(shard: number, step: Step, reason: Reason | undefined, attempt: number): Promise<void> {
      try {
        const outcome = await submit(shard, step, reason)
        if (isStopped) return
        if (step === 'finalize' || step === 'release') {
          if (shard === saga.shard) end = endOf(outcome.record)
          happen({ type: 'ended', shard })
        } else {
          happen({ type: 'part', shard, ...partOf(outcome.record) })
        }
      } catch (error) {
        if (isStopped) return
        onTrouble(error)
        if (attempt === ATTEMPTS_MAX) {
          stop(() => reject(new SagaInterrupted(`${step} on shard ${shard} cannot be posted`, { cause: error })))
          return
        }
        const delayMs = Math.min(RETRY_DELAY_MS_MAX, RETRY_DELAY_MS * 2 ** attempt) * (0.5 + Math.random() / 2)
        after(delayMs, () => void send(shard, step, reason, attempt + 1))
      }
    }

    after(Math.max(0, giveUpAtMs - Date.now()), () => happen({ type: 'give-up' }))
    advance()
  })
  return { end: promise, stop: () => interrupt() }
}

/** What a shard decided of its part, whoever asked: the record under the part's key. */
export function partOf({ kind, refusal, result }: RequestRecord): { outcome: PartOutcome; leg?: number } {
  if (kind === 'saga-cancel') return { outcome: 'cancelled' }
  if (refusal === null) return { outcome: 'accepted' }
  const { leg } = (JSON.parse(result ?? '{}') ?? {}) as { leg?: number }
  return leg === undefined ? { outcome: refusal } : { outcome: refusal, leg }
}

/** How a saga ended, by the record of its last step. */
export function endOf({ kind, payload, result, timeUs }: RequestRecord): SagaEnd {
  const isDone = kind === 'saga-finalize'
  const reason = isDone ? null : ((JSON.parse(payload) as Payload).reason ?? null)
  return { status: isDone ? 'completed' : 'compensated', reason, timeUs, result }
}
