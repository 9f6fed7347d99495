/**
 * The ledger, written once more from docs/posting-rules.md and as naively as possible: a ledger is an immutable value that
 * remembers every entry ever made, a balance is their sum, a refusal leaves the old value. Slow and obvious on purpose;
 * src/core/post.ts must agree with it. Change it only together with the document.
 */
import { type AccountStatus, type Limits, systemAccountId } from '../../src/core/account.ts'
import { AMOUNT_MAX } from '../../src/core/money.ts'
import type { Refusal } from '../../src/core/refusal.ts'
import type { Operation, Request } from '../../src/core/request.ts'

type Layer = 'posted' | 'pending'
type Side = 'debit' | 'credit'

type ModelAccount = {
  id: string
  tenantId: string
  isWallet: boolean
  currency: string
  status: AccountStatus
  /** `null`: as low as it likes. */
  overdraftLimit: bigint | null
  limits: Limits
}

/** Debits are negative. A line that is taken back keeps its side and changes its sign. */
export type ModelEntry = { accountId: string; currency: string; layer: Layer; side: Side; amount: bigint }

/** `cash` names the account among from and to that may be there without being a wallet. */
type Movement = { from: string; to: string; amount: bigint; currency: string; cash: string | null }

type ModelHold = { id: string; tenantId: string; movement: Movement; expiresAtUs: number; status: HoldStatus }
type HoldStatus = 'held' | 'captured' | 'released' | 'expired'

type ModelTransfer = { id: string; tenantId: string; movements: readonly Movement[]; reversed: bigint }

type ModelRecord = { request: Request; refusal: Refusal | null }

export type Ledger = {
  readonly accounts: readonly ModelAccount[]
  readonly entries: readonly ModelEntry[]
  readonly holds: readonly ModelHold[]
  readonly transfers: readonly ModelTransfer[]
  readonly records: readonly ModelRecord[]
}

export const EMPTY: Ledger = { accounts: [], entries: [], holds: [], transfers: [], records: [] }

export type Circumstances = { nowUs: number; shard: number }

export type Step = {
  ledger: Ledger
  status: 'decided' | 'replayed' | 'key_reused'
  refusal: Refusal | null
  /** The request that was decided, now or earlier, under this key. */
  decided: Request
  /** What was entered by this very request. */
  entries: readonly ModelEntry[]
}

/** What becomes of the next request. */
export function step(ledger: Ledger, request: Request, at: Circumstances): Step {
  const record = ledger.records.find(
    ({ request: { tenantId, scope, key } }) =>
      tenantId === request.tenantId && scope === request.scope && key === request.key,
  )
  if (record) {
    const isSame =
      record.request.operation.kind === request.operation.kind && record.request.payload === request.payload
    return isSame
      ? { ledger, status: 'replayed', refusal: record.refusal, decided: record.request, entries: [] }
      : { ledger, status: 'key_reused', refusal: 'idempotency_key_reused', decided: record.request, entries: [] }
  }
  const outcome = decide(ledger, request, request.operation, at)
  const refusal = typeof outcome === 'string' ? outcome : null
  const after = typeof outcome === 'string' ? ledger : outcome
  return {
    ledger: { ...after, records: [...after.records, { request, refusal }] },
    status: 'decided',
    refusal,
    decided: request,
    entries: after.entries.slice(ledger.entries.length),
  }
}

/** The ledger after it, or why not. */
function decide(ledger: Ledger, request: Request, operation: Operation, at: Circumstances): Ledger | Refusal {
  switch (operation.kind) {
    case 'transfer':
      return transfer(
        ledger,
        request,
        operation.legs.map((leg) => ({ ...leg, cash: null })),
      )
    case 'top-up':
    case 'withdrawal': {
      const { walletId, amount, currency } = operation
      const cash = systemAccountId({ tenantId: request.tenantId, shard: at.shard, kind: 'cash', currency })
      const ends = operation.kind === 'top-up' ? { from: cash, to: walletId } : { from: walletId, to: cash }
      const withCash = open(ledger, {
        id: cash,
        tenantId: request.tenantId,
        isWallet: false,
        currency,
        overdraftLimit: null,
        limits: {},
      })
      return transfer(withCash, request, [{ ...ends, amount, currency, cash }])
    }
    case 'reversal':
      return reverse(ledger, request, operation.transferId, operation.amount)
    case 'hold': {
      const movement = { ...operation.leg, cash: null }
      const held = move(ledger, request.tenantId, [movement], 'pending')
      if (typeof held === 'string') return held
      const { id, tenantId } = request
      const expiresAtUs = at.nowUs + operation.expiresInSeconds * 1_000_000
      return { ...held, holds: [...held.holds, { id, tenantId, movement, expiresAtUs, status: 'held' }] }
    }
    case 'capture':
      return capture(ledger, request.tenantId, operation.holdId, operation.amount, at.nowUs)
    case 'release': {
      const hold = heldOrWhyNot(ledger, request.tenantId, operation.holdId)
      return typeof hold === 'string' ? hold : endHold(ledger, hold, 'released')
    }
    case 'expiry': {
      const hold = heldOrWhyNot(ledger, request.tenantId, operation.holdId)
      if (typeof hold === 'string') return hold
      return at.nowUs < hold.expiresAtUs ? 'hold_not_expired' : endHold(ledger, hold, 'expired')
    }
    case 'wallet-open': {
      const { currency, overdraftLimit, limits } = operation
      const { id, tenantId } = request
      return open(ledger, { id, tenantId, isWallet: true, currency, overdraftLimit, limits })
    }
    case 'wallet-update': {
      const { walletId, status, limits } = operation
      const wallet = ledger.accounts.find(
        ({ id, tenantId, isWallet }) => id === walletId && tenantId === request.tenantId && isWallet,
      )
      if (!wallet) return 'to_not_found'
      if (wallet.status === 'closed') return 'wallet_closed'
      const { posted, pendingOut, pendingIn } = balanceOf(ledger, walletId)
      if (status === 'closed' && (posted !== 0n || pendingOut !== 0n || pendingIn !== 0n)) return 'wallet_not_empty'
      const updated = { ...wallet, status: status ?? wallet.status, limits: limits ?? wallet.limits }
      return { ...ledger, accounts: ledger.accounts.map((account) => (account === wallet ? updated : account)) }
    }
    case 'saga-reserve':
    case 'saga-commit':
    case 'saga-cancel':
    case 'saga-finalize':
    case 'saga-release':
      throw new Error('sagas have a model of their own')
    case 'map-close':
    case 'map-depart':
    case 'map-abandon':
    case 'map-open':
    case 'wallet-depart':
    case 'wallet-arrive':
    case 'hold-move':
      throw new Error('one shard, and nothing moves')
    default:
      return operation satisfies never
  }
}

function open(ledger: Ledger, account: Omit<ModelAccount, 'status'>): Ledger {
  if (ledger.accounts.some(({ id }) => id === account.id)) return ledger
  return { ...ledger, accounts: [...ledger.accounts, { ...account, status: 'active' }] }
}

function transfer(ledger: Ledger, { id, tenantId }: Request, movements: Movement[]): Ledger | Refusal {
  const moved = move(ledger, tenantId, movements, 'posted')
  if (typeof moved === 'string') return moved
  return { ...moved, transfers: [...moved.transfers, { id, tenantId, movements, reversed: 0n }] }
}

function reverse(ledger: Ledger, request: Request, id: string, amount: bigint | undefined): Ledger | Refusal {
  const { tenantId } = request
  const original = ledger.transfers.find((t) => t.id === id && t.tenantId === tenantId)
  if (!original) return 'transfer_not_found'
  const left = totalOf(original.movements) - original.reversed
  if (left === 0n) return 'already_reversed'
  if (amount !== undefined && (amount > left || original.movements.length > 1)) return 'exceeds_reversible'
  const back = original.movements
    .map((movement) => ({
      ...movement,
      from: movement.to,
      to: movement.from,
      amount: original.movements.length > 1 ? movement.amount : (amount ?? left),
    }))
    .reverse()
  const moved = move(ledger, tenantId, back, 'posted')
  if (typeof moved === 'string') return moved
  const reversed = original.reversed + totalOf(back)
  return { ...moved, transfers: moved.transfers.map((t) => (t === original ? { ...t, reversed } : t)) }
}

function capture(
  ledger: Ledger,
  tenantId: string,
  id: string,
  asked: bigint | undefined,
  nowUs: number,
): Ledger | Refusal {
  const hold = heldOrWhyNot(ledger, tenantId, id)
  if (typeof hold === 'string') return hold
  if (nowUs >= hold.expiresAtUs) return 'hold_expired'
  const amount = asked ?? hold.movement.amount
  if (amount > hold.movement.amount) return 'exceeds_hold'
  const movement = { ...hold.movement, amount }
  if (hasStatus('closed', ledger, tenantId, movement)) return 'wallet_closed'
  if (hasStatus('frozen', ledger, tenantId, movement)) return 'wallet_frozen'
  return enter(endHold(ledger, hold, 'captured'), movement, 'posted', 1n)
}

function heldOrWhyNot(ledger: Ledger, tenantId: string, id: string): ModelHold | Refusal {
  const hold = ledger.holds.find((h) => h.id === id && h.tenantId === tenantId)
  if (!hold) return 'hold_not_found'
  if (hold.status === 'captured') return 'hold_already_captured'
  if (hold.status === 'released') return 'hold_already_released'
  return hold.status === 'expired' ? 'hold_expired' : hold
}

function endHold(ledger: Ledger, hold: ModelHold, status: HoldStatus): Ledger {
  const freed = enter(ledger, hold.movement, 'pending', -1n)
  return { ...freed, holds: freed.holds.map((h) => (h === hold ? { ...h, status } : h)) }
}

type Check = (ledger: Ledger, tenantId: string, movement: Movement) => boolean

/** The refusals that hold whatever the balances are, best first: over all legs the first code wins, not the first leg. */
const STANDING: readonly (readonly [Refusal, Check])[] = [
  ['same_wallet', (_ledger, _tenantId, { from, to }) => from === to],
  [
    'currency_mismatch',
    (ledger, tenantId, m) => ends(ledger, tenantId, m).some((account) => account && account.currency !== m.currency),
  ],
  ['from_not_found', (ledger, tenantId, movement) => !ends(ledger, tenantId, movement)[0]],
  ['to_not_found', (ledger, tenantId, movement) => !ends(ledger, tenantId, movement)[1]],
  ['wallet_closed', (ledger, tenantId, movement) => hasStatus('closed', ledger, tenantId, movement)],
  ['wallet_frozen', (ledger, tenantId, movement) => hasStatus('frozen', ledger, tenantId, movement)],
]

/** All movements on the layer, leg by leg, or the refusal. */
function move(ledger: Ledger, tenantId: string, movements: readonly Movement[], layer: Layer): Ledger | Refusal {
  for (const [code, isSo] of STANDING) if (movements.some((m) => isSo(ledger, tenantId, m))) return code
  let moved = ledger
  for (const movement of movements) {
    const [from, to] = ends(moved, tenantId, movement)
    if (!from || !to) throw new Error('the standing refusals let a missing account pass')
    const payer = balanceOf(moved, from.id)
    const payee = balanceOf(moved, to.id)
    const { amount } = movement
    const { transferMax } = from.limits
    const { balanceMax } = to.limits
    if (transferMax !== undefined && amount > transferMax) return 'limit_exceeded'
    if (balanceMax !== undefined && payee.posted + payee.pendingIn + amount > balanceMax) return 'limit_exceeded'
    const available = payer.posted - payer.pendingOut
    if (from.overdraftLimit !== null && available - amount < -from.overdraftLimit) return 'insufficient_funds'
    if (overflows(moved, movement)) return 'balance_overflow'
    moved = enter(moved, movement, layer, 1n)
  }
  return moved
}

/** Payer and payee, as far as they are there for this tenant. */
function ends(ledger: Ledger, tenantId: string, { from, to, cash }: Movement) {
  const there = (id: string) =>
    ledger.accounts.find((a) => a.id === id && a.tenantId === tenantId && (a.isWallet || a.id === cash))
  return [there(from), there(to)] as const
}

function hasStatus(status: AccountStatus, ledger: Ledger, tenantId: string, movement: Movement): boolean {
  return ends(ledger, tenantId, movement).some((account) => account?.status === status)
}

function overflows(ledger: Ledger, { from, to, amount }: Movement): boolean {
  return (
    sum(ledger, from, 'posted', 'debit') + sum(ledger, from, 'pending', 'debit') + amount > AMOUNT_MAX ||
    sum(ledger, to, 'posted', 'credit') + sum(ledger, to, 'pending', 'credit') + amount > AMOUNT_MAX
  )
}

/** Two entries, payer first; `sign` -1 takes them back. */
function enter(ledger: Ledger, { from, to, amount, currency }: Movement, layer: Layer, sign: 1n | -1n): Ledger {
  const debit: ModelEntry = { accountId: from, currency, layer, side: 'debit', amount: -amount * sign }
  const credit: ModelEntry = { accountId: to, currency, layer, side: 'credit', amount: amount * sign }
  return { ...ledger, entries: [...ledger.entries, debit, credit] }
}

/** What was ever debited or credited on a layer, as a number ≥ 0. */
function sum(ledger: Ledger, accountId: string, layer: Layer, side: Side): bigint {
  let total = 0n
  for (const entry of ledger.entries) {
    if (entry.accountId === accountId && entry.layer === layer && entry.side === side) total += entry.amount
  }
  return side === 'debit' ? -total : total
}

function totalOf(movements: readonly Movement[]): bigint {
  return movements.reduce((total, { amount }) => total + amount, 0n)
}

export type Balance = {
  sequence: number
  debitsPosted: bigint
  creditsPosted: bigint
  posted: bigint
  pendingOut: bigint
  pendingIn: bigint
}

export function balanceOf(ledger: Ledger, id: string): Balance {
  const debitsPosted = sum(ledger, id, 'posted', 'debit')
  const creditsPosted = sum(ledger, id, 'posted', 'credit')
  return {
    sequence: ledger.entries.filter(({ accountId }) => accountId === id).length,
    debitsPosted,
    creditsPosted,
    posted: creditsPosted - debitsPosted,
    pendingOut: sum(ledger, id, 'pending', 'debit'),
    pendingIn: sum(ledger, id, 'pending', 'credit'),
  }
}

/** The balances of all accounts that were ever opened, by id. */
export function balances(ledger: Ledger): Map<string, Balance> {
  return new Map(ledger.accounts.map(({ id }) => [id, balanceOf(ledger, id)]))
}
