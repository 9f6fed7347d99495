import { openedAccount, posted } from './account.ts'
import { capture, letGo, placeHold } from './holding.ts'
import { isMoving } from './mapChange.ts'
import { moveAll, type PostingContext, type Undecided, type Verdict, walletOf } from './move.ts'
import type { Refusal } from './refusal.ts'
import { arrive, changeMap, depart, moveHold } from './relocating.ts'
import { isRelocation } from './relocation.ts'
import { type Operation, type Request, type RequestRecord, walletsOf } from './request.ts'
import { takeStep } from './sagaStep.ts'
import { type Movement, movementsOf, type ReversalResult, reversalMovements, totalOf } from './transfer.ts'
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
  readonly outcomes: readonly (Outcome | Undecided)[]
  readonly decisions: readonly Decision[]
  /** The state after: every account, hold, transfer and record that the batch touched or made. */
  readonly changes: Pick<
    Workspace,
    | 'accounts'
    | 'opened'
    | 'settingsChanged'
    | 'holds'
    | 'transfers'
    | 'records'
    | 'sagasBegun'
    | 'sagasEnded'
    | 'isLayoutChanged'
  >
}

/**
 * Decides a batch of requests, in order; each sees what its predecessors did, each goes through whole or not at all.
 * Pure: no clock, chance or I/O; `state` is only read. The rules are in docs/posting-rules.md (design, Decide).
 */
export function post(state: State, requests: readonly Request[], context: PostingContext): Posting {
  const work = new Workspace(state)
  const decisions: Decision[] = []
  const outcomes = requests.map((request): Outcome | Undecided => {
    const { id, tenantId, scope, key, payload } = request
    const { kind } = request.operation
    const earlier = work.record(tenantId, scope, key)
    if (earlier) {
      const isSame = earlier.kind === kind && earlier.payload === payload
      return { status: isSame ? 'replayed' : 'key_reused', record: earlier }
    }
    const verdict: Verdict = misplaced(work, request, context) ?? decide(work, request, request.operation, context)
    if (typeof verdict === 'string') {
      work.rollback()
      return verdict
    }
    const refusal = 'refusal' in verdict ? verdict.refusal : null
    if (refusal !== null && mayBeOutranked(refusal, request, context)) {
      work.rollback()
      return 'ask_peers'
    }
    if (refusal !== null) work.rollback()
    const record: RequestRecord = {
      id,
      tenantId,
      kind,
      payload,
      refusal,
      result: verdict.result === undefined ? null : JSON.stringify(verdict.result),
      timeUs: context.nowUs,
    }
    work.records.set(recordName(tenantId, scope, key), record)
    decisions.push({ request, record, entries: work.commit() })
    return { status: 'decided', record }
  })
  return { outcomes, decisions, changes: work }
}

/**
 * Whether a client's request is not to be decided here, or not now, because what it names lives elsewhere or is about to. Steps of
 * sagas go on: what began before a change of the map is over before anything moves.
 */
function misplaced(
  work: Workspace,
  { id, operation }: Request,
  { shard, shardOf, open }: PostingContext,
): Undecided | undefined {
  if ('saga' in operation || isRelocation(operation)) return undefined
  if (open && [id, ...namedBy(work, operation)].some((one) => isMoving(open, one))) return 'moving'
  return shardOf(id) === shard ? undefined : 'moved'
}

/** The wallets whose accounts an operation may touch. */
function namedBy(work: Workspace, operation: Operation): string[] {
  const ends = (movements: readonly Pick<Movement, 'from' | 'to'>[]) =>
    movements.flatMap(({ from, to }) => [from, to]).filter((end) => end !== null)
  if (operation.kind === 'hold') return ends([operation.leg])
  if (operation.kind === 'wallet-update') return [operation.walletId]
  if ('holdId' in operation) return ends([work.hold(operation.holdId)].filter((hold) => hold !== undefined))
  if ('transferId' in operation) return ends(work.transfer(operation.transferId)?.movements ?? [])
  return ends(movementsOf(operation))
}

/** Whether a wallet elsewhere, if its shard were asked, could be a reason that comes before this one. */
function mayBeOutranked(refusal: Refusal, { operation, peers }: Request, { shard, shardOf }: PostingContext): boolean {
  if (peers !== undefined || refusal === 'same_wallet' || refusal === 'currency_mismatch') return false
  return walletsOf(operation).some((id) => shardOf(id) !== shard)
}

function decide(work: Workspace, request: Request, operation: Operation, context: PostingContext): Verdict {
  switch (operation.kind) {
    case 'transfer':
    case 'top-up':
    case 'withdrawal':
      return transfer(work, request, operation, context)
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
    case 'saga-reserve':
    case 'saga-commit':
    case 'saga-cancel':
    case 'saga-finalize':
    case 'saga-release':
      return takeStep(work, operation, context)
    case 'map-close':
    case 'map-depart':
    case 'map-abandon':
    case 'map-open':
      return changeMap(work, operation, context)
    case 'wallet-depart':
      return depart(work, request, operation, context)
    case 'wallet-arrive':
      return arrive(work, request, operation, context)
    case 'hold-move':
      return moveHold(work, operation, context)
    default:
      return operation satisfies never
  }
}

function transfer(
  work: Workspace,
  request: Request,
  operation: Extract<Operation, { kind: 'transfer' | 'top-up' | 'withdrawal' }>,
  context: PostingContext,
): Verdict {
  const { id, tenantId } = request
  const movements = movementsOf(operation)
  const memo = operation.kind === 'transfer' ? operation.remarks.memo : undefined
  const verdict = moveAll(work, request, movements, context, memo === undefined ? {} : { memo })
  if (typeof verdict === 'string' || 'refusal' in verdict) return verdict
  work.transfers.set(id, { id, tenantId, movements, status: verdict.result ? 'pending' : 'completed', reversed: 0n })
  return verdict
}

function reverse(
  work: Workspace,
  request: Request,
  operation: Extract<Operation, { kind: 'reversal' }>,
  context: PostingContext,
): Verdict {
  const transfer = work.transfer(operation.transferId)
  if (!transfer || transfer.tenantId !== request.tenantId || transfer.status === 'compensated') {
    return { refusal: 'transfer_not_found' }
  }
  if (transfer.status === 'pending') return 'busy'
  const movements = reversalMovements(transfer, operation.amount)
  if (typeof movements === 'string') return { refusal: movements }
  const verdict = moveAll(work, request, movements, context, { reverses: transfer.id })
  if (typeof verdict === 'string' || 'refusal' in verdict) return verdict
  work.transfers.set(transfer.id, { ...transfer, reversed: transfer.reversed + totalOf(movements) })
  const result: ReversalResult = { movements: movements.map((m) => ({ ...m, amount: `${m.amount}` })) }
  return { result: { ...result, ...verdict.result } }
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
