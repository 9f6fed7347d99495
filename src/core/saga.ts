import type { Leg } from './leg.ts'
import { type Refusal, winning } from './refusal.ts'

/**
 * A saga is a request whose wallets live on several shards. It begins in a block of the shard that the request is for, the
 * coordinator, and goes on in steps, each an ordinary request in an ordinary block of its shard (design, Sharding and sagas):
 *
 *   begin      coordinator   the client's request itself: its own part is reserved
 *   reserve    participant   its part is reserved; it can be taken back
 *   commit     participant   its part is done for good. This is the point of no return, so it is asked of one shard, the last,
 *                            after all others have reserved. With two shards there is nobody but the last: reserve, credit, finalize
 *   finalize   who reserved  what was reserved is done; the coordinator's turn comes last and ends the saga
 *   release    who reserved  what was reserved is free again; the coordinator's turn comes last and ends the saga
 *   cancel     participant   nothing, but a reserve or commit that comes later finds its place taken
 *
 * Two facts keep money from moving twice, and both are unique keys in a database. A shard's part is decided once: reserve,
 * commit and cancel share an idempotency key, so the first to arrive stands and the others learn what it was. A part ends once:
 * finalize and release share another. What a shard decided never changes, so anyone may ask again, twice, or late, and any node can
 * take a saga up from its beginning.
 */

/** A movement, and the shards that its two ends live on. */
export type SagaLeg = Leg & { readonly fromShard: number; readonly toShard: number }

/**
 * `move`: a transfer or reversal. `hold`: reserved everywhere, and left so. `capture`: a hold's pending lines become posted ones.
 * `let-go`: a hold's pending lines are taken back; decided by its beginning, so it can't fail.
 */
export type SagaKind = 'move' | 'hold' | 'capture' | 'let-go'

/** What is to be done, all of it, as its beginning recorded it. */
export type Saga = {
  /** The id of the request that began it. */
  readonly id: string
  readonly tenantId: string
  readonly kind: SagaKind
  /** What the client asked for. */
  readonly as: 'transfer' | 'reversal' | 'hold' | 'capture' | 'release' | 'expiry'
  /** The coordinator. */
  readonly shard: number
  readonly legs: readonly SagaLeg[]
  /** The hold that a capture or let-go ends. */
  readonly holdId?: string
  /** How much of that hold is captured. */
  readonly captured?: bigint
  /** The transfer that a reversal takes back. */
  readonly reverses?: string
  readonly memo?: string
}

/** What a shard is asked to do for a saga, beside its beginning. */
export type Step = 'reserve' | 'commit' | 'cancel' | 'finalize' | 'release'

/** What became of a participant's part. A refusal is final, so is the rest. */
export type PartOutcome = 'accepted' | 'cancelled' | Refusal

export type SagaEvent =
  /** `leg`: which of several the refusal is about. */
  | { readonly type: 'part'; readonly shard: number; readonly outcome: PartOutcome; readonly leg?: number }
  | { readonly type: 'ended'; readonly shard: number }
  /** It has taken too long: whoever has not decided yet is not waited for. */
  | { readonly type: 'give-up' }

/** Why a saga comes to nothing; with several legs, because of which. */
export type Reason = { readonly refusal: Refusal; readonly leg?: number }

/** A step that should be on its way. A release says why. */
export type SagaStep = { readonly shard: number; readonly step: Step; readonly reason?: Reason }

/** What is known of a saga. Nothing of it is stored: asked again, the shards answer the same. */
export type SagaState = {
  readonly saga: Saga
  readonly parts: ReadonlyMap<number, PartOutcome>
  readonly refusedLegs: ReadonlyMap<number, number>
  /** Shards whose reservation is finalized or released. */
  readonly ended: ReadonlySet<number>
  readonly isGivenUp: boolean
}

/** The shards that a saga needs beside its coordinator, the one that commits last. */
export function participantsOf({ shard, legs }: Saga): number[] {
  return [...new Set(legs.flatMap(({ fromShard, toShard }) => [fromShard, toShard]))].filter((one) => one !== shard)
}

/** What is known when a saga has begun, or is taken up again. */
export function initialState(saga: Saga): SagaState {
  return { saga, parts: new Map(), refusedLegs: new Map(), ended: new Set(), isGivenUp: false }
}

/** What is known after an event. The same event may come again. */
export function evolve(state: SagaState, event: SagaEvent): SagaState {
  switch (event.type) {
    case 'part':
      return {
        ...state,
        parts: new Map(state.parts).set(event.shard, event.outcome),
        refusedLegs:
          event.leg === undefined ? state.refusedLegs : new Map(state.refusedLegs).set(event.shard, event.leg),
      }
    case 'ended':
      return { ...state, ended: new Set(state.ended).add(event.shard) }
    case 'give-up':
      // What can't fail is not given up.
      return state.saga.kind === 'let-go' ? state : { ...state, isGivenUp: true }
    default:
      return event satisfies never
  }
}

/** Whether nothing is left to do. */
export function isOver({ saga, ended }: SagaState): boolean {
  return ended.has(saga.shard)
}

/** The steps that should be on their way now; none when the saga is over. */
export function decide(state: SagaState): SagaStep[] {
  if (isOver(state)) return []
  const { saga, parts } = state
  const shards = participantsOf(saga)
  const open = shards.filter((shard) => !parts.has(shard))
  const failed = shards.filter((shard) => parts.has(shard) && parts.get(shard) !== 'accepted')
  if (open.length > 0) {
    if (failed.length > 0 || state.isGivenUp) return open.map((shard) => ({ shard, step: 'cancel' }))
    return asking(saga, shards, open)
  }
  return failed.length === 0 ? finalizing(state, shards) : releasing(state, shards)
}

function asking({ kind }: Saga, shards: readonly number[], open: readonly number[]): SagaStep[] {
  if (kind === 'hold') return open.map((shard) => ({ shard, step: 'reserve' }))
  const last = lastOf(shards)
  const first = open.filter((shard) => shard !== last)
  return first.length > 0 ? first.map((shard) => ({ shard, step: 'reserve' })) : [{ shard: last, step: 'commit' }]
}

function finalizing({ saga, ended }: SagaState, shards: readonly number[]): SagaStep[] {
  // Of a hold, what participants have reserved stays.
  const reserved = saga.kind === 'hold' ? [] : shards.filter((shard) => shard !== lastOf(shards))
  const left = reserved.filter((shard) => !ended.has(shard))
  return (left.length > 0 ? left : [saga.shard]).map((shard) => ({ shard, step: 'finalize' }))
}

function releasing(state: SagaState, shards: readonly number[]): SagaStep[] {
  const { saga, parts, ended } = state
  const reason = reasonOf(state)
  const left = shards.filter((shard) => parts.get(shard) === 'accepted' && !ended.has(shard))
  return (left.length > 0 ? left : [saga.shard]).map((shard) => ({ shard, step: 'release', reason }))
}

/** Why a saga came to nothing, as the client is told: the winning refusal, or that a shard could not be asked. */
function reasonOf({ parts, refusedLegs }: SagaState): Reason {
  let refusal: Refusal | undefined
  for (const outcome of parts.values()) {
    if (outcome !== 'accepted' && outcome !== 'cancelled') refusal = winning(refusal, outcome)
  }
  if (!refusal) return { refusal: 'shard_unavailable' }
  const legs = [...refusedLegs].flatMap(([shard, leg]) => (parts.get(shard) === refusal ? [leg] : []))
  return legs.length > 0 ? { refusal, leg: Math.min(...legs) } : { refusal }
}

function lastOf(shards: readonly number[]): number {
  const last = shards.at(-1)
  if (last === undefined) throw new Error('a saga of one shard')
  return last
}

/** What a step does to the legs that touch its shard: pending lines, taking those back, posted lines. */
export type LineKind = 'reserve' | 'unreserve' | 'post'

const LINES: Readonly<Record<SagaKind, Readonly<Record<Step | 'begin', readonly LineKind[]>>>> = {
  move: {
    begin: ['reserve'],
    reserve: ['reserve'],
    commit: ['post'],
    finalize: ['unreserve', 'post'],
    release: ['unreserve'],
    cancel: [],
  },
  hold: { begin: ['reserve'], reserve: ['reserve'], commit: [], finalize: [], release: ['unreserve'], cancel: [] },
  capture: {
    begin: [],
    reserve: [],
    commit: ['unreserve', 'post'],
    finalize: ['unreserve', 'post'],
    release: [],
    cancel: [],
  },
  'let-go': { begin: ['unreserve'], reserve: [], commit: ['unreserve'], finalize: [], release: [], cancel: [] },
}

/** What a step does on a shard, in order: one pair of lines each, debit first. */
export function linesOf(
  { kind, legs, captured }: Pick<Saga, 'kind' | 'legs' | 'captured'>,
  step: Step | 'begin',
  shard: number,
): { line: LineKind; leg: SagaLeg; amount: bigint }[] {
  const mine = legs.filter(({ fromShard, toShard }) => fromShard === shard || toShard === shard)
  return LINES[kind][step].flatMap((line) =>
    mine.map((leg) => ({ line, leg, amount: line === 'post' ? (captured ?? leg.amount) : leg.amount })),
  )
}

/** The idempotency keys of steps. Clients' keys are ASCII, so they can't be taken for these. */
export function stepKey(step: Step): string {
  return step === 'finalize' || step === 'release' ? END_KEY : PART_KEY
}

export const PART_KEY = '§part'
export const END_KEY = '§end'

type SagaLegJson = { from: string; to: string; amount: string; currency: string; fromShard: number; toShard: number }

/** A saga as it is recorded; the tenant stands beside it. */
export type SagaJson = Omit<Saga, 'tenantId' | 'legs' | 'captured'> & { legs: SagaLegJson[]; captured?: string }

/** Fixed field order: it is hashed and compared. */
export function sagaJson({ id, kind, as, shard, legs, holdId, captured, reverses, memo }: Saga): SagaJson {
  return {
    ...{ id, kind, as, shard },
    legs: legs.map(({ from, to, amount, currency, fromShard, toShard }) => ({
      ...{ from, to, amount: `${amount}`, currency, fromShard, toShard },
    })),
    ...(holdId === undefined ? {} : { holdId }),
    ...(captured === undefined ? {} : { captured: `${captured}` }),
    ...(reverses === undefined ? {} : { reverses }),
    ...(memo === undefined ? {} : { memo }),
  }
}

const texts = new WeakMap<Saga, string>()

/** The same as text; a saga is recorded with its beginning and with each step. */
export function sagaText(saga: Saga): string {
  const known = texts.get(saga)
  if (known !== undefined) return known
  const text = JSON.stringify(sagaJson(saga))
  texts.set(saga, text)
  return text
}

/** Reads what `sagaJson` wrote. */
export function sagaOf(tenantId: string, { legs, captured, ...rest }: SagaJson): Saga {
  return {
    ...rest,
    tenantId,
    legs: legs.map((leg) => ({ ...leg, amount: BigInt(leg.amount) })),
    ...(captured === undefined ? {} : { captured: BigInt(captured) }),
  }
}

/** The saga that an accepted request began, by its recorded result; most begin none. */
export function begunSaga(tenantId: string, result: string | null): Saga | undefined {
  if (result === null || !result.includes('"saga":')) return undefined
  const { saga } = JSON.parse(result) as { saga?: SagaJson }
  return saga && sagaOf(tenantId, saga)
}
