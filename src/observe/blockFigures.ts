import type { Posting } from '../core/post.ts'
import type { Refusal } from '../core/refusal.ts'
import { isRelocation } from '../core/relocation.ts'
import type { Kind } from '../core/request.ts'

type Decided = Pick<Posting, 'decisions'>

/** How many requests of each kind a block accepted (`refusal` is `null`), and refused for each reason. */
export function requestsDecided({ decisions }: Decided): { kind: Kind; refusal: Refusal | null; count: number }[] {
  const counts = new Map<string, { kind: Kind; refusal: Refusal | null; count: number }>()
  for (const { record } of decisions) {
    const { kind, refusal } = record
    const name = `${kind} ${refusal}`
    const known = counts.get(name)
    if (known) known.count += 1
    else counts.set(name, { kind, refusal, count: 1 })
  }
  return [...counts.values()]
}

/**
 * What a block moved, by currency, in minor units: what wallets and the tenants' own accounts were credited with. Money that goes to another
 * shard is counted where it arrives, and wallets that move with their money are not.
 */
export function moneyMoved({
  decisions,
  changes,
}: Decided & { changes: Pick<Posting['changes'], 'accounts'> }): Map<string, bigint> {
  const moved = new Map<string, bigint>()
  for (const { request, entries } of decisions) {
    if (isRelocation(request.operation)) continue
    for (const { layer, amount, accountId, currency } of entries) {
      if (layer !== 'posted' || amount <= 0n || changes.accounts.get(accountId)?.kind === 'transit') continue
      moved.set(currency, (moved.get(currency) ?? 0n) + amount)
    }
  }
  return moved
}

/** How the sagas ended that a block ended, on the shard where they began. */
export function sagasEnded({
  decisions,
  changes,
}: Decided & { changes: Pick<Posting['changes'], 'sagasEnded'> }): Map<'completed' | 'compensated', number> {
  const ended = new Map<'completed' | 'compensated', number>()
  if (changes.sagasEnded.length === 0) return ended
  const ids = new Set(changes.sagasEnded)
  for (const { request, record } of decisions) {
    const { operation } = request
    if (!('saga' in operation) || record.refusal !== null || !ids.has(operation.saga.id)) continue
    if (operation.kind !== 'saga-finalize' && operation.kind !== 'saga-release') continue
    const outcome = operation.kind === 'saga-finalize' ? 'completed' : 'compensated'
    ended.set(outcome, (ended.get(outcome) ?? 0) + 1)
  }
  return ended
}
