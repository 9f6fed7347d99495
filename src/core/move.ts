import { type Account, available, posted, type SystemAccountPlace } from './account.ts'
import type { Leg } from './leg.ts'
import type { OpenChange } from './mapChange.ts'
import { AMOUNT_MAX } from './money.ts'
import { type Refusal, winning } from './refusal.ts'
import type { Peer, Request } from './request.ts'
import { linesOf, type Saga, type SagaLeg, type Step, sagaJson } from './saga.ts'
import type { ShardMap } from './shardMap.ts'
import { type Movement, OUTSIDE } from './transfer.ts'
import type { Workspace } from './workspace.ts'

/**
 * Nothing was done, and the same may be asked again. `busy`: when the saga that it depends on is over. `ask_peers`: when the shards of
 * the other wallets have said what they know of them, for it is to be refused, and theirs may be the reason that comes first.
 * `moving`: when the change of the shard map that is under way is over. `moved`: of the shard that the map names now. `outdated`: it is
 * part of a change of the map that is not under way here, or not so far.
 */
export type Undecided = 'busy' | 'ask_peers' | 'moving' | 'moved' | 'outdated'

/** What a batch is posted under. */
export type PostingContext = {
  /** The time of the block, microseconds since 1970; later than the block before. */
  readonly nowUs: number
  readonly shard: number
  /** The shard that a wallet lives on, by its id. */
  readonly shardOf: (walletId: string) => number
  /** What is about to change of that. */
  readonly open?: OpenChange | undefined
  /** The map itself; a change of it must fit. */
  readonly map?: ShardMap
}

/** Accepted or refused, and what is to be recorded beside; or undecided, to be asked again. */
export type Verdict = { refusal: Refusal; result?: object } | { refusal?: never; result?: object } | Undecided

/**
 * Moves money on the posted layer, leg after leg, all or nothing. If a wallet lives elsewhere, a saga begins instead.
 * @param extra what the saga must know beside
 */
export function moveAll(
  work: Workspace,
  request: Request,
  movements: readonly Movement[],
  context: PostingContext,
  extra: Pick<Saga, 'reverses' | 'memo'> = {},
): Verdict {
  const standing = standingOf(work, request, movements, context)
  if (standing) return standing
  const legs = acrossShards(movements, context)
  if (legs)
    return begin(
      work,
      {
        ...sagaFor(request, ['move', extra.reverses === undefined ? 'transfer' : 'reversal'], legs, context),
        ...extra,
      },
      context,
    )
  for (const [leg, movement] of movements.entries()) {
    const { amount } = movement
    const { payer, payee } = endsOf(work, request.tenantId, movement, context)
    const refusal = balanceRefusalOf(payer, payee, amount)
    if (refusal) return refused(refusal, movements.length, leg)
    work.move(payer, -amount, 'posted')
    work.move(payee, amount, 'posted')
  }
  return {}
}

/** A saga for a request that is being decided. */
export function sagaFor(
  { id, tenantId }: Request,
  [kind, as]: readonly [Saga['kind'], Saga['as']],
  legs: readonly SagaLeg[],
  { shard }: PostingContext,
): Saga {
  return { id, tenantId, kind, as, shard, legs }
}

/** The movements with their shards if any of them leaves this one. Money from outside comes in on the wallet's own shard. */
export function acrossShards(
  movements: readonly Movement[],
  { shard, shardOf }: PostingContext,
): SagaLeg[] | undefined {
  const legs: SagaLeg[] = []
  let isAcross = false
  for (const { from, to, amount, currency } of movements) {
    if (from === null || to === null) continue
    const leg = { from, to, amount, currency, fromShard: shardOf(from), toShard: shardOf(to) }
    if (leg.fromShard !== shard || leg.toShard !== shard) isAcross = true
    legs.push(leg)
  }
  return isAcross ? legs : undefined
}

/** Begins a saga: this shard's part of it, and its record. What stands against it was looked at before. */
export function begin(work: Workspace, saga: Saga, context: PostingContext, result: object = {}): Verdict {
  const refusal = moveLines(work, saga, 'begin', context)
  if (refusal) return refusal
  work.sagasBegun.push(saga.id)
  return { result: { ...result, saga: sagaJson(saga) } }
}

/** Writes the lines of a step on this shard; where it takes up new amounts, the balances may refuse. */
export function moveLines(
  work: Workspace,
  saga: Saga,
  step: Step | 'begin',
  context: PostingContext,
): { refusal: Refusal; result?: object } | undefined {
  const isAsked = step === 'begin' || step === 'reserve' || step === 'commit'
  const checks = isAsked && (saga.kind === 'move' || saga.kind === 'hold')
  for (const { line, leg, amount } of linesOf(saga, step, context.shard)) {
    const { payer, payee } = endsOf(work, saga.tenantId, leg, context)
    const refusal = checks ? balanceRefusalOf(payer, payee, amount) : undefined
    if (refusal) return refused(refusal, saga.legs.length, saga.legs.indexOf(leg))
    const isEnding = line === 'unreserve'
    const signed = isEnding ? -amount : amount
    const layer = line === 'post' ? 'posted' : 'pending'
    work.move(payer, -signed, layer, isEnding)
    work.move(payee, signed, layer, isEnding)
  }
  return undefined
}

/** What stands against movements whatever the balances are, as far as this shard can tell. */
export function standingOf(
  work: Workspace,
  asking: Pick<Request, 'tenantId' | 'peers'>,
  movements: readonly Movement[],
  context: PostingContext,
): { refusal: Refusal; result?: object } | undefined {
  let refusal: Refusal | undefined
  let refusedLeg = 0
  movements.forEach((movement, leg) => {
    const won = winning(refusal, standingRefusal(work, asking, movement, context))
    if (won !== refusal) refusedLeg = leg
    refusal = won
  })
  return refusal && refused(refusal, movements.length, refusedLeg)
}

function standingRefusal(
  work: Workspace,
  { tenantId, peers }: Pick<Request, 'tenantId' | 'peers'>,
  movement: Movement,
  context: PostingContext,
): Refusal | undefined {
  const { from, to, currency } = movement
  const { shard } = context
  const shardOf = homesOf(movement, context)
  if (from === to) return 'same_wallet'
  // `undefined` is money outside, or a wallet elsewhere that nobody asked about: nothing stands against those.
  const look = (id: string | null): Peer | null | undefined => {
    if (id === null) return undefined
    return shardOf(id) === shard ? (walletOf(work, tenantId, id) ?? null) : peers?.get(id)
  }
  const [payer, payee] = [look(from), look(to)]
  if ((payer && payer.currency !== currency) || (payee && payee.currency !== currency)) return 'currency_mismatch'
  if (payer === null) return 'from_not_found'
  if (payee === null) return 'to_not_found'
  return statusRefusal(payer, payee)
}

/** What the status of two wallets says against moving money between them; `undefined` is one that doesn't live here. */
export function statusRefusal(payer: Peer | undefined, payee: Peer | undefined): Refusal | undefined {
  if (payer?.status === 'closed' || payee?.status === 'closed') return 'wallet_closed'
  if (payer?.status === 'frozen' || payee?.status === 'frozen') return 'wallet_frozen'
  return undefined
}

/** What the balances say against moving, or reserving, an amount. What is pending counts as if it were posted already. */
export function balanceRefusalOf(from: Account, to: Account, amount: bigint): Refusal | undefined {
  const { transferMax } = from.limits
  const { balanceMax } = to.limits
  if (transferMax !== undefined && amount > transferMax) return 'limit_exceeded'
  if (balanceMax !== undefined && posted(to) + to.creditsPending + amount > balanceMax) return 'limit_exceeded'
  if (from.overdraftLimit !== null && available(from) - amount < -from.overdraftLimit) return 'insufficient_funds'
  const debits = from.debitsPosted + from.debitsPending + amount
  const credits = to.creditsPosted + to.creditsPending + amount
  return debits > AMOUNT_MAX || credits > AMOUNT_MAX ? 'balance_overflow' : undefined
}

/** The accounts on this shard between which a movement goes: wallets; cash for money outside; transit for a wallet elsewhere. */
export function endsOf(
  work: Workspace,
  tenantId: string,
  movement: Pick<Movement | Leg | SagaLeg, 'from' | 'to' | 'currency'>,
  context: Pick<PostingContext, 'shard' | 'shardOf'>,
): { payer: Account; payee: Account } {
  const { from, to, currency } = movement
  const { shard } = context
  const shardOf = homesOf(movement, context)
  const end = (id: string | null): Account => {
    const place = systemEnd(tenantId, id, currency, shard, shardOf)
    const account = place ? work.systemAccount(place) : id === null ? undefined : work.account(id)
    if (!account) throw new Error(`a movement of ${id} passed the checks, but the account is not loaded`)
    return account
  }
  return { payer: end(from), payee: end(to) }
}

/** Where the ends of a movement live: what a saga has recorded counts till its end; else it is what the map says. */
export function homesOf(
  movement: Pick<Movement | SagaLeg, 'from'>,
  { shardOf }: Pick<PostingContext, 'shardOf'>,
): PostingContext['shardOf'] {
  if (!('fromShard' in movement)) return shardOf
  const { from, fromShard, toShard } = movement as SagaLeg
  return (id) => (id === from ? fromShard : toShard)
}

/** The system account that stands on this shard for an end of a movement; `undefined` if the end is a wallet that lives here. */
export function systemEnd(
  tenantId: string,
  id: string | null,
  currency: string,
  shard: number,
  shardOf: PostingContext['shardOf'],
): SystemAccountPlace | undefined {
  if (id === null) return { tenantId, shard, kind: OUTSIDE, currency }
  const home = shardOf(id)
  return home === shard ? undefined : { tenantId, shard, kind: 'transit', currency, peer: home }
}

/** A wallet of this tenant; what belongs to others, and what is no wallet, is not there for it. */
export function walletOf(work: Workspace, tenantId: string, id: string): Account | undefined {
  const account = work.account(id)
  return account?.kind === 'wallet' && account.tenantId === tenantId ? account : undefined
}

function refused(refusal: Refusal, legCount: number, leg: number): { refusal: Refusal; result?: object } {
  return legCount > 1 ? { refusal, result: { leg } } : { refusal }
}
