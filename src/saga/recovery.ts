import type { Saga } from '../core/saga.ts'
import type { Reader } from '../ledger/reader.ts'

const INTERVAL_MS = 1_000
/** A saga is in good hands for so long; later, whoever began it may be gone. */
const AGE_MS_MIN = 5_000
/** Sagas taken up a round and shard at most. */
const RESUMED_MAX = 500

export type RecoveryOptions = {
  readers: readonly Pick<Reader, 'sagasInFlight' | 'begunSagas'>[]
  isRunning: (id: string) => boolean
  /** Takes a saga up. @param begunUs microseconds since 1970 */
  resume: (saga: Saga, begunUs: number) => void
  onTrouble: (error: unknown) => void
}

/**
 * Looks for sagas that nobody ended, every second on every shard, and takes them up: those of nodes that crashed, and those that
 * waited for a shard for too long. That several nodes take up one is harmless. A shard that can't be reached delays no other.
 */
export function startRecovery({ readers, isRunning, resume, onTrouble }: RecoveryOptions): { stop(): Promise<void> } {
  const loops = readers.map((reader) => {
    let timer: NodeJS.Timeout | undefined
    let isStopped = false
    let round: Promise<void> = Promise.resolve()

    async function recover(): Promise<void> {
      const ids = await reader.sagasInFlight((Date.now() - AGE_MS_MIN) * 1000)
      const left = ids.filter((id) => !isRunning(id)).slice(0, RESUMED_MAX)
      if (left.length === 0) return
      for (const { saga, begunUs } of await reader.begunSagas(left)) if (!isStopped) resume(saga, begunUs)
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
    return async () => {
      isStopped = true
      clearTimeout(timer)
      await round
    }
  })
  return {
    async stop() {
      await Promise.all(loops.map((stop) => stop()))
    },
  }
}
