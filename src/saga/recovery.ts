import type { Reader } from '../ledger/reader.ts'
import type { BegunSaga, SagaPlace } from '../ledger/sql/sagas.ts'

const INTERVAL_MS = 1_000
/** A saga is in good hands for so long; later, whoever began it may be gone. */
const AGE_MS_MIN = 5_000
/** Sagas taken up a round and shard at most. */
const RESUMED_MAX = 500
/** Sagas looked at a round and shard. */
const PAGE = 5_000
const REST_MS = 15_000

export type RecoveryOptions = {
  /** Has `start` called for each shard, also for those that are added. */
  onShard: (start: (reader: Pick<Reader, 'sagasInFlight' | 'begunSagas'>) => void) => void
  isRunning: (id: string) => boolean
  /** Takes a saga up; fails when that came to nothing. */
  resume: (begun: BegunSaga) => Promise<unknown>
  onTrouble: (error: unknown) => void
}

/**
 * Looks for sagas that nobody ended, every second on every shard, and takes them up: those of nodes that crashed, and those that
 * waited for a shard for too long. That several nodes take up one is harmless. A shard that can't be reached delays no other.
 */
export function startRecovery({ onShard, isRunning, resume, onTrouble }: RecoveryOptions): { stop(): Promise<void> } {
  const loops: (() => Promise<void>)[] = []
  onShard((reader) => {
    let timer: NodeJS.Timeout | undefined
    let isStopped = false
    let round: Promise<void> = Promise.resolve()

    /** Sagas that could not be ended a while ago, and until when they rest: others have their turn. */
    const resting = new Map<string, number>()
    /** Where the last round left off; from the end it goes back to the oldest. */
    let place: SagaPlace | undefined

    async function recover(): Promise<void> {
      const nowMs = Date.now()
      for (const [id, untilMs] of resting) if (untilMs < nowMs) resting.delete(id)
      const page = await reader.sagasInFlight({ beforeUs: (nowMs - AGE_MS_MIN) * 1000, after: place, limit: PAGE })
      const left = page.filter(({ id }) => !isRunning(id) && !resting.has(id)).slice(0, RESUMED_MAX)
      place = left.length === RESUMED_MAX ? left.at(-1) : page.length === PAGE ? page.at(-1) : undefined
      if (left.length === 0) return
      for (const begun of await reader.begunSagas(left.map(({ id }) => id))) {
        if (isStopped) return
        resume(begun).catch(() => resting.set(begun.saga.id, Date.now() + REST_MS))
      }
    }
    function schedule(): void {
      if (isStopped) return
      timer = setTimeout(
        () => {
          round = recover().catch(onTrouble).then(schedule)
        },
        INTERVAL_MS * (0.5 + Math.random()),
      )
    }
    schedule()
    loops.push(async () => {
      isStopped = true
      clearTimeout(timer)
      await round
    })
  })
  return {
    async stop() {
      await Promise.all(loops.map((stop) => stop()))
    },
  }
}
