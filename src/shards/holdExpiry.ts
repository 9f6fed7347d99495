import { slotOfId } from '../core/ids.ts'
import { requestOf } from '../core/request.ts'
import type { Batcher } from '../ledger/batcher.ts'
import type { Reader } from '../ledger/reader.ts'
import { newId } from './newId.ts'

const INTERVAL_MS = 1_000
const BATCH_MAX = 500

/**
 * Expires holds that are past their time: each is an ordinary request of the system, so the money comes free in an
 * ordinary block. Several nodes doing it at once is harmless: the second finds the hold ended.
 * @returns how to stop it; resolves when the last round is over
 */
export function startHoldExpiry(
  { reader, batcher }: { reader: Reader; batcher: Batcher },
  onTrouble: (error: unknown) => void,
): () => Promise<void> {
  let isStopped = false
  let timer: NodeJS.Timeout | undefined
  let round: Promise<void> = Promise.resolve()

  async function expire(): Promise<void> {
    const holds = await reader.expiredHolds(Date.now() * 1000, BATCH_MAX)
    await Promise.all(
      holds.map(({ id: holdId, tenantId }) => {
        const id = newId(slotOfId(holdId))
        return batcher.submit(requestOf(id, tenantId, `expiry ${id}`, { kind: 'expiry', holdId }))
      }),
    )
  }

  function schedule(): void {
    if (isStopped) return
    timer = setTimeout(() => {
      round = expire().catch(onTrouble).then(schedule)
    }, INTERVAL_MS)
  }

  schedule()
  return async () => {
    isStopped = true
    clearTimeout(timer)
    await round
  }
}
