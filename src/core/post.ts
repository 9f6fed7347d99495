import { type Account, available, openedAccount, posted, type SystemAccountPlace } from './account.ts'
import { captureRefusal, endedRefusal, type Hold } from './hold.ts'
import { AMOUNT_MAX } from './money.ts'
import { type Refusal, winning } from './refusal.ts'
import type { Operation, Request, RequestRecord } from './request.ts'
import { type Movement, movementsOf, OUTSIDE, type ReversalResult, reversalMovements, totalOf } from './transfer.ts'
import { type Entry, recordName, type State, Workspace } from './workspace.ts'

/**
 * `decided` now; `replayed`, the same request came before and this is what became of it; `key_reused`, another request
 * came before under this key, and nothing was done.
 */
export type Outcome = { readonly status: 'decided' | 'replayed' | 'key_reused'; readonly record: RequestRecord }

/** A request that this batch decided, and the entries of its one transaction; none if it was refused or moved nothing. */
export type Decision = {
  readonly request: Request
  readonly record: RequestRecord
  readonly entries: readonly Entry[]
}

/** What posting a batch comes to: an outcome for each request, and what the block must hold. */
export type Posting = {
  readonly outcomes: readonly Outcome[]
  readonly decisions: readonly Decision[]
  /** The state after: every account, hold, transfer and record that the batch touched or made. */
  readonly changes: Pick<Workspace, 'accounts' | 'opened' | 'settingsChanged' | 'holds' | 'transfers' | 'records'>
}

/** What a batch is posted under. */
export type PostingContext = {
  /** The time of the block, microseconds since 1970; later than the block before. */
  readonly nowUs: number
  readonly shard: number
}

/**
 * Decides a batch of requests, in order; each sees what its predecessors did, each goes through whole or not at all.
 * Pure: no clock, chance or I/O; `state` is only read. The rules are in docs/posting-rules.md (design, Decide).
 */
export function post(state: State, requests: readonly Request[], context: PostingContext): Posting {
  const work = new Workspace(state)
  const decisions: Decision[] = []
  const outcomes = requests.map((request): Outcome => {
    const { id, tenantId, scope, key, payload } = request
    const { kind } = request.operation
    const earlier = work.record(tenantId, scope, key)
    if (earlier) {
      const isSame = earlier.kind === kind && earlier.payload === payload
      return { status: isSame ? 'replayed' : 'key_reused', record: earlier }
    }
    const verdict = decide(work, request, request.operation, context)
    const isRefused = 'refusal' in verdict
    if (isRefused) work.rollback()
    const record: RequestRecord = {
      id,
      tenantId,
      kind,
      payload,
      refusal: isRefused ? verdict.refusal : null,
      result: verdict.result === undefined ? null : JSON.stringify(verdict.result),
      timeUs: context.nowUs,
    }
    work.records.set(recordName(tenantId, scope, key), record)
    decisions.push({ request, record, entries: work.commit() })
    return { status: 'decided', record }
  })
  return { outcomes, decisions, changes: work }
}

/** Accepted or refused, and what is to be recorded beside. */
type Verdict = { refusal: Refusal; result?: object } | { result?: object }

function decide(work: Workspace, request: Request, operation: Operation, context: PostingContext): Verdict {
  switch (operation.kind) {
    case 'transfer':
    case 'top-up':
    case 'withdrawal': {
      const movements = movementsOf(operation)
      const verdict = moveAll(work, request, movements, context)
      if (!('refusal' in verdict)) {
        work.transfers.set(request.id, { id: request.id, tenantId: request.tenantId, movements, reversed: 0n })
      }
      return verdict
    }
    case 'reversal':
      return reverse(work, request, operation, context)
    case 'hold':
      return placeHold(work, request, operation, context)
    case 'capture':
      return capture(work, request, operation, context)
    case 'release':
    case 'expiry':
      return letGo(work, request, operation, context)
    case 'wallet-open':
      return openWallet(work, request, operation)
    case 'wallet-update':
      return updateWallet(work, request, operation)
    default:
      return operation satisfies never
  }
}

/** Moves money on the posted layer, leg after leg, all or nothing. */
function moveAll(
  work: Workspace,
  { tenantId }: Request,
  movements: readonly Movement[],
  { shard }: PostingContext,
): Verdict {
  let refusal: Refusal | undefined
  let refusedLeg = 0
  movements.forEach((movement, leg) => {
    const won = winning(refusal, standingRefusal(work, tenantId, movement))
    if (won !== refusal) refusedLeg = leg
    refusal = won
  })
  if (refusal) return refused(refusal, movements.length, refusedLeg)

  for (const [leg, movement] of movements.entries()) {
    const { amount, currency } = movement
    const outside: SystemAccountPlace = { tenantId, shard, kind: OUTSIDE, currency }
    const from = movement.from === null ? work.systemAccount(outside) : work.account(movement.from)
    const to = movement.to === null ? work.systemAccount(outside) : work.account(movement.to)
    if (!from || !to) throw new Error('a movement without both of its accounts passed the checks')
    const balanceRefusal = balanceRefusalOf(from, to, amount, 'posted')
    if (balanceRefusal) return refused(balanceRefusal, movements.length, leg)
    work.move(from, -amount, 'posted')
    work.move(to, amount, 'posted')
  }
  return {}
}

function refused(refusal: Refusal, legCount: number, leg: number): Verdict {
  return legCount > 1 ? { refusal, result: { leg } } : { refusal }
}

/** What stands against a movement whatever the balances are. */
function standingRefusal(work: Workspace, tenantId: string, { from, to, currency }: Movement): Refusal | undefined {
  if (from === to) return 'same_wallet'
  const payer = from === null ? undefined : walletOf(work, tenantId, from)
  const payee = to === null ? undefined : walletOf(work, tenantId, to)
  if ((payer && payer.currency !== currency) || (payee && payee.currency !== currency)) return 'currency_mismatch'
  if (from !== null && !payer) return 'from_not_found'
  if (to !== null && !payee) return 'to_not_found'
  return statusRefusal(payer, payee)
}

function statusRefusal(payer: Account | undefined, payee: Account | undefined): Refusal | undefined {
  if (payer?.status === 'closed' || payee?.status === 'closed') return 'wallet_closed'
  if (payer?.status === 'frozen' || payee?.status === 'frozen') return 'wallet_frozen'
  return undefined
}

/** What the balances say against moving, or reserving, an amount. */
function balanceRefusalOf(
  from: Account,
  to: Account,
  amount: bigint,
  layer: 'posted' | 'pending',
): Refusal | undefined {
  const { transferMax } = from.limits
  const { balanceMax } = to.limits
  if (transferMax !== undefined && amount > transferMax) return 'limit_exceeded'
  if (balanceMax !== undefined && posted(to) + to.creditsPending + amount > balanceMax) return 'limit_exceeded'
  if (from.overdraftLimit !== null && available(from) - amount < -from.overdraftLimit) return 'insufficient_funds'
  const debits = layer === 'posted' ? from.debitsPosted : from.debitsPending
  const credits = layer === 'posted' ? to.creditsPosted : to.creditsPending
  return debits + amount > AMOUNT_MAX || credits + amount > AMOUNT_MAX ? 'balance_overflow' : undefined
}

function reverse(
  work: Workspace,
  request: Request,
  operation: Extract<Operation, { kind: 'reversal' }>,
  context: PostingContext,
): Verdict {
  const transfer = work.transfer(operation.transferId)
  if (!transfer || transfer.tenantId !== request.tenantId) return { refusal: 'transfer_not_found' }
  const movements = reversalMovements(transfer, operation.amount)
  if (typeof movements === 'string') return { refusal: movements }
  const verdict = moveAll(work, request, movements, context)
  if ('refusal' in verdict) return verdict
  work.transfers.set(transfer.id, { ...transfer, reversed: transfer.reversed + totalOf(movements) })
  const result: ReversalResult = { movements: movements.map((m) => ({ ...m, amount: `${m.amount}` })) }
  return { result }
}

function placeHold(
  work: Workspace,
  { id, tenantId }: Request,
  { leg, expiresInSeconds }: Extract<Operation, { kind: 'hold' }>,
  { nowUs }: PostingContext,
): Verdict {
  const standing = standingRefusal(work, tenantId, leg)
  if (standing) return { refusal: standing }
  const { payer, payee } = partiesOf(work, leg)
  const refusal = balanceRefusalOf(payer, payee, leg.amount, 'pending')
  if (refusal) return { refusal }
  work.move(payer, -leg.amount, 'pending')
  work.move(payee, leg.amount, 'pending')
  const expiresAtUs = nowUs + expiresInSeconds * 1_000_000
  work.holds.set(id, { id, tenantId, ...leg, expiresAtUs, status: 'held', captured: 0n })
  return { result: { expiresAtUs } }
}

function capture(
  work: Workspace,
  { tenantId }: Request,
  operation: Extract<Operation, { kind: 'capture' }>,
  { nowUs }: PostingContext,
): Verdict {
  const hold = work.hold(operation.holdId)
  if (!hold || hold.tenantId !== tenantId) return { refusal: 'hold_not_found' }
  const amount = operation.amount ?? hold.amount
  const { payer, payee } = partiesOf(work, hold)
  const refusal = captureRefusal(hold, amount, nowUs) ?? statusRefusal(payer, payee)
  if (refusal) return { refusal }
  if (payer.debitsPosted + amount > AMOUNT_MAX || payee.creditsPosted + amount > AMOUNT_MAX) {
    return { refusal: 'balance_overflow' }
  }
  endPending(work, payer, payee, hold)
  work.move(payer, -amount, 'posted')
  work.move(payee, amount, 'posted')
  return endHold(work, { ...hold, status: 'captured', captured: amount })
}

/** Releases a hold, or expires it. What was reserved is free again, whatever has become of the wallets meanwhile. */
function letGo(
  work: Workspace,
  { tenantId }: Request,
  { kind, holdId }: Extract<Operation, { kind: 'release' | 'expiry' }>,
  { nowUs }: PostingContext,
): Verdict {
  const hold = work.hold(holdId)
  if (!hold || hold.tenantId !== tenantId) return { refusal: 'hold_not_found' }
  const ended = endedRefusal(hold)
  if (ended) return { refusal: ended }
  if (kind === 'expiry' && nowUs < hold.expiresAtUs) return { refusal: 'hold_not_expired' }
  const { payer, payee } = partiesOf(work, hold)
  endPending(work, payer, payee, hold)
  return endHold(work, { ...hold, status: kind === 'release' ? 'released' : 'expired' })
}

function endPending(work: Workspace, payer: Account, payee: Account, hold: Hold): void {
  work.move(payer, hold.amount, 'pending', true)
  work.move(payee, -hold.amount, 'pending', true)
}

/** The hold as it ended is recorded as the result, so that a replay can show it without looking further. */
function endHold(work: Workspace, hold: Hold): Verdict {
  work.holds.set(hold.id, hold)
  return { result: { hold: { ...hold, amount: `${hold.amount}`, captured: `${hold.captured}` } } }
}

function openWallet(
  work: Workspace,
  { id, tenantId }: Request,
  { currency, overdraftLimit, limits }: Extract<Operation, { kind: 'wallet-open' }>,
): Verdict {
  work.open(openedAccount({ id, tenantId, kind: 'wallet', currency, overdraftLimit, limits }))
  return {}
}

function updateWallet(
  work: Workspace,
  { tenantId }: Request,
  operation: Extract<Operation, { kind: 'wallet-update' }>,
): Verdict {
  const wallet = walletOf(work, tenantId, operation.walletId)
  if (!wallet) return { refusal: 'to_not_found' }
  if (wallet.status === 'closed') return { refusal: 'wallet_closed' }
  const isEmpty = posted(wallet) === 0n && wallet.debitsPending === 0n && wallet.creditsPending === 0n
  if (operation.status === 'closed' && !isEmpty) return { refusal: 'wallet_not_empty' }
  if (operation.status !== undefined || operation.limits !== undefined) work.settingsChanged.add(wallet.id)
  wallet.status = operation.status ?? wallet.status
  wallet.limits = operation.limits ?? wallet.limits
  return {}
}

/** A wallet of this tenant; what belongs to others, and what is no wallet, is not there for it. */
function walletOf(work: Workspace, tenantId: string, id: string): Account | undefined {
  const account = work.account(id)
  return account?.kind === 'wallet' && account.tenantId === tenantId ? account : undefined
}

function partiesOf(work: Workspace, { from, to }: { from: string; to: string }): { payer: Account; payee: Account } {
  const payer = work.account(from)
  const payee = work.account(to)
  if (!payer || !payee) throw new Error(`hold between accounts that are not loaded: ${from}, ${to}`)
  return { payer, payee }
}
