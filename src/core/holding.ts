import type { Account } from './account.ts'
import { captureRefusal, endedRefusal, type Hold } from './hold.ts'
import {
  acrossShards,
  balanceRefusalOf,
  begin,
  endsOf,
  type PostingContext,
  sagaFor,
  standingOf,
  statusRefusal,
  type Verdict,
} from './move.ts'
import type { Operation, Request } from './request.ts'
import type { Workspace } from './workspace.ts'

/** Reserves money for a payee; between shards, once the payee's shard agrees. */
export function placeHold(
  work: Workspace,
  request: Request,
  { leg, expiresInSeconds }: Extract<Operation, { kind: 'hold' }>,
  context: PostingContext,
): Verdict {
  const { id, tenantId } = request
  const standing = standingOf(work, request, [leg], context)
  if (standing) return standing
  const expiresAtUs = context.nowUs + expiresInSeconds * 1_000_000
  const hold: Hold = { id, tenantId, ...leg, expiresAtUs, status: 'held', captured: 0n }
  const legs = acrossShards([leg], context)
  if (legs) {
    const verdict = begin(work, sagaFor(request, ['hold', 'hold'], legs, context), context, { expiresAtUs })
    if (typeof verdict !== 'string' && !('refusal' in verdict)) work.holds.set(id, { ...hold, status: 'pending' })
    return verdict
  }
  const { payer, payee } = endsOf(work, tenantId, leg, context)
  const refusal = balanceRefusalOf(payer, payee, leg.amount)
  if (refusal) return { refusal }
  work.move(payer, -leg.amount, 'pending')
  work.move(payee, leg.amount, 'pending')
  work.holds.set(id, hold)
  return { result: { expiresAtUs } }
}

/** Takes what a hold reserved, all or a part; the rest is free again. */
export function capture(
  work: Workspace,
  request: Request,
  operation: Extract<Operation, { kind: 'capture' }>,
  context: PostingContext,
): Verdict {
  const { tenantId } = request
  const hold = work.hold(operation.holdId)
  if (!hold || hold.tenantId !== tenantId) return { refusal: 'hold_not_found' }
  const amount = operation.amount ?? hold.amount
  const refusal = captureRefusal(hold, amount, context.nowUs)
  if (refusal) return refusal === 'busy' ? 'busy' : { refusal }
  // Not before: the payee of a hold that was refused need not be anybody, and its slot may have come here since.
  const { payer, payee } = endsOf(work, tenantId, hold, context)
  const standing = statusRefusal(payer, payee)
  if (standing) return { refusal: standing }
  const legs = acrossShards([hold], context)
  if (legs) {
    work.holds.set(hold.id, { ...hold, status: 'capturing' })
    return begin(
      work,
      { ...sagaFor(request, ['capture', 'capture'], legs, context), holdId: hold.id, captured: amount },
      context,
    )
  }
  endPending(work, payer, payee, hold)
  work.move(payer, -amount, 'posted')
  work.move(payee, amount, 'posted')
  return endHold(work, { ...hold, status: 'captured', captured: amount })
}

/** Releases a hold, or expires it. What was reserved is free again, whatever has become of the wallets meanwhile. */
export function letGo(
  work: Workspace,
  request: Request,
  { kind, holdId }: Extract<Operation, { kind: 'release' | 'expiry' }>,
  context: PostingContext,
): Verdict {
  const hold = work.hold(holdId)
  if (!hold || hold.tenantId !== request.tenantId) return { refusal: 'hold_not_found' }
  const ended = endedRefusal(hold)
  if (ended === 'busy') return 'busy'
  if (ended) return { refusal: ended }
  if (kind === 'expiry' && context.nowUs < hold.expiresAtUs) return { refusal: 'hold_not_expired' }
  const { result } = endHold(work, { ...hold, status: kind === 'release' ? 'released' : 'expired' })
  const legs = acrossShards([hold], context)
  if (legs) return begin(work, { ...sagaFor(request, ['let-go', kind], legs, context), holdId }, context, result)
  const { payer, payee } = endsOf(work, hold.tenantId, hold, context)
  endPending(work, payer, payee, hold)
  return { result }
}

function endPending(work: Workspace, payer: Account, payee: Account, hold: Hold): void {
  work.move(payer, hold.amount, 'pending', true)
  work.move(payee, -hold.amount, 'pending', true)
}

/** The hold as it ended is recorded as the result, so that a replay can show it without looking further. */
export function endHold(work: Workspace, hold: Hold): { result: object } {
  work.holds.set(hold.id, hold)
  return { result: { hold: { ...hold, amount: `${hold.amount}`, captured: `${hold.captured}` } } }
}
