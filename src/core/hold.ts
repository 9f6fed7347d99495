import type { Refusal } from './refusal.ts'

/**
 * `pending`: reserved here, the payee's shard has not agreed yet; `refused`, it did not agree; `capturing`: the payee's shard is being
 * asked. These three are of holds between shards only. `moved`: it goes on on the shard that its payer has moved to.
 */
export type HoldStatus = 'pending' | 'refused' | 'held' | 'capturing' | 'captured' | 'released' | 'expired' | 'moved'

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
  readonly status: HoldStatus
  readonly captured: bigint
}

/** The state of a hold → the refusal of whoever wants to end it once more; `busy` while that is being decided. */
export function endedRefusal(hold: Hold): Refusal | 'busy' | undefined {
  switch (hold.status) {
    case 'held':
      return undefined
    case 'pending':
    case 'capturing':
    case 'moved':
      return 'busy'
    case 'refused':
      return 'hold_not_found'
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
export function captureRefusal(hold: Hold, amount: bigint, nowUs: number): Refusal | 'busy' | undefined {
  const ended = endedRefusal(hold)
  if (ended) return ended
  if (nowUs >= hold.expiresAtUs) return 'hold_expired'
  return amount > hold.amount ? 'exceeds_hold' : undefined
}
