import { slotOfId } from '../core/ids.ts'
import { requestOf } from '../core/request.ts'
import type { Reader } from '../ledger/reader.ts'
import { newId } from '../shards/newId.ts'
import type { Router } from '../shards/router.ts'
import type { Sagas } from './sagas.ts'

const INTERVAL_MS = 1_000
const BATCH_MAX = 500
const SAGA_MS_MAX = 5_000

/**
 * Expires holds that are past their time, on every shard: each is an ordinary request of the system, so the money comes free in an
 * ordinary block. Several nodes doing it at once is harmless: the second finds the hold ended.
 * @returns how to stop it; resolves when the last round is over
 */
export function startHoldExpiry(
  { router, sagas }: { router: Router; sagas: Sagas },
  onTrouble: (error: unknown) => void,
): () => Promise<void> {
  const stops: (() => Promise<void>)[] = []
  router.onShard(({ reader }) => stops.push(startOn(reader, sagas, onTrouble)))
  return async () => {
    await Promise.all(stops.map((stop) => stop()))
  }
}

function startOn(reader: Reader, sagas: Sagas, onTrouble: (error: unknown) => void): () => Promise<void> {
  let isStopped = false
  let timer: NodeJS.Timeout | undefined
  let round: Promise<void> = Promise.resolve()

  async function expire(): Promise<void> {
    const holds = await reader.expiredHolds(Date.now() * 1000, BATCH_MAX)
    await Promise.all(
      holds.map(({ id: holdId, tenantId }) => {
        const id = newId(slotOfId(holdId))
        return sagas.submit(requestOf(id, tenantId, `expiry ${id}`, { kind: 'expiry', holdId }), SAGA_MS_MAX)
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
