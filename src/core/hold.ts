import type { Refusal } from './refusal.ts'

/** Money reserved now, captured once (fully or in part, the rest is let go), released, or expired. */
export type Hold = {
  readonly id: string
  readonly tenantId: string
  readonly from: string
  readonly to: string
  readonly amount: bigint
  readonly currency: string
  /** Microseconds since 1970; from then on it can no longer be captured. */
  readonly expiresAtUs: number
  readonly status: 'held' | 'captured' | 'released' | 'expired'
  readonly captured: bigint
}

/** The state of a hold → the refusal of whoever wants to end it once more. */
export function endedRefusal(hold: Hold): Refusal | undefined {
  switch (hold.status) {
    case 'held':
      return undefined
    case 'captured':
      return 'hold_already_captured'
    case 'released':
      return 'hold_already_released'
    case 'expired':
      return 'hold_expired'
    default:
      return hold.status satisfies never
  }
}

/** Why a hold can't be captured at this time, by this amount. */
export function captureRefusal(hold: Hold, amount: bigint, nowUs: number): Refusal | undefined {
  const ended = endedRefusal(hold)
  if (ended) return ended
  if (nowUs >= hold.expiresAtUs) return 'hold_expired'
  return amount > hold.amount ? 'exceeds_hold' : undefined
}
