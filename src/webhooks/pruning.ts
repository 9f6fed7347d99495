import { connectOrShare, type Sql } from '../postgres/connect.ts'
import { pruneWebhooks } from './sql/prune.ts'

const INTERVAL_MS = 600_000
/** Between portions, while there is more. */
const PAUSE_MS = 1_000
const PORTION = 1_000
const DAY_US = 24 * 3600 * 1_000_000
/** Deliveries are kept for so long after their last change. */
export const KEPT_US = 30 * DAY_US
/** Idempotency keys of calls that make endpoints, and resend. */
export const KEYS_KEPT_US = DAY_US
const ANSWER_MS_MAX = 30_000
/** Any number that nothing else takes. */
const LOCK_KEY = 8_203_720

/** Removes old deliveries again and again, a portion at a time, one node at a time. @param place as of `openEndpoints`. @returns how to stop it */
export function startPruning(
  place: string | Sql,
  onTrouble: (error: unknown) => void,
  intervalMs = INTERVAL_MS,
): () => Promise<void> {
  const sql = connectOrShare(place, { max: 1, name: 'zerosum webhook pruning', answerMsMax: ANSWER_MS_MAX })
  let isStopped = false
  let timer: NodeJS.Timeout | undefined
  let round: Promise<void> = Promise.resolve()

  async function prune(): Promise<boolean> {
    const nowUs = Date.now() * 1000
    const times = { before: nowUs - KEPT_US, keysBefore: nowUs - KEYS_KEPT_US, nowUs }
    return await sql.begin(async (sql) => {
      const [lock] = await sql<{ taken: boolean }[]>`SELECT pg_try_advisory_xact_lock(${LOCK_KEY}) AS taken`
      return lock?.taken === true && (await pruneWebhooks(sql, { ...times, limit: PORTION })) === PORTION
    })
  }

  function schedule(hasMore: boolean): void {
    if (isStopped) return
    timer = setTimeout(
      () => {
        round = prune()
          .catch((error) => {
            onTrouble(error)
            return false
          })
          .then(schedule)
      },
      hasMore ? PAUSE_MS : intervalMs * (0.5 + Math.random()),
    )
  }

  schedule(false)
  return async () => {
    isStopped = true
    clearTimeout(timer)
    await round
    await sql.end({ timeout: 5 })
  }
}
