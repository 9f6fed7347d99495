/**
 * Why the ledger says no, in the order in which the reasons win (the HTTP contract). A refusal is a value: it is decided,
 * recorded in the block and replayed like any other outcome.
 */
export const REFUSALS = [
  'idempotency_key_reused',
  'same_wallet',
  'currency_mismatch',
  'from_not_found',
  'to_not_found',
  'hold_not_found',
  'transfer_not_found',
  'hold_already_captured',
  'hold_already_released',
  'hold_expired',
  'hold_not_expired',
  'exceeds_hold',
  'already_reversed',
  'exceeds_reversible',
  'wallet_closed',
  'wallet_frozen',
  'wallet_not_empty',
  'limit_exceeded',
  'insufficient_funds',
  'balance_overflow',
  'shard_unavailable',
] as const

export type Refusal = (typeof REFUSALS)[number]

const RANK = new Map<Refusal, number>(REFUSALS.map((code, rank) => [code, rank]))

/** Of two refusals the one that wins; `undefined` is no refusal. */
export function winning(a: Refusal | undefined, b: Refusal | undefined): Refusal | undefined {
  if (a === undefined || b === undefined) return a ?? b
  return (RANK.get(a) ?? 0) <= (RANK.get(b) ?? 0) ? a : b
}
