/**
 * Random work for a ledger. What is generated are choices (the how-manieth wallet, an amount around some limit). What they
 * come to is resolved against the model as it stands when the request is made, so that most requests make sense, the
 * others fail in interesting ways, and a shrunk counterexample is still well-formed.
 */
import fc from 'fast-check'
import { type AccountStatus, type Limits, systemAccountId } from '../../src/core/account.ts'
import { digestUuid } from '../../src/core/ids.ts'
import type { Leg } from '../../src/core/leg.ts'
import { AMOUNT_MAX } from '../../src/core/money.ts'
import { type Operation, type Request, requestOf } from '../../src/core/request.ts'
import { balanceOf, type Ledger } from './model.ts'

export const SHARD = 3
const TENANTS = ['tenant 0', 'tenant 1'].map(digestUuid)
const CURRENCIES = ['EUR', 'EUR', 'EUR', 'EUR', 'EUR', 'USD']
const UNKNOWN_ID = digestUuid('nothing that is there')
const SECOND_US = 1_000_000

// The choices.

type Party = {
  how: 'fitting' | 'own' | 'emptied' | 'anyones' | 'unknown' | 'system' | 'payer' | 'last payee'
  n: number
}
type Amount = { how: 'small' | 'power' | 'edge' | 'all'; n: number; off: bigint }
type Currency = 'fitting' | 'other'
type LegChoice = { from: Party; to: Party; amount: Amount; currency: Currency }
type Target = { how: 'right' | 'stuck' | 'other tenant' | 'any request' | 'unknown'; n: number }
type Opening = { currency: number; overdraftLimit: bigint; limits: Limits }

type Action =
  | { kind: 'transfer'; legs: LegChoice[] }
  | { kind: 'top-up' | 'withdrawal'; wallet: Party; amount: Amount; currency: Currency }
  | { kind: 'reversal' | 'capture'; target: Target; amount: Amount | undefined }
  | { kind: 'hold'; leg: LegChoice; expiresInSeconds: number }
  | { kind: 'release' | 'expiry'; target: Target }
  | { kind: 'wallet-open'; opening: Opening }
  | { kind: 'wallet-update'; wallet: Party; status: AccountStatus | undefined; limits: Limits | undefined }
  | { kind: 'again'; change: Change; n: number }

/** How a request that comes again differs from the earlier one. */
type Change = 'nothing' | 'kind' | 'amount' | 'tenant'

/** `key`: a fresh one, or one of a few that soon come twice for the same scope. */
export type Command = { tenant: number; key: 'fresh' | 'common'; action: Action }

/** When the batch comes: some time after the one before, or near the expiry of a hold. */
export type Wait = { how: 'for' | 'until expiry'; n: number; us: number }

/** `cuts`: where it is split, to compare with the batch as a whole. */
export type Batch = { wait: Wait; commands: Command[]; cuts: number[] }

// Their generators.

const n = fc.nat(999)

function oneOf<T>(...choices: [weight: number, value: T][]): fc.Arbitrary<T> {
  return fc.oneof(...choices.map(([weight, value]) => ({ weight, arbitrary: fc.constant(value) })))
}

/** The one in `weight` of ten. */
function maybe<T>(weight: number, arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> {
  return fc.oneof({ weight: 10 - weight, arbitrary: fc.constant(undefined) }, { weight, arbitrary })
}

const small = fc.bigInt({ min: 1n, max: 300n })
const huge = fc.oneof(
  fc.bigInt({ min: AMOUNT_MAX - 3n, max: AMOUNT_MAX }),
  fc.bigInt({ min: AMOUNT_MAX / 2n - 2n, max: AMOUNT_MAX / 2n + 2n }),
)

const payer = fc.record({
  how: oneOf<Party['how']>([40, 'own'], [2, 'anyones'], [1, 'unknown'], [1, 'system'], [8, 'last payee']),
  n,
})
const payee = fc.record({
  how: oneOf<Party['how']>([40, 'fitting'], [2, 'own'], [1, 'anyones'], [1, 'unknown'], [1, 'system'], [1, 'payer']),
  n,
})
const wallet = fc.record({ how: oneOf<Party['how']>([24, 'own'], [1, 'anyones'], [1, 'unknown'], [1, 'system']), n })
const emptied = fc.record({ how: fc.constant<Party['how']>('emptied'), n })
const currency = oneOf<Currency>([30, 'fitting'], [1, 'other'])
const target = fc.record({
  how: oneOf<Target['how']>([20, 'right'], [4, 'stuck'], [1, 'other tenant'], [2, 'any request'], [1, 'unknown']),
  n,
})

/** How large the numbers are: the counters never fill up, or now and then, or soon (and then most is refused). */
type Climate = {
  small: number
  edge: number
  power: number
  limits: number
  overdrafts: number
  hugeOverdrafts: number
}

const TAME: Climate = { small: 12, edge: 4, power: 0, limits: 2, overdrafts: 2, hugeOverdrafts: 0 }
const WILD: Climate = { small: 12, edge: 4, power: 4, limits: 2, overdrafts: 2, hugeOverdrafts: 3 }
const BRIMMING: Climate = { small: 2, edge: 6, power: 6, limits: 0, overdrafts: 0, hugeOverdrafts: 12 }

function commandOf(climate: Climate): fc.Arbitrary<Command> {
  const amount = amountsOf(climate)
  const leg: fc.Arbitrary<LegChoice> = fc.record({ from: payer, to: payee, amount, currency })
  const action = fc.oneof<{ weight: number; arbitrary: fc.Arbitrary<Action> }[]>(
    {
      weight: 12,
      arbitrary: fc.record({
        kind: fc.constant('transfer'),
        legs: fc.oneof(
          fc.array(leg, { minLength: 1, maxLength: 1 }),
          fc.array(leg, { minLength: 2, maxLength: 4, size: 'max' }),
        ),
      }),
    },
    { weight: 7, arbitrary: fc.record({ kind: fc.constant('top-up'), wallet, amount, currency }) },
    { weight: 5, arbitrary: fc.record({ kind: fc.constant('withdrawal'), wallet, amount, currency }) },
    { weight: 9, arbitrary: fc.record({ kind: fc.constant('reversal'), target, amount: maybe(5, amount) }) },
    {
      weight: 11,
      arbitrary: fc.record({ kind: fc.constant('hold'), leg, expiresInSeconds: oneOf([1, 1], [2, 60], [1, 3600]) }),
    },
    { weight: 9, arbitrary: fc.record({ kind: fc.constant('capture'), target, amount: maybe(5, amount) }) },
    { weight: 4, arbitrary: fc.record({ kind: fc.constant('release'), target }) },
    { weight: 4, arbitrary: fc.record({ kind: fc.constant('expiry'), target }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('wallet-open'), opening: openingOf(climate) }) },
    {
      weight: 5,
      arbitrary: fc.record({
        kind: fc.constant('wallet-update'),
        wallet,
        status: oneOf<AccountStatus | undefined>([2, undefined], [6, 'active'], [2, 'frozen'], [2, 'closed']),
        limits: maybe(2, limitsOf(climate)),
      }),
    },
    {
      weight: 3,
      arbitrary: fc.record({
        kind: fc.constant('wallet-update'),
        wallet: emptied,
        status: fc.constant('closed'),
        limits: fc.constant(undefined),
      }),
    },
    {
      weight: 5,
      arbitrary: fc.record({
        kind: fc.constant('again'),
        change: oneOf<Change>([5, 'nothing'], [3, 'kind'], [3, 'amount'], [1, 'tenant']),
        n,
      }),
    },
  )
  return fc.record({ tenant: oneOf([4, 0], [1, 1]), key: oneOf<Command['key']>([25, 'fresh'], [1, 'common']), action })
}

function amountsOf({ small, edge, power }: Climate): fc.Arbitrary<Amount> {
  return fc.record({
    how: oneOf<Amount['how']>([small, 'small'], [edge, 'edge'], [2, 'all'], [power, 'power']),
    n,
    off: fc.bigInt({ min: -1n, max: 1n }),
  })
}

function limitsOf(climate: Climate): fc.Arbitrary<Limits> {
  const limit = maybe(climate.limits, climate.power > 0 ? fc.oneof(small, huge) : small)
  return fc.record({ transferMax: limit, balanceMax: limit }).map(({ transferMax, balanceMax }) => ({
    ...(transferMax === undefined ? {} : { transferMax }),
    ...(balanceMax === undefined ? {} : { balanceMax }),
  }))
}

function openingOf(climate: Climate): fc.Arbitrary<Opening> {
  return fc.record({
    currency: fc.nat(CURRENCIES.length - 1),
    overdraftLimit: fc.oneof(
      { weight: 3, arbitrary: fc.constant(0n) },
      { weight: climate.overdrafts, arbitrary: small },
      { weight: climate.hugeOverdrafts, arbitrary: huge },
    ),
    limits: limitsOf(climate),
  })
}

const wait: fc.Arbitrary<Wait> = fc.oneof(
  fc.record({ how: fc.constant('for' as const), n, us: fc.integer({ min: 1, max: 30 * SECOND_US }) }),
  fc.record({ how: fc.constant('until expiry' as const), n, us: fc.integer({ min: -1, max: 1 }) }),
)

function batchesOf(climate: Climate): fc.Arbitrary<Batch[]> {
  const open = fc.record({
    tenant: oneOf([4, 0], [1, 1]),
    key: fc.constant<Command['key']>('fresh'),
    action: fc.record({ kind: fc.constant('wallet-open' as const), opening: openingOf(climate) }),
  })
  const fund = fc.record({
    tenant: oneOf([4, 0], [1, 1]),
    key: fc.constant<Command['key']>('fresh'),
    action: fc.record({
      kind: fc.constant('top-up' as const),
      wallet: fc.record({ how: fc.constant('own' as const), n }),
      amount: amountsOf(climate),
      currency: fc.constant('fitting' as const),
    }),
  })
  const batchOf = (commands: fc.Arbitrary<Command[]>): fc.Arbitrary<Batch> =>
    fc.record({ wait, commands, cuts: fc.array(n, { maxLength: 4 }) })
  const many = (command: fc.Arbitrary<Command>, minLength: number, maxLength: number) =>
    fc.array(command, { minLength, maxLength, size: 'max' })
  return fc
    .tuple(
      batchOf(many(open, 5, 10)),
      batchOf(many(fund, 6, 15)),
      fc.array(batchOf(many(commandOf(climate), 1, 30)), { minLength: 1, maxLength: 5, size: 'max' }),
    )
    .map(([opening, funding, others]) => [opening, funding, ...others])
}

/** Batches of commands; the first opens wallets, the second tops them up. */
export const batches: fc.Arbitrary<Batch[]> = fc.oneof(
  { weight: 5, arbitrary: batchesOf(TAME) },
  { weight: 3, arbitrary: batchesOf(WILD) },
  { weight: 2, arbitrary: batchesOf(BRIMMING) },
)

// What the choices come to.

/** What there is to choose from: the ledger so far, and all that was ever asked. */
export type World = { ledger: Ledger; readonly asked: Request[] }

function pick<T>(from: readonly T[], index: number): T | undefined {
  return from[index % Math.max(from.length, 1)]
}

export function timeAfter({ ledger }: World, nowUs: number, { how, n, us }: Wait): number {
  const hold = how === 'for' ? undefined : pick(ledger.holds, n)
  return Math.max(nowUs + 1, hold ? hold.expiresAtUs + us : nowUs + Math.abs(us))
}

/** The next request, under an id of its own. */
export function resolve(world: World, command: Command): Request {
  const id = `00000000-0000-7000-8000-${world.asked.length.toString(16).padStart(12, '0')}`
  const { tenantId, key, operation } = choose(world, command)
  const isOfCash = 'walletId' in operation && CURRENCIES.some((c) => operation.walletId === cashOf(tenantId, c))
  // what becomes of a top-up of the very account that would pay it is asked in post.table.test.ts
  const isLeftOut = isOfCash && operation.kind !== 'wallet-update'
  return requestOf(id, tenantId, key, isLeftOut ? release(UNKNOWN_ID) : operation)
}

type Asked = Pick<Request, 'tenantId' | 'key' | 'operation'>

function choose(world: World, { tenant, key: choice, action }: Command): Asked {
  const tenantId = TENANTS[tenant] ?? UNKNOWN_ID
  const key = choice === 'fresh' ? `key ${world.asked.length}` : choice
  if (action.kind !== 'again') return { tenantId, key, operation: operationOf(world, tenantId, action) }
  const earlier = pick(world.asked, action.n)
  return earlier ? askedAgain(earlier, action.change) : { tenantId, key, operation: release(UNKNOWN_ID) }
}

function release(holdId: string): Operation {
  return { kind: 'release', holdId }
}

/** The same key in the same scope, and the same or another request. */
function askedAgain({ tenantId, key, operation }: Asked, change: Change): Asked {
  const other = TENANTS.find((id) => id !== tenantId) ?? UNKNOWN_ID
  return { tenantId: change === 'tenant' ? other : tenantId, key, operation: changed(operation, change) }
}

const SIBLINGS = { 'top-up': 'withdrawal', withdrawal: 'top-up', release: 'expiry', expiry: 'release' } as const

function changed(operation: Operation, change: Change): Operation {
  switch (operation.kind) {
    case 'top-up':
    case 'withdrawal':
      if (change === 'kind') return { ...operation, kind: SIBLINGS[operation.kind] }
      return change === 'amount' ? { ...operation, amount: other(operation.amount) } : operation
    case 'release':
    case 'expiry':
      return change === 'kind' ? { ...operation, kind: SIBLINGS[operation.kind] } : operation
    case 'transfer': {
      if (change !== 'amount') return operation
      const legs = operation.legs.map((leg, i) => (i === 0 ? { ...leg, amount: other(leg.amount) } : leg))
      return { ...operation, legs }
    }
    case 'hold':
      return change === 'amount' ? { ...operation, expiresInSeconds: operation.expiresInSeconds + 1 } : operation
    case 'reversal':
    case 'capture':
      return change === 'amount' ? { ...operation, amount: other(operation.amount ?? 1n) } : operation
    case 'wallet-open':
    case 'wallet-update':
    case 'saga-reserve':
    case 'saga-commit':
    case 'saga-cancel':
    case 'saga-finalize':
    case 'saga-release':
    case 'map-close':
    case 'map-depart':
    case 'map-abandon':
    case 'map-open':
    case 'wallet-depart':
    case 'wallet-arrive':
    case 'hold-move':
      return operation
    default:
      return operation satisfies never
  }
}

function other(amount: bigint): bigint {
  return amount === AMOUNT_MAX ? 1n : amount + 1n
}

function operationOf(world: World, tenantId: string, action: Exclude<Action, { kind: 'again' }>): Operation {
  switch (action.kind) {
    case 'transfer': {
      const legs: Leg[] = []
      for (const choice of action.legs) legs.push(legOf(world, tenantId, choice, legs.at(-1)))
      return { kind: 'transfer', legs, remarks: {} }
    }
    case 'top-up':
    case 'withdrawal': {
      const walletId = partyOf(world, tenantId, action.wallet)
      const edges = edgesOf(world, action.kind === 'top-up' ? { to: walletId } : { from: walletId })
      const amount = amountOf(action.amount, edges, action.kind === 'top-up' ? 900 : 300)
      return { kind: action.kind, walletId, amount, currency: currencyOf(world, walletId, action.currency) }
    }
    case 'reversal': {
      const transferId = targetOf(world, tenantId, world.ledger.transfers, action.target)
      if (!action.amount) return { kind: 'reversal', transferId }
      const transfer = world.ledger.transfers.find((t) => t.id === transferId)
      const total = transfer?.movements.reduce((sum, { amount }) => sum + amount, 0n) ?? 1n
      const edges = [total, total - (transfer?.reversed ?? 0n), ...edgesOf(world, { from: transfer?.movements[0]?.to })]
      return { kind: 'reversal', transferId, amount: amountOf(action.amount, edges) }
    }
    case 'hold': {
      const leg = legOf(world, tenantId, action.leg, undefined)
      return { kind: 'hold', leg, expiresInSeconds: action.expiresInSeconds, remarks: {} }
    }
    case 'capture': {
      const holdId = targetOf(world, tenantId, holdsOf(world), action.target)
      const hold = world.ledger.holds.find(({ id }) => id === holdId)
      if (!action.amount) return { kind: 'capture', holdId }
      return { kind: 'capture', holdId, amount: amountOf(action.amount, [hold?.movement.amount ?? 1n]) }
    }
    case 'release':
    case 'expiry':
      return { kind: action.kind, holdId: targetOf(world, tenantId, holdsOf(world), action.target) }
    case 'wallet-open': {
      const { overdraftLimit, limits, currency: index } = action.opening
      const holderId = `holder ${world.asked.length}`
      return { kind: 'wallet-open', holderId, currency: CURRENCIES[index] ?? 'EUR', overdraftLimit, limits }
    }
    case 'wallet-update': {
      const { status, limits } = action
      const walletId = partyOf(world, tenantId, action.wallet)
      return {
        kind: 'wallet-update',
        walletId,
        ...(status === undefined ? {} : { status }),
        ...(limits === undefined ? {} : { limits }),
        ...(status === undefined && limits === undefined ? { name: 'another' } : {}),
      }
    }
    default:
      return action satisfies never
  }
}

function legOf(world: World, tenantId: string, choice: LegChoice, before: Leg | undefined): Leg {
  const from = partyOf(world, tenantId, choice.from, before?.to)
  const to = partyOf(world, tenantId, choice.to, from)
  const amount = amountOf(choice.amount, edgesOf(world, { from, to }))
  return { from, to, amount, currency: currencyOf(world, from, choice.currency) }
}

function cashOf(tenantId: string, currency: string): string {
  return systemAccountId({ tenantId, shard: SHARD, kind: 'cash', currency })
}

/** @param near the account that a fitting one goes with: the payer for a payee, the last payee for a payer */
function partyOf({ ledger }: World, tenantId: string, { how, n }: Party, near?: string): string {
  const wallets = ledger.accounts.filter(({ isWallet }) => isWallet)
  const own = wallets.filter((account) => account.tenantId === tenantId)
  const nearCurrency = ledger.accounts.find(({ id }) => id === near)?.currency
  switch (how) {
    case 'fitting': {
      const fitting = own.filter(({ id, currency }) => id !== near && currency === nearCurrency)
      return pick(fitting, n)?.id ?? pick(own, n)?.id ?? UNKNOWN_ID
    }
    case 'own':
      return pick(own, n)?.id ?? UNKNOWN_ID
    case 'emptied': {
      const emptied = own.filter(({ id }) => {
        const { sequence, posted, pendingOut, pendingIn } = balanceOf(ledger, id)
        return sequence > 0 && posted === 0n && pendingOut === 0n && pendingIn === 0n
      })
      return pick(emptied, n)?.id ?? pick(own, n)?.id ?? UNKNOWN_ID
    }
    case 'anyones':
      return pick(wallets, n)?.id ?? UNKNOWN_ID
    case 'unknown':
      return UNKNOWN_ID
    case 'system':
      return cashOf(pick(TENANTS, n) ?? '', 'EUR')
    case 'payer':
    case 'last payee':
      return near ?? pick(own, n)?.id ?? UNKNOWN_ID
    default:
      return how satisfies never
  }
}

function currencyOf({ ledger }: World, accountId: string, choice: Currency): string {
  const fitting = ledger.accounts.find(({ id }) => id === accountId)?.currency ?? 'EUR'
  return choice === 'fitting' ? fitting : fitting === 'EUR' ? 'USD' : 'EUR'
}

/** @param all what it may be: the holds or the transfers, with the movements they are made of */
function targetOf(
  { asked, ledger }: World,
  tenantId: string,
  all: readonly { id: string; tenantId: string; movements: readonly { from: string; to: string }[] }[],
  { how, n }: Target,
): string {
  // the latest are the most interesting, the others are soon spent
  const own = all.filter((each) => each.tenantId === tenantId).slice(-5)
  switch (how) {
    case 'right':
      return pick(own, n)?.id ?? UNKNOWN_ID
    case 'stuck': {
      const status = n % 2 === 0 ? 'closed' : 'frozen'
      const stuck = ledger.accounts.filter((account) => account.status === status).map(({ id }) => id)
      const touched = all.filter(
        (each) => each.tenantId === tenantId && each.movements.some((m) => stuck.includes(m.to)),
      )
      return pick(touched, n)?.id ?? pick(own, n)?.id ?? UNKNOWN_ID
    }
    case 'other tenant':
      return (
        pick(
          all.filter((each) => each.tenantId !== tenantId),
          n,
        )?.id ?? UNKNOWN_ID
      )
    case 'any request':
      return pick(asked, n)?.id ?? UNKNOWN_ID
    case 'unknown':
      return UNKNOWN_ID
    default:
      return how satisfies never
  }
}

function holdsOf({ ledger }: World) {
  return ledger.holds.map((hold) => ({ ...hold, movements: [hold.movement] }))
}

/** The amounts at which the answer changes, first all that can be paid, when money goes from one account to the other. */
function edgesOf({ ledger }: World, { from, to }: { from?: string | undefined; to?: string | undefined }): bigint[] {
  const edges: bigint[] = []
  const payer = ledger.accounts.find(({ id }) => id === from)
  if (payer) {
    const { posted, pendingOut, debitsPosted } = balanceOf(ledger, payer.id)
    edges.push(posted - pendingOut + (payer.overdraftLimit ?? 0n), payer.limits.transferMax ?? 0n)
    if (debitsPosted > AMOUNT_MAX / 4n) edges.push(AMOUNT_MAX - debitsPosted)
    if (pendingOut > AMOUNT_MAX / 4n) edges.push(AMOUNT_MAX - pendingOut)
  }
  const payee = ledger.accounts.find(({ id }) => id === to)
  if (payee) {
    const { posted, pendingIn, creditsPosted } = balanceOf(ledger, payee.id)
    edges.push((payee.limits.balanceMax ?? 0n) - posted - pendingIn)
    if (creditsPosted > AMOUNT_MAX / 4n) edges.push(AMOUNT_MAX - creditsPosted)
    if (pendingIn > AMOUNT_MAX / 4n) edges.push(AMOUNT_MAX - pendingIn)
  }
  return edges.filter((edge) => edge > 0n)
}

function amountOf({ how, n, off }: Amount, edges: readonly bigint[], smallMax = 300): bigint {
  const small = BigInt((n % smallMax) + 1)
  const choices = { small, power: 2n ** BigInt(63 - (n % 8)), edge: pick(edges, n), all: edges[0] }
  const amount = (choices[how] ?? small) + (how === 'all' ? 0n : off)
  return amount < 1n ? 1n : amount > AMOUNT_MAX ? AMOUNT_MAX : amount
}
