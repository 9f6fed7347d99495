import type { Account } from './account.ts'
import { type BlockHeader, type ChainHead, canonicalItem, headerHash, type Item } from './block.ts'
import { type DueLine, dueLines } from './dueLines.ts'
import { leafHash, merkleRoot } from './merkle.ts'
import type { Payload } from './request.ts'
import { begunSaga } from './saga.ts'
import { recordedMovements } from './transfer.ts'
import type { Entry } from './workspace.ts'

/**
 * The rules by which a stored block is judged again, from what is stored alone. The canonical forms that are hashed, and what
 * a payload means, are the poster's; which entries and balances follow from it is worked out here once more.
 */

/** Where the books stop agreeing, and why. `null` is what doesn't apply or can't be known; ids are UUIDs. */
export type Finding = {
  readonly block: number | null
  /** The place of the request in its block. */
  readonly item: number | null
  readonly transaction: string | null
  readonly account: string | null
  /** What is there and what should be, in plain English. */
  readonly problem: string
}

/**
 * A request as it is stored; `opened` is the account that a wallet-open or wallet-arrive is about, the limit in decimal digits, `arrivedAt`
 * the sequence with which it is noted to have come.
 */
export type StoredItem = Omit<Item, 'entries'> & {
  readonly item: number
  readonly target: string | null
  readonly leaf: Buffer
  readonly arrivedAt: bigint | null
  readonly opened: (Pick<Account, 'tenantId' | 'kind' | 'currency'> & { readonly overdraftLimit: string | null }) | null
}

/** What an account holds after an entry. */
export type Balances = Pick<Entry, 'posted' | 'pendingOut' | 'pendingIn'>

/** An entry as it is stored, with what it builds on. */
export type StoredLine = Entry & {
  readonly item: number
  readonly line: number
  /** The balances after the entry of the same account whose sequence number is one less; `null` if there is none. */
  readonly previous: Balances | null
  /** That entry comes later in the chain than this one, which is never right. */
  readonly isPreviousLater: boolean
  readonly account: StoredAccount
}

/** What the row of an account says that entries must keep to; `currency` is `null` if there is no such row. */
export type StoredAccount = { readonly currency: string | null; readonly overdraftLimit: bigint | null }

/** What is wrong with an item: the account that shows it, if one does. */
type Wrong = { readonly account: string | null; readonly problem: string }

const EMPTY: Balances = { posted: 0n, pendingOut: 0n, pendingIn: 0n }

/** What is wrong with how a header follows the block before. */
export function brokenLink(header: BlockHeader, previous: ChainHead): Finding | undefined {
  const { number } = header
  const due = previous.number + 1
  if (number > due) {
    const before = previous.number === 0 ? 'the chain begins with' : `after block ${previous.number} comes`
    return ofBlock(due, `block ${due} is missing: ${before} block ${number}`)
  }
  if (number < due) return ofBlock(number, `there is a block ${number}, but the chain begins with block 1`)
  if (!header.previousHash.equals(previous.hash)) {
    const is = previous.number === 0 ? 'the first block must say' : `the hash of block ${previous.number} is`
    const [said, due] = [header.previousHash.toString('hex'), previous.hash.toString('hex')]
    return ofBlock(number, `block ${number} says that the hash of the block before it is ${said}, but ${is} ${due}`)
  }
  if (header.timeUs <= previous.timeUs) {
    const problem = `the time of block ${number} is ${header.timeUs} µs, not after the ${previous.timeUs} µs before it`
    return ofBlock(number, problem)
  }
  return undefined
}

/** What is wrong with a header by itself: its hash is not the hash of what it says. */
export function brokenSeal(header: BlockHeader): Finding | undefined {
  const hash = headerHash(header)
  if (hash.equals(header.hash)) return undefined
  const { number, shard } = header
  const problem =
    `the hash of block ${number} stands as ${header.hash.toString('hex')}, but its header, on shard ${shard}, has the hash ` +
    `${hash.toString('hex')}: the hash, time, writer, root or counts were changed`
  return ofBlock(number, problem)
}

function ofBlock(block: number, problem: string): Finding {
  return { block, item: null, transaction: null, account: null, problem }
}

/**
 * Checks what a block holds: against its header, by itself, and against the entries before. Stops at the first thing wrong.
 * @param items the requests that stand in the block, by item
 * @param lines the entries that stand in the block, by item and line
 */
export function auditBlock(
  header: BlockHeader,
  items: readonly StoredItem[],
  lines: readonly StoredLine[],
): Finding | undefined {
  const finding = auditItems(header, items, lines)
  if (finding) return finding
  const { number: block, entryCount } = header
  if (lines.length !== entryCount) {
    return ofBlock(block, `block ${block} has ${lines.length} entries, but its header counts ${entryCount}`)
  }
  const root = merkleRoot(items.map(({ leaf }) => leaf))
  if (root.equals(header.root)) return undefined
  const problem =
    `the Merkle root of block ${block} is ${header.root.toString('hex')}, but its requests make ${root.toString('hex')}: ` +
    'a request was changed together with the hash beside it'
  // Which of several can't be known: the root alone is left of what they were.
  const [only] = items.length === 1 ? items : []
  return { ...ofBlock(block, problem), item: only?.item ?? null, transaction: only?.id ?? null }
}

/** The same for a block whose header can't be trusted: what is wrong with its requests and entries by themselves. */
export function auditContents(
  header: BlockHeader,
  items: readonly StoredItem[],
  lines: readonly StoredLine[],
): Finding | undefined {
  return auditItems({ ...header, requestCount: (items.at(-1)?.item ?? -1) + 1 }, items, lines)
}

function auditItems(
  { shard, number: block, requestCount }: BlockHeader,
  items: readonly StoredItem[],
  lines: readonly StoredLine[],
): Finding | undefined {
  const accountOf = (item: number) => lines.find((line) => line.item === item)?.accountId ?? null
  const missing = (item: number): Finding => {
    const problem = `request ${item} of block ${block} is missing; its header counts ${requestCount}, from 0`
    return { block, item, transaction: null, account: accountOf(item), problem }
  }
  const stray = ({ item, line, accountId }: StoredLine): Finding => {
    const problem = `entry ${line} of request ${item} is there, but block ${block} has no such request`
    return { block, item, transaction: null, account: accountId, problem }
  }

  let taken = 0
  for (const [place, item] of items.entries()) {
    if (item.item < 0 || item.item >= requestCount) {
      const problem = `block ${block} has a request ${item.item}, but its header counts ${requestCount}, from 0`
      return { block, item: item.item, transaction: item.id, account: accountOf(item.item), problem }
    }
    if (item.item !== place) return missing(place)
    const start = taken
    const next = lines[start]
    if (next && next.item < place) return stray(next)
    while (lines[taken]?.item === place) taken += 1
    const wrong = auditItem(shard, item, lines.slice(start, taken))
    if (wrong) return { block, item: place, transaction: item.id, ...wrong }
  }
  if (items.length < requestCount) return missing(items.length)
  const left = lines[taken]
  return left && stray(left)
}

/** One request and its entries. That its meaning is wrong is told rather than that its hash is: it names an account. */
function auditItem(shard: number, item: StoredItem, lines: readonly StoredLine[]): Wrong | undefined {
  const payload = payloadOf(item.payload)
  const wrong =
    namingProblem(item, payload) ??
    openingProblem(item, payload) ??
    sagaProblem(item, payload, shard) ??
    entriesProblem(item, payload, lines, shard)
  const isAsSealed = leafHash(canonicalItem({ ...item, entries: lines })).equals(item.leaf)
  if (!wrong && isAsSealed) return undefined
  if (!wrong) {
    return {
      account: null,
      problem: `the ${item.kind}, its entries or the hash beside it were changed: they do not agree`,
    }
  }
  const seal = isAsSealed
    ? 'it has the hash it was written with'
    : 'it does not make the hash beside it: it was changed'
  return { account: wrong.account, problem: [wrong.problem, ...imbalances(lines), seal].join('; ') }
}

/** No hash covers `target`, and requests are found by it; wallet-updates are found by their scope. */
function namingProblem({ kind, target, scope }: StoredItem, payload: Payload): Wrong | undefined {
  const { holdId, transferId, walletId } = payload
  const named = holdId ?? transferId ?? null
  if (target !== named) {
    return { account: null, problem: `the target of the ${kind} is ${target}, but it asks for ${named}` }
  }
  if (kind === 'wallet-update' && scope !== walletId) {
    return { account: walletId ?? null, problem: `the scope of the ${kind} is ${scope}, but it asks for ${walletId}` }
  }
  return undefined
}

/** The account of a wallet must be what the wallet-open asked for, in all that never changes. */
function openingProblem(
  { id: requestId, tenantId, kind, scope, refusal, opened, arrivedAt }: StoredItem,
  payload: Payload,
): Wrong | undefined {
  const isArrival = kind === 'wallet-arrive'
  if ((kind !== 'wallet-open' && !isArrival) || refusal !== null) return undefined
  const id = isArrival ? scope : requestId
  if (!opened) return { account: id, problem: 'a wallet was opened, but its account is not there' }
  const {
    currency,
    overdraftLimit,
    sequence = null,
  } = isArrival ? (payload.wallet ?? {}) : { ...payload, sequence: null }
  const arrival = difference({ sequence: arrivedAt }, { sequence })
  if (arrival !== undefined) return { account: id, problem: `in what is noted of the arrival, ${arrival}` }
  const problem = difference(
    { tenant: opened.tenantId, kind: opened.kind, currency: opened.currency, overdraft_limit: opened.overdraftLimit },
    { tenant: tenantId, kind: 'wallet', currency: currency ?? null, overdraft_limit: overdraftLimit ?? null },
  )
  return problem === undefined ? undefined : { account: id, problem: `in the row of the account, ${problem}` }
}

/** A saga must be what its beginning was asked for; what steps do with it is worked out from it. */
function sagaProblem(item: StoredItem, payload: Payload, shard: number): Wrong | undefined {
  const { id, tenantId, kind, refusal, result } = item
  const saga = refusal === null ? begunSaga(tenantId, result) : undefined
  if (!saga) return undefined
  const [leg] = saga.legs
  const asked =
    kind === 'transfer' || kind === 'reversal'
      ? recordedMovements(kind, payload, JSON.parse(result ?? ''))
      : payload.legs
  const legs = asked?.map(({ from, to, amount, currency }) => `${from} ${to} ${amount} ${currency}`).join(', ')
  const said = saga.legs.map(({ from, to, amount, currency }) => `${from} ${to} ${amount} ${currency}`).join(', ')
  const captured = kind === 'capture' ? (payload.amount ?? leg?.amount ?? null) : null
  const problem = difference(
    {
      id: saga.id,
      kind: saga.as,
      shard: saga.shard,
      hold: saga.holdId ?? null,
      captured: saga.captured ?? null,
      legs: said,
    },
    // The legs of a hold that ends are the hold's; the history of the hold is looked at for itself.
    { id, kind, shard, hold: payload.holdId ?? null, captured, legs: legs ?? said },
  )
  return problem === undefined
    ? undefined
    : { account: leg?.from ?? null, problem: `of the saga that it began, ${problem}` }
}

function entriesProblem(
  item: StoredItem,
  payload: Payload,
  lines: readonly StoredLine[],
  shard: number,
): Wrong | undefined {
  const { kind, refusal } = item
  const [first] = lines
  if (refusal !== null) {
    const problem = `the ${kind} was refused, ${refusal}, but it has entries`
    return first && { account: first.accountId, problem }
  }
  const due = dueLines(item, payload, shard)
  if (!due) return { account: first?.accountId ?? null, problem: `what is stored is not an accepted ${kind}` }
  for (let i = 0; i < Math.max(due.length, lines.length); i++) {
    const [line, asked] = [lines[i], due[i]]
    if (!line || line.line !== i) {
      const what = asked ? `: ${lineText(asked)} is what it asks for` : ''
      const account = asked?.accountId ?? line?.accountId ?? null
      return { account, problem: `entry ${i} of the ${kind} is missing${what}` }
    }
    if (!asked) {
      const problem = `the ${kind} asks for ${due.length} entries, but there is one more, ${lineText(line)}`
      return { account: line.accountId, problem }
    }
    const problem = lineProblem(line, asked) ?? balanceProblem(line, asked)
    if (problem !== undefined) return { account: line.accountId, problem: `entry ${i} of the ${kind} ${problem}` }
  }
  // What is asked for comes in pairs of opposite amounts: entries that are just that sum to zero.
  return undefined
}

/** An entry against what its request asked for. */
function lineProblem(line: StoredLine, due: DueLine): string | undefined {
  const isDue =
    line.accountId === due.accountId &&
    line.amount === due.amount &&
    line.layer === due.layer &&
    line.currency === due.currency
  return isDue ? undefined : `is ${lineText(line)}, but what is asked for is ${lineText(due)}`
}

/** An entry against its account, and the entry of that account before it. */
function balanceProblem(line: StoredLine, { ends }: DueLine): string | undefined {
  const { account, sequence, currency, amount, layer, previous } = line
  if (account.currency === null) return 'is of an account that is not there'
  if (account.currency !== currency) return `is in ${currency}, but the account is in ${account.currency}`
  const before = sequence === 1 ? EMPTY : previous
  if (!before) return `is number ${sequence} of its account, which has no number ${sequence - 1}`
  if (before === previous && line.isPreviousLater) {
    return `is number ${sequence} of its account, but number ${sequence - 1} comes later in the chain`
  }
  // A debit opens pending out, a credit pending in; the lines that end a hold have the signs the other way round.
  const isOut = amount < 0n !== ends
  const posted = layer === 'posted' ? before.posted + amount : before.posted
  const pendingOut = layer === 'pending' && isOut ? before.pendingOut - amount : before.pendingOut
  const pendingIn = layer === 'pending' && !isOut ? before.pendingIn + amount : before.pendingIn
  if (line.posted !== posted || line.pendingOut !== pendingOut || line.pendingIn !== pendingIn) {
    const due = balancesText({ posted, pendingOut, pendingIn })
    return `leaves ${balancesText(line)}, but ${amount} ${layer} after ${balancesText(before)} makes ${due}`
  }
  const { overdraftLimit } = account
  if (overdraftLimit !== null && posted - pendingOut < -overdraftLimit) {
    return `leaves ${posted - pendingOut} available, below the floor of ${-overdraftLimit}`
  }
  return undefined
}

/** The golden rule, entries sum to zero per currency and layer: where they don't. */
function imbalances(lines: readonly StoredLine[]): string[] {
  const sums = new Map<string, bigint>()
  for (const { currency, layer, amount } of lines) {
    const name = `${currency} ${layer}`
    sums.set(name, (sums.get(name) ?? 0n) + amount)
  }
  return [...sums]
    .filter(([, sum]) => sum !== 0n)
    .map(([name, sum]) => `its entries sum to ${sum} ${name}, not to zero`)
}

/** A payload as it was recorded. What is no object has no fields. */
export function payloadOf(text: string): Payload {
  const payload: unknown = JSON.parse(text)
  return typeof payload === 'object' && payload !== null ? payload : {}
}

/** What stands in a column. An amount may come as bigint or as decimal digits. */
export type Value = string | number | bigint | null

/** Values by column. */
export type Columns = Readonly<Record<string, Value>>

/** The name of the first column that does not stand as it is due. */
export function differingColumn(stored: Columns, due: Columns): string | undefined {
  const textOf = (value: Value | undefined) => (value === null || value === undefined ? null : `${value}`)
  return Object.keys(due).find((column) => textOf(stored[column]) !== textOf(due[column]))
}

/** The first difference between what stands in columns and what is due, in words. */
export function difference(stored: Columns, due: Columns): string | undefined {
  const column = differingColumn(stored, due)
  return column === undefined
    ? undefined
    : `${column} is ${stored[column] ?? null}, but should be ${due[column] ?? null}`
}

function lineText({ accountId, amount, currency, layer }: Omit<DueLine, 'ends'>): string {
  return `${amount} ${currency} ${layer} on account ${accountId}`
}

function balancesText({ posted, pendingOut, pendingIn }: Balances): string {
  return `posted ${posted}, pending out ${pendingOut}, pending in ${pendingIn}`
}
