import { formatTime } from '../core/time.ts'
import type { Completed } from './activity.ts'

const COUNTED = ['transfer', 'top-up', 'withdrawal', 'reversal'] as const
type Counted = (typeof COUNTED)[number]

/** What was completed of a kind, in a currency, on a day. */
export type Total = {
  readonly tenantId: string
  /** UTC: `2026-01-31`. */
  readonly day: string
  readonly currency: string
  readonly kind: Counted
  readonly number: bigint
  /** Minor units. */
  readonly amount: bigint
}

/**
 * The totals of what was completed, in the order of their keys. A transfer between several wallets is one, in each currency that it moved.
 * Holds and their ends are no transfers, so they are not counted.
 */
export function totalsOf(completed: readonly Completed[]): Total[] {
  const totals = new Map<string, Total>()
  for (const { tenantId, timeUs, data } of completed) {
    const kind = COUNTED.find((one) => one === data.kind)
    if (!kind) continue
    const day = formatTime(timeUs).slice(0, 10)
    for (const [currency, movements] of Map.groupBy(data.movements, (movement) => movement.currency)) {
      const key = [tenantId, day, currency, kind].join(' ')
      const known = totals.get(key) ?? { tenantId, day, currency, kind, number: 0n, amount: 0n }
      const amount = movements.reduce((sum, movement) => sum + BigInt(movement.amount), known.amount)
      totals.set(key, { ...known, number: known.number + 1n, amount })
    }
  }
  return [...totals].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, total]) => total)
}
