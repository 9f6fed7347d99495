import { describe, expect, test } from 'vitest'
import { systemAccountId } from '../../src/core/account.ts'
import { digestUuid } from '../../src/core/ids.ts'
import { AMOUNT_MAX } from '../../src/core/money.ts'
import type { Decision } from '../../src/core/post.ts'
import { REFUSALS, type Refusal } from '../../src/core/refusal.ts'
import type { Operation } from '../../src/core/request.ts'
import {
  type Amounts,
  capture,
  expiry,
  hold,
  MemoryLedger,
  OTHER_TENANT,
  release,
  reversal,
  SHARD,
  TENANT,
  topUp,
  transfer,
  update,
  withdrawal,
} from './memory-ledger.ts'

const NOBODY = digestUuid('nobody')

function cashOf(tenantId: string, currency = 'EUR'): string {
  return systemAccountId({ tenantId, shard: SHARD, kind: 'cash', currency })
}

/** A ledger in which every refusal is one request away. */
function town() {
  const ledger = new MemoryLedger()
  const anna = ledger.wallet({ funds: 10_000n })
  const ben = ledger.wallet({ funds: 500n })
  const poor = ledger.wallet()
  const dollars = ledger.wallet({ currency: 'USD', funds: 500n })
  const modest = ledger.wallet({ funds: 100n, limits: { transferMax: 50n, balanceMax: 200n } })
  const frozen = ledger.wallet({ funds: 300n, limits: { transferMax: 50n } })
  const closed = ledger.wallet()

  // full, by what holds reserve; paid by overdraft, or else cash would be full too
  const full = ledger.wallet()
  const holdToFull = ledger.make(hold([anna, full, 4n], 3600))
  const frozenHoldToFull = ledger.make(hold([frozen, full, 1n], 3600))
  ledger.make(hold([ledger.wallet({ overdraftLimit: AMOUNT_MAX }), full, AMOUNT_MAX - 5n], 3600))

  const paid = ledger.make(transfer([anna, ben, 40n]))
  const split = ledger.make(transfer([anna, poor, 10n], [poor, ben, 10n]))
  const undone = ledger.make(transfer([anna, ben, 40n]))
  ledger.make(reversal(undone))
  const spent = ledger.make(transfer([anna, poor, 40n]))
  ledger.make(transfer([poor, ben, 40n]))
  const paidToModest = ledger.make(transfer([anna, modest, 60n]))
  const paidToFrozen = ledger.make(transfer([anna, frozen, 60n]))
  const paidToClosed = ledger.make(transfer([anna, closed, 40n]))
  ledger.make(transfer([closed, ben, 40n]))
  const undoneToClosed = ledger.make(transfer([anna, closed, 40n]))
  ledger.make(reversal(undoneToClosed))

  const open = ledger.make(hold([anna, ben, 100n], 3600))
  const captured = ledger.make(hold([anna, ben, 100n], 3600))
  ledger.make(capture(captured))
  const capturedLongAgo = ledger.make(hold([anna, ben, 100n], 1))
  ledger.make(capture(capturedLongAgo))
  const released = ledger.make(hold([anna, ben, 100n], 3600))
  ledger.make(release(released))
  const releasedLongAgo = ledger.make(hold([anna, ben, 100n], 1))
  ledger.make(release(releasedLongAgo))
  const lapsed = ledger.make(hold([anna, ben, 100n], 1))
  const expired = ledger.make(hold([anna, ben, 100n], 1))
  const frozenHold = ledger.make(hold([frozen, ben, 50n], 3600))
  const frozenLapsed = ledger.make(hold([frozen, ben, 50n], 1))
  ledger.wait(60)
  ledger.make(expiry(expired))
  ledger.make(update(frozen, { status: 'frozen' }))
  ledger.make(update(closed, { status: 'closed' }))

  const theirs = { tenantId: OTHER_TENANT }
  const stranger = ledger.wallet({ funds: 500n, ...theirs })
  const strangersDollars = ledger.wallet({ currency: 'USD', funds: 500n, ...theirs })
  const strangersClosed = ledger.wallet(theirs)
  const strangersHold = ledger.make(hold([stranger, strangersClosed, 10n]), theirs)
  ledger.make(release(strangersHold), theirs)
  const strangersUndone = ledger.make(transfer([stranger, strangersClosed, 10n]), theirs)
  ledger.make(reversal(strangersUndone), theirs)
  ledger.make(update(strangersClosed, { status: 'closed' }), theirs)

  return {
    ...{ ledger, anna, ben, poor, dollars, modest, frozen, closed, full, holdToFull, frozenHoldToFull },
    ...{ paid, split, undone, spent, paidToModest, paidToFrozen, paidToClosed, undoneToClosed },
    ...{ open, captured, capturedLongAgo, released, releasedLongAgo, lapsed, expired, frozenHold, frozenLapsed },
    ...{ stranger, strangersDollars, strangersClosed, strangersHold, strangersUndone },
  }
}

type Town = ReturnType<typeof town>

/** It is refused with this code, and nothing is other than before. */
function expectRefused(ledger: MemoryLedger, operation: Operation, code: Refusal): Decision {
  const before = ledger.state
  const decision = ledger.ask(operation)
  expect(decision.record.refusal).toBe(code)
  expect(decision.entries).toEqual([])
  expect(ledger.state.accounts).toEqual(before.accounts)
  expect(ledger.state.holds).toEqual(before.holds)
  expect(ledger.state.transfers).toEqual(before.transfers)
  return decision
}

describe('a request is refused and changes nothing', () => {
  const rows: [code: Refusal, what: string, ask: (town: Town) => Operation][] = [
    ['same_wallet', 'a transfer to the payer', ({ anna }) => transfer([anna, anna, 1n])],
    ['same_wallet', 'a hold for the payer', ({ anna }) => hold([anna, anna, 1n])],
    [
      'currency_mismatch',
      'a transfer that the payer has another currency for',
      (t) => transfer([t.dollars, t.anna, 1n]),
    ],
    [
      'currency_mismatch',
      'a transfer that the payee has another currency for',
      (t) => transfer([t.anna, t.dollars, 1n]),
    ],
    [
      'currency_mismatch',
      'a transfer that both have another currency for',
      (t) => transfer([t.anna, t.ben, 1n, 'USD']),
    ],
    ['currency_mismatch', 'a hold in another currency', ({ anna, ben }) => hold([anna, ben, 1n, 'USD'])],
    ['currency_mismatch', 'a top-up in another currency', ({ anna }) => topUp(anna, 1n, 'USD')],
    ['currency_mismatch', 'a withdrawal in another currency', ({ anna }) => withdrawal(anna, 1n, 'USD')],
    ['from_not_found', 'a transfer from nobody', ({ ben }) => transfer([NOBODY, ben, 1n])],
    ['from_not_found', "a transfer from another tenant's wallet", (t) => transfer([t.stranger, t.ben, 1n])],
    ['from_not_found', "a transfer from another tenant's dollars", (t) => transfer([t.strangersDollars, t.ben, 1n])],
    ['from_not_found', 'a transfer from cash', ({ ben }) => transfer([cashOf(TENANT), ben, 1n])],
    ['from_not_found', "a hold of another tenant's money", ({ stranger, ben }) => hold([stranger, ben, 1n])],
    ['from_not_found', 'a hold of cash', ({ ben }) => hold([cashOf(TENANT), ben, 1n])],
    ['from_not_found', "a withdrawal of another tenant's money", ({ stranger }) => withdrawal(stranger, 1n)],
    ['from_not_found', "a withdrawal from another tenant's cash", () => withdrawal(cashOf(OTHER_TENANT), 1n)],
    ['to_not_found', 'a transfer to nobody', ({ anna }) => transfer([anna, NOBODY, 1n])],
    ['to_not_found', "a transfer to another tenant's wallet", ({ anna, stranger }) => transfer([anna, stranger, 1n])],
    ['to_not_found', "a transfer to another tenant's dollars", (t) => transfer([t.anna, t.strangersDollars, 1n])],
    ['to_not_found', 'a transfer to cash', ({ anna }) => transfer([anna, cashOf(TENANT), 1n])],
    [
      'to_not_found',
      'a transfer to cash of another currency',
      ({ anna }) => transfer([anna, cashOf(TENANT, 'USD'), 1n]),
    ],
    ['to_not_found', "a hold for another tenant's wallet", ({ anna, stranger }) => hold([anna, stranger, 1n])],
    ['to_not_found', "a top-up of another tenant's wallet", ({ stranger }) => topUp(stranger, 1n)],
    ['to_not_found', 'an update of nobody', () => update(NOBODY, { status: 'frozen' })],
    ['to_not_found', "an update of another tenant's wallet", ({ stranger }) => update(stranger, { status: 'frozen' })],
    ['to_not_found', 'an update of cash', () => update(cashOf(TENANT), { status: 'frozen' })],
    ['hold_not_found', 'a capture of nothing', () => capture(NOBODY)],
    ['hold_not_found', "a capture of another tenant's hold", ({ strangersHold }) => capture(strangersHold)],
    ['hold_not_found', 'a capture of a transfer', ({ paid }) => capture(paid)],
    ['hold_not_found', 'a release of nothing', () => release(NOBODY)],
    ['hold_not_found', "a release of another tenant's hold", ({ strangersHold }) => release(strangersHold)],
    ['hold_not_found', "an expiry of another tenant's hold", ({ strangersHold }) => expiry(strangersHold)],
    ['transfer_not_found', 'a reversal of nothing', () => reversal(NOBODY)],
    [
      'transfer_not_found',
      "a reversal of another tenant's transfer",
      ({ strangersUndone }) => reversal(strangersUndone),
    ],
    ['transfer_not_found', 'a reversal of a captured hold', ({ captured }) => reversal(captured)],
    ['hold_already_captured', 'a second capture', ({ captured }) => capture(captured)],
    ['hold_already_captured', 'a release after the capture', ({ captured }) => release(captured)],
    ['hold_already_captured', 'an expiry after the capture', ({ capturedLongAgo }) => expiry(capturedLongAgo)],
    ['hold_already_released', 'a capture after the release', ({ released }) => capture(released)],
    ['hold_already_released', 'a second release', ({ released }) => release(released)],
    ['hold_already_released', 'an expiry after the release', ({ releasedLongAgo }) => expiry(releasedLongAgo)],
    ['hold_expired', 'a capture after the expiry', ({ expired }) => capture(expired)],
    ['hold_expired', 'a capture too late, though nobody expired it', ({ lapsed }) => capture(lapsed)],
    ['hold_expired', 'a release after the expiry', ({ expired }) => release(expired)],
    ['hold_expired', 'a second expiry', ({ expired }) => expiry(expired)],
    ['hold_not_expired', 'an expiry too early', ({ open }) => expiry(open)],
    ['exceeds_hold', 'a capture of more than is held', ({ open }) => capture(open, 101n)],
    ['already_reversed', 'a second reversal', ({ undone }) => reversal(undone)],
    ['exceeds_reversible', 'a reversal of more than was moved', ({ paid }) => reversal(paid, 41n)],
    ['exceeds_reversible', 'a reversal in part of several legs', ({ split }) => reversal(split, 10n)],
    ['exceeds_reversible', 'a reversal of several legs that names their sum', ({ split }) => reversal(split, 20n)],
    ['wallet_closed', 'a transfer from a closed wallet', ({ closed, ben }) => transfer([closed, ben, 1n])],
    ['wallet_closed', 'a transfer to a closed wallet', ({ anna, closed }) => transfer([anna, closed, 1n])],
    ['wallet_closed', 'a hold for a closed wallet', ({ anna, closed }) => hold([anna, closed, 1n])],
    ['wallet_closed', 'a top-up of a closed wallet', ({ closed }) => topUp(closed, 1n)],
    ['wallet_closed', 'a withdrawal from a closed wallet', ({ closed }) => withdrawal(closed, 1n)],
    ['wallet_closed', 'a reversal out of a closed wallet', ({ paidToClosed }) => reversal(paidToClosed)],
    ['wallet_closed', 'a second closing', ({ closed }) => update(closed, { status: 'closed' })],
    ['wallet_closed', 'a reopening', ({ closed }) => update(closed, { status: 'active' })],
    ['wallet_frozen', 'a transfer from a frozen wallet', ({ frozen, ben }) => transfer([frozen, ben, 1n])],
    ['wallet_frozen', 'a transfer to a frozen wallet', ({ anna, frozen }) => transfer([anna, frozen, 1n])],
    ['wallet_frozen', 'a hold of frozen money', ({ frozen, ben }) => hold([frozen, ben, 1n])],
    ['wallet_frozen', 'a top-up of a frozen wallet', ({ frozen }) => topUp(frozen, 1n)],
    ['wallet_frozen', 'a withdrawal from a frozen wallet', ({ frozen }) => withdrawal(frozen, 1n)],
    ['wallet_frozen', 'a capture of frozen money', ({ frozenHold }) => capture(frozenHold)],
    ['wallet_frozen', 'a reversal out of a frozen wallet', ({ paidToFrozen }) => reversal(paidToFrozen, 1n)],
    ['wallet_not_empty', 'the closing of a wallet with money', ({ anna }) => update(anna, { status: 'closed' })],
    ['wallet_not_empty', 'the closing of a frozen wallet with money', (t) => update(t.frozen, { status: 'closed' })],
    ['limit_exceeded', 'a transfer of more than the payer may', ({ modest, ben }) => transfer([modest, ben, 51n])],
    [
      'limit_exceeded',
      'a transfer of more than the payee may have',
      ({ anna, modest }) => transfer([anna, modest, 41n]),
    ],
    ['limit_exceeded', 'a hold of more than the payer may', ({ modest, ben }) => hold([modest, ben, 51n])],
    ['limit_exceeded', 'a hold of more than the payee may have', ({ anna, modest }) => hold([anna, modest, 41n])],
    ['limit_exceeded', 'a top-up to more than the wallet may have', ({ modest }) => topUp(modest, 41n)],
    ['limit_exceeded', 'a withdrawal of more than the wallet may', ({ modest }) => withdrawal(modest, 51n)],
    ['limit_exceeded', 'a reversal of more than the payee of then may', ({ paidToModest }) => reversal(paidToModest)],
    ['insufficient_funds', 'a transfer of more than there is', ({ poor, ben }) => transfer([poor, ben, 1n])],
    ['insufficient_funds', 'a hold of more than there is', ({ poor, ben }) => hold([poor, ben, 1n])],
    ['insufficient_funds', 'a withdrawal of more than there is', ({ poor }) => withdrawal(poor, 1n)],
    ['insufficient_funds', 'a reversal of money that is spent', ({ spent }) => reversal(spent)],
    ['balance_overflow', 'a transfer to a wallet that is full', ({ anna, full }) => transfer([anna, full, 1n])],
    ['balance_overflow', 'a hold for a wallet that is full', ({ anna, full }) => hold([anna, full, 1n])],
    ['balance_overflow', 'a top-up of a wallet that is full', ({ full }) => topUp(full, 1n)],
  ]

  test.each(rows)('with %s: %s', (code, _what, ask) => {
    const world = town()
    expectRefused(world.ledger, ask(world), code)
  })

  test('with idempotency_key_reused: another request under the same key', () => {
    const { ledger, anna, ben } = town()
    ledger.ask(transfer([anna, ben, 1n]), { key: 'k' })
    const before = ledger.state
    const posting = ledger.post(ledger.request(transfer([anna, ben, 2n]), { key: 'k' }))
    expect(posting.outcomes.map(({ status }) => status)).toEqual(['key_reused'])
    expect(posting.decisions).toEqual([])
    expect(ledger.state).toEqual(before)
  })

  test('with every code there is', () => {
    const tried = new Set<string>(['idempotency_key_reused', 'shard_unavailable', ...rows.map(([code]) => code)])
    expect(REFUSALS.filter((code) => !tried.has(code))).toEqual([])
  })

  test('and an account that it would have needed is not opened either', () => {
    const ledger = new MemoryLedger()
    const poor = ledger.wallet()
    expectRefused(ledger, withdrawal(poor, 1n), 'insufficient_funds')
  })
})

/** Both reasons hold and the first wins; without the first, the second is what is said. */
type Precedence<T> = [first: Refusal, second: Refusal, both: (town: Town) => T, onlySecond: (town: Town) => T]

describe('of two reasons the first is said', () => {
  const moves: Precedence<Amounts>[] = [
    [
      'same_wallet',
      'currency_mismatch',
      ({ anna }) => [anna, anna, 1n, 'USD'],
      ({ anna, ben }) => [anna, ben, 1n, 'USD'],
    ],
    ['same_wallet', 'from_not_found', () => [NOBODY, NOBODY, 1n], ({ ben }) => [NOBODY, ben, 1n]],
    ['same_wallet', 'wallet_closed', ({ closed }) => [closed, closed, 1n], ({ closed, ben }) => [closed, ben, 1n]],
    ['currency_mismatch', 'from_not_found', (t) => [NOBODY, t.ben, 1n, 'USD'], (t) => [NOBODY, t.dollars, 1n, 'USD']],
    ['currency_mismatch', 'to_not_found', ({ anna }) => [anna, NOBODY, 1n, 'USD'], ({ anna }) => [anna, NOBODY, 1n]],
    ['currency_mismatch', 'wallet_closed', (t) => [t.closed, t.ben, 1n, 'USD'], (t) => [t.closed, t.ben, 1n]],
    ['from_not_found', 'to_not_found', ({ stranger }) => [NOBODY, stranger, 1n], ({ anna }) => [anna, NOBODY, 1n]],
    ['from_not_found', 'wallet_closed', ({ closed }) => [NOBODY, closed, 1n], ({ anna, closed }) => [anna, closed, 1n]],
    ['to_not_found', 'wallet_closed', ({ closed }) => [closed, NOBODY, 1n], ({ closed, ben }) => [closed, ben, 1n]],
    ['to_not_found', 'wallet_frozen', ({ frozen }) => [frozen, NOBODY, 1n], ({ frozen, ben }) => [frozen, ben, 1n]],
    ['wallet_closed', 'wallet_frozen', (t) => [t.frozen, t.closed, 1n], (t) => [t.frozen, t.ben, 1n]],
    ['wallet_closed', 'wallet_frozen', (t) => [t.closed, t.frozen, 1n], (t) => [t.ben, t.frozen, 1n]],
    ['wallet_closed', 'limit_exceeded', (t) => [t.modest, t.closed, 51n], (t) => [t.modest, t.ben, 51n]],
    ['wallet_frozen', 'limit_exceeded', (t) => [t.frozen, t.ben, 51n], (t) => [t.modest, t.ben, 51n]],
    ['wallet_frozen', 'insufficient_funds', (t) => [t.poor, t.frozen, 1n], (t) => [t.poor, t.ben, 1n]],
    ['limit_exceeded', 'insufficient_funds', (t) => [t.modest, t.ben, 900n], (t) => [t.ben, t.poor, 900n]],
    ['limit_exceeded', 'insufficient_funds', (t) => [t.poor, t.modest, 41n], (t) => [t.poor, t.ben, 41n]],
    ['limit_exceeded', 'balance_overflow', (t) => [t.modest, t.full, 51n], (t) => [t.anna, t.full, 51n]],
    ['insufficient_funds', 'balance_overflow', (t) => [t.poor, t.full, 1n], (t) => [t.anna, t.full, 1n]],
  ]

  test.each(moves)('of a transfer: %s before %s', (first, second, both, onlySecond) => {
    const world = town()
    expectRefused(world.ledger, transfer(both(world)), first)
    expectRefused(world.ledger, transfer(onlySecond(world)), second)
  })

  test.each(moves)('of a hold: %s before %s', (first, second, both, onlySecond) => {
    const world = town()
    expectRefused(world.ledger, hold(both(world)), first)
    expectRefused(world.ledger, hold(onlySecond(world)), second)
  })

  const others: Precedence<Operation>[] = [
    ['hold_not_found', 'hold_already_released', (t) => capture(t.strangersHold), (t) => capture(t.released)],
    ['hold_already_captured', 'hold_expired', (t) => capture(t.capturedLongAgo), (t) => capture(t.lapsed)],
    ['hold_already_captured', 'exceeds_hold', (t) => capture(t.captured, 101n), (t) => capture(t.open, 101n)],
    ['hold_already_captured', 'hold_not_expired', (t) => expiry(t.captured), (t) => expiry(t.open)],
    ['hold_already_released', 'hold_expired', (t) => capture(t.releasedLongAgo), (t) => capture(t.lapsed)],
    ['hold_already_released', 'exceeds_hold', (t) => capture(t.released, 101n), (t) => capture(t.open, 101n)],
    ['hold_already_released', 'hold_not_expired', (t) => expiry(t.released), (t) => expiry(t.open)],
    ['hold_expired', 'exceeds_hold', (t) => capture(t.expired, 101n), (t) => capture(t.open, 101n)],
    ['hold_expired', 'exceeds_hold', (t) => capture(t.lapsed, 101n), (t) => capture(t.open, 101n)],
    ['hold_expired', 'wallet_frozen', (t) => capture(t.frozenLapsed), (t) => capture(t.frozenHold)],
    ['exceeds_hold', 'wallet_frozen', (t) => capture(t.frozenHold, 51n), (t) => capture(t.frozenHold)],
    ['transfer_not_found', 'already_reversed', (t) => reversal(t.strangersUndone), (t) => reversal(t.undone)],
    ['already_reversed', 'exceeds_reversible', (t) => reversal(t.undone, 41n), (t) => reversal(t.paid, 41n)],
    ['already_reversed', 'wallet_closed', (t) => reversal(t.undoneToClosed), (t) => reversal(t.paidToClosed)],
    ['exceeds_reversible', 'wallet_closed', (t) => reversal(t.paidToClosed, 41n), (t) => reversal(t.paidToClosed)],
    ['exceeds_reversible', 'wallet_frozen', (t) => reversal(t.paidToFrozen, 61n), (t) => reversal(t.paidToFrozen)],
    ['exceeds_reversible', 'insufficient_funds', (t) => reversal(t.spent, 41n), (t) => reversal(t.spent)],
    ['wallet_closed', 'insufficient_funds', (t) => reversal(t.paidToClosed), (t) => reversal(t.spent)],
    ['wallet_frozen', 'limit_exceeded', (t) => reversal(t.paidToFrozen), (t) => reversal(t.paidToModest)],
    [
      'to_not_found',
      'wallet_closed',
      (t) => update(t.strangersClosed, { status: 'closed' }),
      (t) => update(t.closed, { status: 'closed' }),
    ],
  ]

  test.each(others)('%s before %s (%#)', (first, second, both, onlySecond) => {
    const world = town()
    expectRefused(world.ledger, both(world), first)
    expectRefused(world.ledger, onlySecond(world), second)
  })

  test('a reused key before anything else', () => {
    const { ledger, anna, ben } = town()
    const asked = [transfer([anna, ben, 1n]), transfer([anna, anna, 1n])].map((o) => ledger.request(o, { key: 'k' }))
    expect(ledger.post(...asked).outcomes.map(({ status }) => status)).toEqual(['decided', 'key_reused'])
  })

  test('the cash account is no wallet for clients, not even in its own top-up and withdrawal', () => {
    const { ledger } = town()
    expectRefused(ledger, topUp(cashOf(TENANT), 1n), 'to_not_found')
    expectRefused(ledger, withdrawal(cashOf(TENANT), 1n), 'from_not_found')
  })
})

/** Entries as [account, layer, amount, posted, pending out, pending in after it]. */
function lines({ entries }: Decision) {
  return entries.map((e) => [e.accountId, e.layer, e.amount, e.posted, e.pendingOut, e.pendingIn])
}

function resultOf({ record }: Decision): unknown {
  return record.result === null ? null : JSON.parse(record.result)
}

describe('a transfer, top-up or withdrawal', () => {
  test('moves money by two entries a leg, payer first', () => {
    const ledger = new MemoryLedger()
    const [anna, ben, eve] = [ledger.wallet({ funds: 100n }), ledger.wallet(), ledger.wallet()]
    expect(lines(ledger.ask(transfer([anna, ben, 30n], [anna, eve, 5n])))).toEqual([
      [anna, 'posted', -30n, 70n, 0n, 0n],
      [ben, 'posted', 30n, 30n, 0n, 0n],
      [anna, 'posted', -5n, 65n, 0n, 0n],
      [eve, 'posted', 5n, 5n, 0n, 0n],
    ])
    expect(ledger.account(anna)).toMatchObject({ sequence: 3, debitsPosted: 35n, creditsPosted: 100n })
  })

  test('takes a top-up from cash, which may go below zero, and pays a withdrawal to it', () => {
    const ledger = new MemoryLedger()
    const [anna, cash] = [ledger.wallet(), cashOf(TENANT)]
    expect(lines(ledger.ask(topUp(anna, 100n)))).toEqual([
      [cash, 'posted', -100n, -100n, 0n, 0n],
      [anna, 'posted', 100n, 100n, 0n, 0n],
    ])
    expect(lines(ledger.ask(withdrawal(anna, 60n)))).toEqual([
      [anna, 'posted', -60n, 40n, 0n, 0n],
      [cash, 'posted', 60n, -40n, 0n, 0n],
    ])
  })

  test('has a cash account for each tenant and currency, opened when it is first needed', () => {
    const ledger = new MemoryLedger()
    ledger.wallet()
    expect(ledger.state.accounts.size).toBe(1)
    ledger.wallet({ funds: 1n })
    ledger.wallet({ funds: 2n })
    ledger.wallet({ funds: 3n, currency: 'USD' })
    ledger.wallet({ funds: 4n, tenantId: OTHER_TENANT })
    expect(ledger.account(cashOf(TENANT))).toMatchObject({ kind: 'cash', currency: 'EUR', overdraftLimit: null })
    expect(ledger.balance(cashOf(TENANT))).toEqual([-3n, 0n, 0n])
    expect(ledger.balance(cashOf(TENANT, 'USD'))).toEqual([-3n, 0n, 0n])
    expect(ledger.balance(cashOf(OTHER_TENANT))).toEqual([-4n, 0n, 0n])
  })

  test('may take all there is and not one more', () => {
    const ledger = new MemoryLedger()
    const [anna, ben] = [ledger.wallet({ funds: 100n }), ledger.wallet()]
    expectRefused(ledger, transfer([anna, ben, 101n]), 'insufficient_funds')
    expect(ledger.refusalOf(transfer([anna, ben, 100n]))).toBeNull()
    expect(ledger.balance(anna)).toEqual([0n, 0n, 0n])
  })

  test('may take a wallet down to its overdraft limit and not one below', () => {
    const ledger = new MemoryLedger()
    const [anna, ben] = [ledger.wallet({ funds: 10n, overdraftLimit: 100n }), ledger.wallet()]
    expectRefused(ledger, transfer([anna, ben, 111n]), 'insufficient_funds')
    expect(ledger.refusalOf(transfer([anna, ben, 110n]))).toBeNull()
    expect(ledger.balance(anna)).toEqual([-100n, 0n, 0n])
    expectRefused(ledger, withdrawal(anna, 1n), 'insufficient_funds')
  })

  test('may not take what is held, nor what is only pending in', () => {
    const ledger = new MemoryLedger()
    const [anna, ben] = [ledger.wallet({ funds: 100n }), ledger.wallet()]
    ledger.make(hold([anna, ben, 60n]))
    expectRefused(ledger, transfer([anna, ben, 41n]), 'insufficient_funds')
    expectRefused(ledger, transfer([ben, anna, 1n]), 'insufficient_funds')
    expect(ledger.refusalOf(transfer([anna, ben, 40n]))).toBeNull()
  })

  test('may be of just the most that the payer may send and the payee may have', () => {
    const ledger = new MemoryLedger()
    const anna = ledger.wallet({ funds: 1_000n, limits: { transferMax: 50n } })
    const ben = ledger.wallet({ limits: { balanceMax: 100n } })
    expect(ledger.refusalOf(transfer([anna, ben, 50n]))).toBeNull()
    ledger.make(hold([anna, ben, 30n]))
    expectRefused(ledger, transfer([anna, ben, 21n]), 'limit_exceeded')
    expect(ledger.refusalOf(transfer([anna, ben, 20n]))).toBeNull()
  })

  test('is measured leg by leg against what the payer may send', () => {
    const ledger = new MemoryLedger()
    const [anna, ben] = [ledger.wallet({ funds: 1_000n, limits: { transferMax: 50n } }), ledger.wallet()]
    expect(ledger.refusalOf(transfer([anna, ben, 50n], [anna, ben, 50n]))).toBeNull()
  })

  test('may fill the counters to 2^63 - 1 and not one above', () => {
    const ledger = new MemoryLedger()
    const bank = ledger.wallet({ overdraftLimit: AMOUNT_MAX })
    const [anna, ben] = [ledger.wallet(), ledger.wallet({ funds: 10n })]
    expect(ledger.refusalOf(transfer([bank, anna, AMOUNT_MAX - 1n]))).toBeNull()
    expectRefused(ledger, transfer([ben, anna, 2n]), 'balance_overflow')
    expect(ledger.refusalOf(transfer([ben, anna, 1n]))).toBeNull()
    expect(ledger.account(anna).creditsPosted).toBe(AMOUNT_MAX)
    // what is counted is all that ever came, not what is there
    expect(ledger.refusalOf(transfer([anna, bank, AMOUNT_MAX]))).toBeNull()
    expectRefused(ledger, transfer([ben, anna, 1n]), 'balance_overflow')
  })

  test('is refused when all that the payer ever paid would exceed 2^63 - 1', () => {
    const ledger = new MemoryLedger()
    const [bank, anna] = [ledger.wallet({ overdraftLimit: AMOUNT_MAX }), ledger.wallet()]
    ledger.make(transfer([bank, anna, AMOUNT_MAX]))
    ledger.make(transfer([anna, bank, 5n]))
    expectRefused(ledger, transfer([bank, ledger.wallet(), 1n]), 'balance_overflow')
  })

  test('is refused when all that cash ever paid would exceed 2^63 - 1', () => {
    const ledger = new MemoryLedger()
    const anna = ledger.wallet({ funds: AMOUNT_MAX })
    ledger.make(withdrawal(anna, AMOUNT_MAX))
    expectRefused(ledger, topUp(ledger.wallet(), 1n), 'balance_overflow')
  })
})

describe('a transfer of several legs', () => {
  /** A payer of 100, three others with nothing, and one leg that cannot be. */
  function people() {
    const ledger = new MemoryLedger()
    const anna = ledger.wallet({ funds: 100n })
    const [ben, eve, joe] = [ledger.wallet(), ledger.wallet(), ledger.wallet({ limits: { transferMax: 10n } })]
    const frozen = ledger.wallet()
    ledger.make(update(frozen, { status: 'frozen' }))
    return { ledger, anna, ben, eve, joe, frozen }
  }

  test('lets a leg pass on what a leg before it brought', () => {
    const { ledger, anna, ben, eve, joe } = people()
    expect(ledger.refusalOf(transfer([anna, ben, 10n], [ben, eve, 10n], [eve, joe, 10n]))).toBeNull()
    expect([anna, ben, eve, joe].map((id) => ledger.balance(id)[0])).toEqual([90n, 0n, 0n, 10n])
  })

  test('does not let a leg pass on what only a later leg brings', () => {
    const { ledger, anna, ben, eve } = people()
    const decision = expectRefused(ledger, transfer([ben, eve, 10n], [anna, ben, 10n]), 'insufficient_funds')
    expect(resultOf(decision)).toEqual({ leg: 0 })
  })

  test('may use several currencies, and sums to zero in each', () => {
    const { ledger, anna, ben } = people()
    const [dollars, otherDollars] = [ledger.wallet({ currency: 'USD', funds: 7n }), ledger.wallet({ currency: 'USD' })]
    expect(lines(ledger.ask(transfer([anna, ben, 5n], [dollars, otherDollars, 7n, 'USD'])))).toEqual([
      [anna, 'posted', -5n, 95n, 0n, 0n],
      [ben, 'posted', 5n, 5n, 0n, 0n],
      [dollars, 'posted', -7n, 0n, 0n, 0n],
      [otherDollars, 'posted', 7n, 7n, 0n, 0n],
    ])
  })

  test.each([0, 1, 2, 3])('is taken back whole when leg %i is refused, and says which leg it was', (leg) => {
    const { ledger, anna, ben, eve, joe } = people()
    const legs: Amounts[] = [
      [anna, ben, 20n],
      [ben, eve, 15n],
      [eve, joe, 10n],
    ]
    const decision = expectRefused(
      ledger,
      transfer(...legs.toSpliced(leg, 0, [ben, eve, 1_000n])),
      'insufficient_funds',
    )
    expect(resultOf(decision)).toEqual({ leg })
    expect(ledger.refusalOf(transfer(...legs))).toBeNull()
    expect([anna, ben, eve, joe].map((id) => ledger.account(id).sequence)).toEqual([2, 2, 2, 1])
  })

  test('is taken back whole though a request before it in the batch touched the same wallets', () => {
    const { ledger, anna, ben, eve } = people()
    const asked = [transfer([anna, ben, 20n]), transfer([ben, eve, 5n], [ben, eve, 16n]), transfer([ben, eve, 20n])]
    const { decisions } = ledger.post(...asked.map((operation) => ledger.request(operation)))
    expect(decisions.map(({ record }) => record.refusal)).toEqual([null, 'insufficient_funds', null])
    expect([anna, ben, eve].map((id) => ledger.balance(id)[0])).toEqual([80n, 0n, 20n])
  })

  const precedence: [what: string, code: Refusal, leg: number, legs: (p: ReturnType<typeof people>) => Amounts[]][] = [
    [
      'a standing reason on a later leg wins over the funds of an earlier one',
      'from_not_found',
      1,
      ({ ben, eve }) => [
        [ben, eve, 1n],
        [NOBODY, eve, 1n],
      ],
    ],
    [
      'of two standing reasons the better one wins, though it stands on the later leg',
      'same_wallet',
      2,
      ({ anna, ben, frozen }) => [
        [anna, frozen, 1n],
        [anna, NOBODY, 1n],
        [ben, ben, 1n],
      ],
    ],
    [
      'of two standing reasons the better one wins, though it stands on the earlier leg',
      'currency_mismatch',
      0,
      ({ anna, ben, frozen }) => [
        [anna, ben, 1n, 'USD'],
        [anna, frozen, 1n],
      ],
    ],
    [
      'of the same standing reason on two legs the first is named',
      'to_not_found',
      1,
      ({ anna, ben }) => [
        [anna, ben, 1n],
        [anna, NOBODY, 1n],
        [anna, NOBODY, 1n],
      ],
    ],
    [
      'funds on an earlier leg win over a limit on a later one',
      'insufficient_funds',
      0,
      ({ anna, ben, eve, joe }) => [
        [ben, eve, 1n],
        [anna, joe, 50n],
        [joe, eve, 11n],
      ],
    ],
    [
      'a limit on an earlier leg wins over funds on a later one',
      'limit_exceeded',
      1,
      ({ anna, ben, eve, joe }) => [
        [anna, joe, 50n],
        [joe, eve, 11n],
        [ben, anna, 1n],
      ],
    ],
  ]

  test.each(precedence)('%s', (_what, code, leg, legs) => {
    const world = people()
    expect(resultOf(expectRefused(world.ledger, transfer(...legs(world)), code))).toEqual({ leg })
  })

  test('names no leg when there is but one', () => {
    const { ledger, ben, eve } = people()
    expect(resultOf(expectRefused(ledger, transfer([ben, eve, 1n]), 'insufficient_funds'))).toBeNull()
  })
})

describe('an idempotency key', () => {
  function two() {
    const ledger = new MemoryLedger()
    const [anna, ben] = [ledger.wallet({ funds: 100n }), ledger.wallet()]
    return { ledger, anna, ben }
  }
  const key = 'k'

  test('answers an accepted request again in the same batch, and moves money once', () => {
    const { ledger, anna, ben } = two()
    const asked = [1, 2, 3].map(() => ledger.request(transfer([anna, ben, 10n]), { key }))
    const { outcomes, decisions } = ledger.post(...asked)
    expect(outcomes.map(({ status }) => status)).toEqual(['decided', 'replayed', 'replayed'])
    expect(outcomes.map(({ record }) => record.id)).toEqual(Array(3).fill(asked[0]?.id))
    expect(decisions).toHaveLength(1)
    expect(ledger.balance(ben)).toEqual([10n, 0n, 0n])
  })

  test('answers an accepted request again in a later batch, and moves money once', () => {
    const { ledger, anna, ben } = two()
    const { record } = ledger.ask(transfer([anna, ben, 10n]), { key })
    const before = ledger.state
    const again = ledger.post(ledger.request(transfer([anna, ben, 10n]), { key }))
    expect(again.outcomes).toEqual([{ status: 'replayed', record }])
    expect(again.decisions).toEqual([])
    expect(ledger.state).toEqual(before)
  })

  test('answers a refused request again with its refusal, even when it would be accepted now', () => {
    const { ledger, anna, ben } = two()
    const { record } = ledger.ask(transfer([anna, ben, 101n]), { key })
    ledger.make(topUp(anna, 1_000n))
    const again = ledger.post(ledger.request(transfer([anna, ben, 101n]), { key }))
    expect(record.refusal).toBe('insufficient_funds')
    expect(again.outcomes).toEqual([{ status: 'replayed', record }])
    expect(ledger.balance(ben)).toEqual([0n, 0n, 0n])
  })

  test('answers a request refused in the same batch with its refusal', () => {
    const { ledger, anna, ben } = two()
    const [short, more] = [ledger.request(transfer([anna, ben, 101n]), { key }), ledger.request(topUp(anna, 1_000n))]
    const { outcomes } = ledger.post(short, more, ledger.request(transfer([anna, ben, 101n]), { key }))
    expect(outcomes.map(({ status }) => status)).toEqual(['decided', 'decided', 'replayed'])
    expect(outcomes.map(({ record }) => record.refusal)).toEqual(['insufficient_funds', null, 'insufficient_funds'])
  })

  test('is refused to another request, and still answers the first one', () => {
    const { ledger, anna, ben } = two()
    const { record } = ledger.ask(transfer([anna, ben, 10n]), { key })
    const { outcomes, decisions } = ledger.post(
      ledger.request(transfer([anna, ben, 11n]), { key }),
      ledger.request(transfer([anna, ben, 11n]), { key }),
      ledger.request(transfer([anna, ben, 10n]), { key }),
    )
    expect(outcomes.map(({ status }) => status)).toEqual(['key_reused', 'key_reused', 'replayed'])
    expect(outcomes.map((outcome) => outcome.record)).toEqual([record, record, record])
    expect(decisions).toEqual([])
    expect(ledger.balance(ben)).toEqual([10n, 0n, 0n])
  })

  test('is refused to another kind of request, though its payload is the same', () => {
    const { ledger, anna } = two()
    ledger.ask(topUp(anna, 10n), { key })
    const posting = ledger.post(ledger.request(withdrawal(anna, 10n), { key }))
    expect(posting.outcomes.map(({ status }) => status)).toEqual(['key_reused'])
    expect(ledger.balance(anna)).toEqual([110n, 0n, 0n])
  })

  test('may be used once for each wallet that pays, hold or transfer that is acted on, and tenant', () => {
    const { ledger, anna, ben } = two()
    const stranger = ledger.wallet({ funds: 10n, tenantId: OTHER_TENANT })
    const [first, second] = [ledger.make(hold([anna, ben, 10n])), ledger.make(hold([anna, ben, 10n]))]
    const paid = [ledger.make(transfer([anna, ben, 5n])), ledger.make(transfer([anna, ben, 5n]))]
    const asked = [
      ...[transfer([anna, ben, 1n]), transfer([ben, anna, 1n]), capture(first), release(second)],
      ...paid.map((id) => reversal(id)),
    ].map((operation) => ledger.request(operation, { key }))
    const strangers = [withdrawal(stranger, 1n), transfer([anna, ben, 1n])].map((operation) =>
      ledger.request(operation, { key, tenantId: OTHER_TENANT }),
    )
    const { outcomes } = ledger.post(...asked, ...strangers)
    expect(outcomes.map(({ status }) => status)).toEqual(Array(8).fill('decided'))
    expect(outcomes.map(({ record }) => record.refusal)).toEqual([...Array(7).fill(null), 'from_not_found'])
  })

  test('is one for a wallet that pays, by transfer, hold or withdrawal', () => {
    const { ledger, anna, ben } = two()
    ledger.ask(transfer([anna, ben, 1n], [ben, anna, 1n]), { key })
    const others = [hold([anna, ben, 1n]), withdrawal(anna, 1n), update(anna, { name: 'Anna' })]
    const { outcomes } = ledger.post(...others.map((operation) => ledger.request(operation, { key })))
    expect(outcomes.map(({ status }) => status)).toEqual(['key_reused', 'key_reused', 'key_reused'])
  })

  test('opens one wallet for a holder, and another for another holder', () => {
    const ledger = new MemoryLedger()
    const open = (holderId: string, currency = 'EUR'): Operation => {
      return { kind: 'wallet-open', holderId, currency, overdraftLimit: 0n, limits: {} }
    }
    const asked = [open('anna'), open('anna'), open('ben'), open('anna', 'USD')].map((o) => ledger.request(o, { key }))
    const { outcomes } = ledger.post(...asked)
    expect(outcomes.map(({ status }) => status)).toEqual(['decided', 'replayed', 'decided', 'key_reused'])
    expect([...ledger.state.accounts.keys()]).toEqual([asked[0]?.id, asked[2]?.id])
  })
})

describe('a hold', () => {
  function held({ seconds = 60, amount = 100n } = {}) {
    const ledger = new MemoryLedger()
    const [anna, ben] = [ledger.wallet({ funds: 150n }), ledger.wallet()]
    const decision = ledger.ask(hold([anna, ben, amount], seconds))
    return { ledger, anna, ben, decision, id: decision.record.id, heldAtUs: ledger.nowUs }
  }

  test('reserves money by two pending entries and says when it expires', () => {
    const { ledger, anna, ben, decision, id, heldAtUs } = held()
    const expiresAtUs = heldAtUs + 60_000_000
    expect(lines(decision)).toEqual([
      [anna, 'pending', -100n, 150n, 100n, 0n],
      [ben, 'pending', 100n, 0n, 0n, 100n],
    ])
    expect(resultOf(decision)).toEqual({ expiresAtUs })
    expect(ledger.state.hold(id)).toMatchObject({ status: 'held', amount: 100n, captured: 0n, expiresAtUs })
  })

  test('may reserve all that is available, overdraft included, and not one more', () => {
    const ledger = new MemoryLedger()
    const [anna, ben] = [ledger.wallet({ funds: 10n, overdraftLimit: 100n }), ledger.wallet()]
    expectRefused(ledger, hold([anna, ben, 111n]), 'insufficient_funds')
    expect(ledger.refusalOf(hold([anna, ben, 110n]))).toBeNull()
    expectRefused(ledger, hold([anna, ben, 1n]), 'insufficient_funds')
  })

  test('may fill what is posted and pending together to 2^63 - 1 and not one above', () => {
    const ledger = new MemoryLedger()
    const bank = () => ledger.wallet({ overdraftLimit: AMOUNT_MAX })
    const [anna, ben] = [ledger.wallet(), ledger.wallet()]
    const payer = bank()
    ledger.make(transfer([payer, anna, 10n]))
    const id = ledger.make(hold([payer, ben, AMOUNT_MAX - 10n]))
    ledger.make(transfer([bank(), ben, 10n]))
    expectRefused(ledger, hold([bank(), ben, 1n]), 'balance_overflow')
    expectRefused(ledger, transfer([bank(), ben, 1n]), 'balance_overflow')
    ledger.make(topUp(payer, 20n))
    expectRefused(ledger, hold([payer, anna, 1n]), 'balance_overflow')
    // what is reserved can always be captured
    expect(ledger.refusalOf(capture(id))).toBeNull()
    expect(ledger.balance(ben)).toEqual([AMOUNT_MAX, 0n, 0n])
  })

  test('pays all of it when it is captured whole', () => {
    const { ledger, anna, ben, id } = held()
    const decision = ledger.ask(capture(id))
    expect(lines(decision)).toEqual([
      [anna, 'pending', 100n, 150n, 0n, 0n],
      [ben, 'pending', -100n, 0n, 0n, 0n],
      [anna, 'posted', -100n, 50n, 0n, 0n],
      [ben, 'posted', 100n, 100n, 0n, 0n],
    ])
    expect(ledger.state.hold(id)).toMatchObject({ status: 'captured', captured: 100n })
    expect(resultOf(decision)).toMatchObject({ hold: { id, status: 'captured', amount: '100', captured: '100' } })
  })

  test('pays a part and lets the rest go when it is captured in part', () => {
    const { ledger, anna, ben, id } = held()
    expect(lines(ledger.ask(capture(id, 30n)))).toEqual([
      [anna, 'pending', 100n, 150n, 0n, 0n],
      [ben, 'pending', -100n, 0n, 0n, 0n],
      [anna, 'posted', -30n, 120n, 0n, 0n],
      [ben, 'posted', 30n, 30n, 0n, 0n],
    ])
    expect(ledger.state.hold(id)).toMatchObject({ status: 'captured', amount: 100n, captured: 30n })
    expect(ledger.refusalOf(withdrawal(anna, 120n))).toBeNull()
  })

  test('is captured once, even if a part is left', () => {
    const { ledger, id } = held()
    const asked = [capture(id, 30n), capture(id, 30n), capture(id, 70n)].map((operation) => ledger.request(operation))
    expect(ledger.post(...asked).decisions.map(({ record }) => record.refusal)).toEqual([
      null,
      'hold_already_captured',
      'hold_already_captured',
    ])
  })

  test('may be captured of exactly its amount, and not one more', () => {
    const { ledger, id } = held()
    expectRefused(ledger, capture(id, 101n), 'exceeds_hold')
    expect(ledger.refusalOf(capture(id, 100n))).toBeNull()
  })

  test('is captured whatever the limits have become', () => {
    const { ledger, anna, ben, id } = held()
    ledger.make(update(anna, { limits: { transferMax: 1n } }))
    ledger.make(update(ben, { limits: { balanceMax: 1n } }))
    expect(ledger.refusalOf(capture(id))).toBeNull()
  })

  test('is captured to the last unit of an overdraft that it reserved', () => {
    const ledger = new MemoryLedger()
    const [anna, ben] = [ledger.wallet({ overdraftLimit: 100n }), ledger.wallet()]
    const id = ledger.make(hold([anna, ben, 100n]))
    expect(ledger.refusalOf(capture(id))).toBeNull()
    expect(ledger.balance(anna)).toEqual([-100n, 0n, 0n])
  })

  test('gives the money back when it is released', () => {
    const { ledger, anna, ben, id } = held()
    const decision = ledger.ask(release(id))
    expect(lines(decision)).toEqual([
      [anna, 'pending', 100n, 150n, 0n, 0n],
      [ben, 'pending', -100n, 0n, 0n, 0n],
    ])
    expect(ledger.state.hold(id)).toMatchObject({ status: 'released', captured: 0n })
    expect(ledger.account(anna)).toMatchObject({ sequence: 3, debitsPosted: 0n })
  })

  test.each<[what: string, ask: (id: string) => Operation, before: Refusal | null, then: Refusal | null]>([
    ['can be captured until the microsecond before it expires', capture, null, 'hold_expired'],
    ['can be expired from the microsecond in which it expires', expiry, 'hold_not_expired', null],
  ])('%s', (_what, ask, before, then) => {
    for (const [us, code] of [
      [-1, before],
      [0, then],
    ] as const) {
      const { ledger, id, heldAtUs } = held()
      // a batch comes a microsecond after the one before
      ledger.nowUs = heldAtUs + 60_000_000 + us - 1
      expect(ledger.refusalOf(ask(id))).toBe(code)
    }
  })

  test('gives the money back when it expires', () => {
    const { ledger, anna, ben, id } = held({ seconds: 1 })
    ledger.wait(1)
    expect(lines(ledger.ask(expiry(id)))).toEqual([
      [anna, 'pending', 100n, 150n, 0n, 0n],
      [ben, 'pending', -100n, 0n, 0n, 0n],
    ])
    expect(ledger.state.hold(id)).toMatchObject({ status: 'expired', captured: 0n })
  })

  test('past its expiry keeps the money until it is expired or released', () => {
    const { ledger, anna, id } = held({ seconds: 1 })
    ledger.wait(100)
    expectRefused(ledger, withdrawal(anna, 51n), 'insufficient_funds')
    expect(ledger.refusalOf(release(id))).toBeNull()
    expect(ledger.state.hold(id)).toMatchObject({ status: 'released' })
    expect(ledger.refusalOf(withdrawal(anna, 150n))).toBeNull()
  })

  test('of a frozen wallet can be released and expires', () => {
    const { ledger, anna, ben, id } = held({ seconds: 1, amount: 10n })
    const other = ledger.make(hold([anna, ben, 10n], 1))
    ledger.make(update(anna, { status: 'frozen' }))
    ledger.wait(1)
    expect(ledger.refusalOf(release(id))).toBeNull()
    expect(ledger.refusalOf(expiry(other))).toBeNull()
    expect(ledger.balance(anna)).toEqual([150n, 0n, 0n])
  })
})

describe('a reversal', () => {
  function people() {
    const ledger = new MemoryLedger()
    return { ledger, anna: ledger.wallet({ funds: 100n }), ben: ledger.wallet(), eve: ledger.wallet() }
  }

  test('takes a transfer back whole and says what moved', () => {
    const { ledger, anna, ben } = people()
    const paid = ledger.make(transfer([anna, ben, 40n]))
    const decision = ledger.ask(reversal(paid))
    expect(lines(decision)).toEqual([
      [ben, 'posted', -40n, 0n, 0n, 0n],
      [anna, 'posted', 40n, 100n, 0n, 0n],
    ])
    expect(resultOf(decision)).toEqual({ movements: [{ from: ben, to: anna, amount: '40', currency: 'EUR' }] })
  })

  test('may take it back in parts, up to the whole, then all that is left', () => {
    const { ledger, anna, ben } = people()
    const paid = ledger.make(transfer([anna, ben, 40n]))
    expect(ledger.refusalOf(reversal(paid, 15n))).toBeNull()
    expectRefused(ledger, reversal(paid, 26n), 'exceeds_reversible')
    expect(ledger.refusalOf(reversal(paid, 20n))).toBeNull()
    expect(ledger.refusalOf(reversal(paid))).toBeNull()
    expect(ledger.balance(anna)).toEqual([100n, 0n, 0n])
    expectRefused(ledger, reversal(paid, 1n), 'already_reversed')
    expect(ledger.state.transfer(paid)?.reversed).toBe(40n)
  })

  test('sees what was reversed before it in the same batch', () => {
    const { ledger, anna, ben } = people()
    const paid = ledger.make(transfer([anna, ben, 40n]))
    const asked = [reversal(paid, 30n), reversal(paid, 30n), reversal(paid, 10n), reversal(paid)]
    const { decisions } = ledger.post(...asked.map((operation) => ledger.request(operation)))
    expect(decisions.map(({ record }) => record.refusal)).toEqual([
      null,
      'exceeds_reversible',
      null,
      'already_reversed',
    ])
  })

  test('does not count when it is refused', () => {
    const { ledger, anna, ben, eve } = people()
    const paid = ledger.make(transfer([anna, ben, 40n]))
    ledger.make(transfer([ben, eve, 40n]))
    expectRefused(ledger, reversal(paid), 'insufficient_funds')
    ledger.make(transfer([eve, ben, 40n]))
    expect(ledger.refusalOf(reversal(paid))).toBeNull()
  })

  test('takes several legs back, last leg first', () => {
    const { ledger, anna, ben, eve } = people()
    // only in this order is the money there
    const passedOn = ledger.make(transfer([anna, ben, 40n], [ben, eve, 30n]))
    expect(lines(ledger.ask(reversal(passedOn)))).toEqual([
      [eve, 'posted', -30n, 0n, 0n, 0n],
      [ben, 'posted', 30n, 40n, 0n, 0n],
      [ben, 'posted', -40n, 0n, 0n, 0n],
      [anna, 'posted', 40n, 100n, 0n, 0n],
    ])
    expectRefused(ledger, reversal(passedOn), 'already_reversed')
  })

  test('of several legs goes through whole or not at all', () => {
    const { ledger, anna, ben, eve } = people()
    const paid = ledger.make(transfer([anna, ben, 40n], [anna, eve, 30n]))
    ledger.make(withdrawal(ben, 1n))
    expectRefused(ledger, reversal(paid), 'insufficient_funds')
    expect(ledger.balance(eve)).toEqual([30n, 0n, 0n])
  })

  test('of a top-up pays back to cash, if the money is there', () => {
    const { ledger, anna, ben } = people()
    const topped = ledger.make(topUp(ben, 40n))
    ledger.make(transfer([ben, anna, 30n]))
    expectRefused(ledger, reversal(topped), 'insufficient_funds')
    expect(lines(ledger.ask(reversal(topped, 10n)))).toEqual([
      [ben, 'posted', -10n, 0n, 0n, 0n],
      [cashOf(TENANT), 'posted', 10n, -130n, 0n, 0n],
    ])
  })

  test('of a withdrawal brings back from cash, if the wallet may have as much', () => {
    const { ledger, anna } = people()
    const withdrawn = ledger.make(withdrawal(anna, 60n))
    ledger.make(update(anna, { limits: { balanceMax: 70n } }))
    expectRefused(ledger, reversal(withdrawn), 'limit_exceeded')
    expect(lines(ledger.ask(reversal(withdrawn, 30n)))).toEqual([
      [cashOf(TENANT), 'posted', -30n, -70n, 0n, 0n],
      [anna, 'posted', 30n, 70n, 0n, 0n],
    ])
  })

  test('cannot be reversed, nor can a transfer that was refused', () => {
    const { ledger, anna, ben } = people()
    const undoing = ledger.make(reversal(ledger.make(transfer([anna, ben, 40n]))))
    expectRefused(ledger, reversal(undoing), 'transfer_not_found')
    const { record } = ledger.ask(transfer([ben, anna, 1n]))
    expectRefused(ledger, reversal(record.id), 'transfer_not_found')
  })
})

describe('a wallet', () => {
  test('is opened active and empty under the id of the request', () => {
    const ledger = new MemoryLedger()
    const limits = { transferMax: 5n, balanceMax: 7n }
    const decision = ledger.ask({ kind: 'wallet-open', holderId: 'anna', currency: 'JPY', overdraftLimit: 3n, limits })
    expect(decision.entries).toEqual([])
    expect(ledger.account(decision.record.id)).toEqual({
      ...{ id: decision.record.id, tenantId: TENANT, kind: 'wallet', currency: 'JPY', status: 'active' },
      ...{ overdraftLimit: 3n, limits, sequence: 0 },
      ...{ debitsPosted: 0n, creditsPosted: 0n, debitsPending: 0n, creditsPending: 0n },
    })
  })

  test('that is frozen moves again when it is active again', () => {
    const ledger = new MemoryLedger()
    const [anna, ben] = [ledger.wallet({ funds: 10n }), ledger.wallet()]
    ledger.make(update(anna, { status: 'frozen' }))
    expectRefused(ledger, transfer([anna, ben, 1n]), 'wallet_frozen')
    ledger.make(update(anna, { status: 'active' }))
    expect(ledger.refusalOf(transfer([anna, ben, 1n]))).toBeNull()
  })

  test('that is empty can be closed, active or frozen', () => {
    const ledger = new MemoryLedger()
    const [anna, ben] = [ledger.wallet({ funds: 10n }), ledger.wallet()]
    ledger.make(withdrawal(anna, 10n))
    ledger.make(update(ben, { status: 'frozen' }))
    for (const id of [anna, ben]) {
      expect(ledger.refusalOf(update(id, { status: 'closed' }))).toBeNull()
      expect(ledger.account(id).status).toBe('closed')
    }
  })

  test.each<[what: string, prepare: (ledger: MemoryLedger, anna: string, ben: string) => void]>([
    ['it has money', (ledger, anna) => ledger.make(topUp(anna, 1n))],
    ['it is overdrawn', (ledger, anna, ben) => ledger.make(transfer([anna, ben, 1n]))],
    ['it has money held', (ledger, anna, ben) => ledger.make(hold([anna, ben, 1n]))],
    ['it has money coming', (ledger, anna, ben) => ledger.make(hold([ben, anna, 1n]))],
  ])('cannot be closed while %s', (_what, prepare) => {
    const ledger = new MemoryLedger()
    const [anna, ben] = [ledger.wallet({ overdraftLimit: 5n }), ledger.wallet({ overdraftLimit: 5n })]
    prepare(ledger, anna, ben)
    expectRefused(ledger, update(anna, { status: 'closed' }), 'wallet_not_empty')
  })

  test('can be closed once its hold is released', () => {
    const ledger = new MemoryLedger()
    const [anna, ben] = [ledger.wallet({ overdraftLimit: 5n }), ledger.wallet()]
    const id = ledger.make(hold([anna, ben, 1n]))
    expectRefused(ledger, update(ben, { status: 'closed' }), 'wallet_not_empty')
    ledger.make(release(id))
    expect(ledger.refusalOf(update(ben, { status: 'closed' }))).toBeNull()
  })

  test('has its limits replaced whole, or kept when none are given', () => {
    const ledger = new MemoryLedger()
    const anna = ledger.wallet({ limits: { transferMax: 5n, balanceMax: 7n } })
    ledger.make(update(anna, { name: 'Anna' }))
    expect(ledger.account(anna).limits).toEqual({ transferMax: 5n, balanceMax: 7n })
    ledger.make(update(anna, { limits: { balanceMax: 9n } }))
    expect(ledger.account(anna).limits).toEqual({ balanceMax: 9n })
    ledger.make(update(anna, { limits: {} }))
    expect(ledger.account(anna).limits).toEqual({})
  })
})

describe('the changes of a batch', () => {
  test('tell a wallet that the batch opened as it is after the batch, even if a request was taken back in between', () => {
    const ledger = new MemoryLedger()
    const bank = ledger.wallet({ overdraftLimit: 100n })
    const asOf = { holderId: 'anna', currency: 'EUR', overdraftLimit: 0n, limits: {} }
    const opening = ledger.request({ kind: 'wallet-open', ...asOf })
    const anna = opening.id
    const { changes } = ledger.post(
      opening,
      ledger.request(transfer([bank, anna, 100n], [bank, anna, 1n])),
      ledger.request(transfer([bank, anna, 10n])),
    )
    expect(changes.accounts.get(anna)).toMatchObject({ sequence: 1, creditsPosted: 10n })
    expect(changes.opened).toEqual([changes.accounts.get(anna)])
  })
})
