import type { SystemAccount } from './account.ts'
import type { Kind, Operation, Payload } from './request.ts'

/** A movement as the ledger sees it: `null` stands for the tenant's cash account, money outside the wallets. */
export type Movement = {
  readonly from: string | null
  readonly to: string | null
  readonly amount: bigint
  readonly currency: string
}

/** The system account that `null` stands for in a movement. */
export const OUTSIDE: SystemAccount = 'cash'

/** An accepted transfer, as much of it as a reversal needs. */
export type Transfer = {
  readonly id: string
  readonly tenantId: string
  readonly movements: readonly Movement[]
  /** Between shards it is not completed at once, and may come to nothing. */
  readonly status: 'pending' | 'completed' | 'compensated'
  /** How much of it has been reversed so far, 0 to its total. */
  readonly reversed: bigint
}

/** The movements that a transfer, top-up or withdrawal asks for; none for what moves money otherwise. */
export function movementsOf(operation: Operation): readonly Movement[] {
  switch (operation.kind) {
    case 'transfer':
      return operation.legs
    case 'top-up':
      return [{ from: null, to: operation.walletId, amount: operation.amount, currency: operation.currency }]
    case 'withdrawal':
      return [{ from: operation.walletId, to: null, amount: operation.amount, currency: operation.currency }]
    default:
      return []
  }
}

/** The result that is recorded with an accepted reversal: what moved back. */
export type ReversalResult = {
  movements: { from: string | null; to: string | null; amount: string; currency: string }[]
}

/** The movements of a transfer as it was recorded; `null` if that kind of request is not a transfer. */
export function recordedMovements(kind: Kind, payload: Payload, result: unknown): Movement[] | null {
  switch (kind) {
    case 'transfer':
      return (payload.legs ?? []).map((leg) => ({ ...leg, amount: BigInt(leg.amount) }))
    case 'top-up':
    case 'withdrawal': {
      const walletId = payload.walletId ?? null
      const amount = BigInt(payload.amount ?? 0)
      const currency = payload.currency ?? ''
      return [{ from: kind === 'top-up' ? null : walletId, to: kind === 'top-up' ? walletId : null, amount, currency }]
    }
    case 'reversal':
      return ((result as ReversalResult | null)?.movements ?? []).map((m) => ({ ...m, amount: BigInt(m.amount) }))
    default:
      return null
  }
}

/** The sum of a transfer's movements, in minor units whatever their currency: what `reversed` is counted against. */
export function totalOf(movements: readonly Movement[]): bigint {
  return movements.reduce((sum, movement) => sum + movement.amount, 0n)
}

/**
 * The movements that take a transfer back, last leg first.
 * @param amount how much to take back of a single movement; `undefined` is all that is left
 * @returns a refusal if nothing is left, or less than `amount`, or a part is asked of a transfer of several legs
 */
export function reversalMovements(
  transfer: Transfer,
  amount: bigint | undefined,
): Movement[] | 'already_reversed' | 'exceeds_reversible' {
  const left = totalOf(transfer.movements) - transfer.reversed
  if (left <= 0n) return 'already_reversed'
  const isSingle = transfer.movements.length === 1
  if (amount !== undefined && (amount > left || !isSingle)) return 'exceeds_reversible'
  return transfer.movements
    .map(({ from, to, amount: moved, currency }) => ({
      from: to,
      to: from,
      amount: isSingle ? (amount ?? left) : moved,
      currency,
    }))
    .reverse()
}
