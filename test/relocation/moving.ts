import type { Hold } from '../../src/core/hold.ts'
import { digestUuid, slotOfId } from '../../src/core/ids.ts'
import { isMovingSlot, type MapChange, SYSTEM_TENANT } from '../../src/core/mapChange.ts'
import type { Undecided } from '../../src/core/move.ts'
import type { Outcome } from '../../src/core/post.ts'
import type { Refusal } from '../../src/core/refusal.ts'
import {
  departedOf,
  holdOf,
  type MovedWallet,
  type RelocationOperation,
  relocationKey,
} from '../../src/core/relocation.ts'
import {
  type Payload,
  type Peer,
  type Request,
  type RequestRecord,
  requestOf,
  stepRequest,
  walletsOf,
} from '../../src/core/request.ts'
import { begunSaga, decide, evolve, initialState, isOver, type Saga } from '../../src/core/saga.ts'
import { shardOfSlot } from '../../src/core/shardMap.ts'
import { endOf, partOf } from '../../src/saga/runner.ts'
import { idIn } from '../saga/memory-shards.ts'
import { CopiedTooLate, type MovingShards } from './moving-shards.ts'

/** Work that others may come between, wherever it yields. */
export type Work<T> = Generator<void, T>

/** A step could not be decided; whoever asked gives up. */
export class Outdated extends Error {}

/** A request on its way to a shard: it may arrive, never, late, or twice. */
export type Message = { readonly shard: number; readonly request: Request }

/** A number from 0 to below `n`, by chance. */
export type Chance = (n: number) => number

/** The same numbers for the same seed (mulberry32). */
export function chanceOf(seed: number): Chance {
  let state = seed
  return (n) => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 4294967296) * n)
  }
}

/** What all who work on the shards have in common. */
export type Stage = {
  readonly world: MovingShards
  readonly chance: Chance
  /** What was sent, and may arrive once more. */
  readonly sent: Message[]
  /** What was about to be sent when its sender crashed. */
  readonly adrift: Message[]
  /** Makes ids differ. */
  count: number
}

/** Sends a message. @param lost told of it while it is on its way */
function* send(
  stage: Stage,
  message: Message,
  lost: (message: Message | undefined) => void,
): Work<Outcome | Undecided> {
  lost(message)
  yield
  lost(undefined)
  stage.sent.push(message)
  return stage.world.post(message.shard, message.request, [besides(stage, message), besides(stage, message)])
}

/** What comes to the same shard late, or for the second time, just then, and is in the same batch. */
function besides({ chance, adrift, sent }: Stage, { shard }: Message): Request[] {
  if (chance(8) !== 5) return []
  const late = adrift.findIndex((message) => message.shard === shard)
  const lates = late < 0 ? [] : adrift.splice(late, 1)
  const again = Array.from({ length: 2 }, () => sent[chance(sent.length)]).filter((message) => message?.shard === shard)
  return [...lates, ...again].flatMap((message) => message?.request ?? [])
}

/**
 * Makes and ends changes of the map, as src/relocation/mover.ts does, but step by step; what that does at once is done in an order that
 * chance decides.
 */
export class Mover {
  protected readonly stage: Stage
  /** What is on its way. */
  pending: Message | undefined

  constructor(stage: Stage) {
    this.stage = stage
  }

  protected request(operation: RelocationOperation, place = { tenantId: SYSTEM_TENANT, slot: 0 }): Request {
    this.stage.count += 1
    return requestOf(
      idIn(place.slot, `step of a move ${this.stage.count}`),
      place.tenantId,
      relocationKey(operation),
      operation,
    )
  }

  protected *ask(shard: number, request: Request): Work<RequestRecord> {
    const outcome = yield* send(this.stage, { shard, request }, (message) => {
      this.pending = message
    })
    if (typeof outcome !== 'object') throw new Outdated(`${request.operation.kind} on shard ${shard} is ${outcome}`)
    return outcome.record
  }

  /** Asks all, in any order. When one can't be decided, the others are on their way all the same. */
  protected *askAll(messages: readonly Message[]): Work<RequestRecord[]> {
    const left = this.shuffled(messages)
    const records: RequestRecord[] = []
    for (let next = left.pop(); next; next = left.pop()) {
      try {
        records.push(yield* this.ask(next.shard, next.request))
      } catch (error) {
        this.stage.adrift.push(...left)
        throw error
      }
    }
    return records
  }

  protected shuffled<T>(items: readonly T[]): T[] {
    return items
      .map((item) => ({ item, at: this.stage.chance(1_000) }))
      .sort((a, b) => a.at - b.at)
      .map(({ item }) => item)
  }

  protected get all(): number[] {
    return this.stage.world.numbers
  }

  protected *isUnderWay(shard: number, { id }: MapChange): Work<boolean> {
    yield
    return this.stage.world.shard(shard).layout.open?.change.id === id
  }

  protected *open(shard: number, change: MapChange, isMoved: boolean): Work<void> {
    if (yield* this.isUnderWay(shard, change)) {
      yield* this.ask(shard, this.request({ kind: 'map-open', change, isMoved }))
    }
  }

  protected *openAll(change: MapChange, isMoved: boolean): Work<void> {
    for (const shard of this.shuffled(this.all)) yield* this.open(shard, change, isMoved)
  }

  /** Waits for a while. */
  protected *isDrained(change: MapChange): Work<boolean> {
    for (let patience = this.stage.chance(12); patience >= 0; patience--) {
      let count = 0
      for (const shard of this.all) {
        yield
        count += this.stage.world.countSagasOf(shard, change)
      }
      if (count === 0) return true
    }
    return false
  }

  *make(change: MapChange): Work<boolean> {
    try {
      yield* this.close(change)
      if (!(yield* this.isDrained(change))) return yield* this.resume(change)
    } catch (error) {
      if (!(error instanceof Outdated)) throw error
      yield* this.resume(change)
      throw error
    }
    const holds: Hold[] = []
    for (const shard of this.shuffled(this.all)) {
      yield
      holds.push(...this.stage.world.holdsOf(shard, change))
    }
    return yield* this.depart(change, holds)
  }

  protected *close(change: MapChange): Work<void> {
    yield* this.askAll(this.all.map((shard) => ({ shard, request: this.request({ kind: 'map-close', change }) })))
  }

  protected *depart(change: MapChange, holds: readonly Hold[]): Work<boolean> {
    const fate = yield* this.ask(change.from, this.request({ kind: 'map-depart', change, holds }))
    return fate.kind === 'map-depart' ? yield* this.finish(change, holdsOf(fate)) : yield* this.resume(change)
  }

  *resume(change: MapChange): Work<boolean> {
    const fate = yield* this.ask(change.from, this.request({ kind: 'map-abandon', change }))
    if (fate.kind === 'map-depart') return yield* this.finish(change, holdsOf(fate))
    yield* this.openAll(change, false)
    return false
  }

  protected *finish(change: MapChange, holds: readonly Hold[]): Work<true> {
    if (yield* this.isUnderWay(change.to, change)) yield* this.carry(change, holds)
    yield* this.open(change.to, change, true)
    yield* this.openAll(change, true)
    return true
  }

  protected *carry(change: MapChange, holds: readonly Hold[]): Work<void> {
    const { from, to } = change
    yield* this.askAll(this.all.flatMap((shard) => (shard === to ? [] : this.holdMoves(shard, change, holds))))
    const wallets: { wallet: MovedWallet; tenantId: string }[] = []
    for (const { id, tenantId, currency } of this.shuffled(this.stage.world.walletsOf(from, change))) {
      const operation = { kind: 'wallet-depart', walletId: id, currency, changeId: change.id, toShard: to } as const
      const { result } = yield* this.ask(from, this.request(operation, { tenantId, slot: slotOfId(id) }))
      wallets.push({ wallet: { id, holderId: 'somebody', openedUs: 0, ...departedOf(result) }, tenantId })
    }
    yield* this.copy(change)
    yield* this.askAll(
      wallets.map(({ wallet, tenantId }) => {
        const operation = {
          kind: 'wallet-arrive',
          wallet,
          changeId: change.id,
          fromShard: from,
          departedUs: 0,
        } as const
        return { shard: to, request: this.request(operation, { tenantId, slot: slotOfId(wallet.id) }) }
      }),
    )
    yield* this.askAll(this.holdMoves(to, change, holds))
  }

  protected *copy(change: MapChange): Work<void> {
    yield
    const history = this.stage.world.history(change.from, change)
    yield
    this.stage.world.copy(change.to, change, history)
  }

  protected holdMoves(shard: number, change: MapChange, holds: readonly Hold[]): Message[] {
    const { map } = this.stage.world
    return holds.flatMap((hold) => {
      const homes = (ofMoving: number) => {
        const home = (id: string) => (isMovingSlot(change, slotOfId(id)) ? ofMoving : shardOfSlot(map, slotOfId(id)))
        return { from: home(hold.from), to: home(hold.to) }
      }
      const [before, after] = [homes(change.from), homes(change.to)]
      if (![before.from, before.to, after.from, after.to].includes(shard)) return []
      const operation = { kind: 'hold-move', hold, changeId: change.id, before, after } as const
      return { shard, request: this.request(operation, { tenantId: hold.tenantId, slot: slotOfId(hold.id) }) }
    })
  }
}

export function holdsOf({ payload }: RequestRecord): Hold[] {
  const { holds = [] } = JSON.parse(payload) as Payload
  return holds.map(holdOf)
}

/** What a client is told of a request. */
export type Told = { readonly refusal: Refusal | null; readonly isReplay: boolean; readonly record: RequestRecord }

/** Asks a request as src/saga/sagas.ts does, until it is decided, and sees its saga through. */
export class Asker {
  readonly #stage: Stage
  /** It may have to be told where things are. */
  #map: MovingShards['map']
  /** A node that gives sagas up whenever it likes. */
  readonly #isImpatient: boolean
  pending: Message | undefined

  constructor(stage: Stage, map: MovingShards['map'], isImpatient = false) {
    this.#stage = stage
    this.#map = map
    this.#isImpatient = isImpatient
  }

  *ask(request: Request): Work<Told> {
    const { world } = this.#stage
    let asked = request
    for (;;) {
      const shard = shardOfSlot(this.#map, slotOfId(request.id))
      const outcome = yield* this.#send({ shard, request: asked })
      if (outcome === 'ask_peers') asked = { ...request, peers: yield* this.#peersOf(request) }
      if (outcome === 'moved') this.#map = world.shard(shard).layout.map
      if (typeof outcome !== 'object') continue
      const { status, record } = outcome
      if (status === 'key_reused') throw new Error(`the key of ${request.id} was used for something else`)
      const isReplay = status === 'replayed'
      const saga = record.refusal === null ? begunSaga(record.tenantId, record.result) : undefined
      if (!saga) return { refusal: record.refusal, isReplay, record }
      const home = shardOfSlot(world.map, slotOfId(saga.id))
      const end = (isReplay ? world.sagaEnd(home, record) : undefined) ?? (yield* this.run(saga))
      return { refusal: endOf(end).reason?.refusal ?? null, isReplay, record }
    }
  }

  *#send(message: Message): Work<Outcome | Undecided> {
    return yield* send(this.#stage, message, (pending) => {
      this.pending = pending
    })
  }

  *#peersOf({ tenantId, operation }: Request): Work<Map<string, Peer | null>> {
    const peers = new Map<string, Peer | null>()
    for (const id of new Set(walletsOf(operation))) {
      for (;;) {
        yield
        const wallet = this.#stage.world.wallet(tenantId, id)
        if (wallet === undefined) continue
        peers.set(id, wallet)
        break
      }
    }
    return peers
  }

  /** Takes a saga from its beginning to its end. @returns the record of its last step */
  *run(saga: Saga): Work<RequestRecord> {
    const { chance } = this.#stage
    let state = initialState(saga)
    let last: RequestRecord | undefined
    while (!isOver(state)) {
      if (this.#isImpatient && chance(12) === 0) state = evolve(state, { type: 'give-up' })
      const steps = decide(state)
      const next = steps[chance(steps.length)]
      if (!next) throw new Error(`saga ${saga.id} is not over, and nothing is to be done`)
      const { shard, step, reason } = next
      const leg = saga.legs.find(({ fromShard, toShard }) => fromShard === shard || toShard === shard)
      this.#stage.count += 1
      const slot = slotOfId((leg?.fromShard === shard ? leg.from : leg?.to) ?? '')
      const request = stepRequest(idIn(slot, `step ${this.#stage.count}`), saga, step, reason)
      const outcome = yield* this.#send({ shard, request })
      if (typeof outcome !== 'object') throw new Error(`${step} of a saga is ${outcome}`)
      last = outcome.record
      const isEnd = step === 'finalize' || step === 'release'
      state = evolve(state, isEnd ? { type: 'ended', shard } : { type: 'part', shard, ...partOf(last) })
    }
    if (!last) throw new Error(`saga ${saga.id} was over before it began`)
    return last
  }
}

/** A change that moves slots of one shard to another, by chance. */
export function anyChange({ world, chance, ...stage }: Stage): MapChange {
  const { epoch, shardCount, shards } = world.map
  const slot = chance(shards.length)
  const from = shards[slot] ?? 0
  const to = (from + 1 + chance(shardCount - 1)) % shardCount
  const slots = [...shards.keys()].filter((one) => one === slot || (shards[one] === from && chance(2) === 0))
  const id = digestUuid(`change ${stage.count} ${chance(1_000_000)}`)
  return { id, epoch: epoch + 1, shardCount, createdUs: 0, drained: [], slots, from, to }
}

/** Several at work at once: who is next is up to chance. They crash, and others take up what they leave; messages come late and twice. */
export class Play {
  readonly stage: Stage
  readonly #Mover: typeof Mover
  readonly #movers = new Set<{ mover: Mover; work: Work<unknown> }>()
  /** How many changes were made, abandoned and taken up; how many movers crashed. */
  readonly tally = { made: 0, abandoned: 0, crashed: 0, resumed: 0, late: 0 }

  constructor(stage: Stage, mover: typeof Mover = Mover) {
    this.stage = stage
    this.#Mover = mover
  }

  /** Begins a change. */
  make(change: MapChange = anyChange(this.stage)): void {
    if (this.#movers.size < MOVERS_MAX) this.#start((mover) => mover.make(change))
  }

  #start(begin: (mover: Mover) => Work<unknown>): void {
    const mover = new this.#Mover(this.stage)
    this.#movers.add({ mover, work: begin(mover) })
  }

  /** Somebody takes up a change that is under way. */
  #resume(): void {
    const { open } = this.stage.world
    const change = open[this.stage.chance(open.length)]
    if (!change || this.#movers.size >= MOVERS_MAX) return
    this.tally.resumed += 1
    this.#start((mover) => mover.resume(change))
  }

  /** Sees work through, among all others. @throws what goes wrong with any of it */
  run<T>(work: Work<T>): T {
    const { chance } = this.stage
    for (let turn = 0; turn < TURNS_MAX; turn++) {
      if (this.#movers.size > 0 && chance(2) === 0) this.#moveOn()
      else if (chance(20) === 0) this.#disturb()
      else {
        const { done, value } = work.next()
        if (done) return value
      }
    }
    throw new Error('never ends')
  }

  #moveOn(mayCrash = true): void {
    const { chance, adrift } = this.stage
    const each = [...this.#movers][chance(this.#movers.size)]
    if (!each) return
    if (mayCrash && chance(40) === 0) {
      this.tally.crashed += 1
      if (each.mover.pending) adrift.push(each.mover.pending)
      this.#movers.delete(each)
      return
    }
    try {
      const { done, value } = each.work.next()
      if (!done) return
      this.tally[value ? 'made' : 'abandoned'] += 1
    } catch (error) {
      if (!(error instanceof Outdated || error instanceof CopiedTooLate)) throw error
    }
    this.#movers.delete(each)
  }

  #disturb(): void {
    const { chance } = this.stage
    if (chance(2) === 0) this.#resume()
    else this.deliver()
  }

  /** Something arrives that is late, or for the second time. */
  deliver(): void {
    const { chance, adrift, sent, world } = this.stage
    const [late] = adrift.length > 0 && chance(2) === 0 ? adrift.splice(chance(adrift.length), 1) : []
    const message = late ?? sent[chance(sent.length)]
    if (!message) return
    this.tally.late += 1
    world.post(message.shard, message.request)
  }

  /** Until nothing is under way any more. */
  settle(): void {
    for (let turn = 0; turn < TURNS_MAX; turn++) {
      if (this.#movers.size > 0) this.#moveOn(false)
      else if (this.stage.adrift.length > 0) this.deliver()
      else if (this.stage.world.open.length > 0) this.#resume()
      else return
    }
    throw new Error('never ends')
  }
}

const MOVERS_MAX = 3
const TURNS_MAX = 20_000
