import type { Limits } from '../../src/core/account.ts'
import { digestUuid } from '../../src/core/ids.ts'
import type { PostingContext } from '../../src/core/move.ts'
import { post } from '../../src/core/post.ts'
import { type Operation, type Request, type RequestRecord, requestOf, stepRequest } from '../../src/core/request.ts'
import {
  begunSaga,
  decide,
  END_KEY,
  evolve,
  initialState,
  isOver,
  type Reason,
  type Saga,
  type SagaEvent,
  type SagaState,
  type Step,
} from '../../src/core/saga.ts'
import { partOf } from '../../src/saga/runner.ts'
import { TENANT } from './memory-ledger.ts'
import { MemoryState } from './memory-state.ts'
import { checkAcross, checkChange, checkShard, isOverOn, type Shard, Violation } from './saga.laws.ts'

/**
 * Explores what a few sagas on a few shards can come to, whatever the order: the real `post` on every shard, the real `decide` and
 * `evolve` on every node, and a network and nodes that do the worst. Breadth first, so the trace to a violation is a shortest one.
 *
 * The network never forgets: what was once sent may arrive at any time, any number of times, or never. So every delay, loss, duplicate
 * and reordering is in it without bounds, a shard that can't be reached (nothing arrives there), and what a node sent before it
 * crashed. An answer is there as soon as the step is decided; it may be lost, or come late, or come to several.
 *
 * Several nodes take a saga up from its beginning at once; each may give up or crash whenever it likes, any number of times. A
 * crashed node starts again from the recorded beginning. Nodes that have not taken a saga up yet are not told from those that
 * have, but whose first messages have not arrived.
 *
 * Posting, deciding and evolving are pure, so each is done once for each input: shards, messages and nodes are kept once each, and a
 * state of the whole is a few small numbers. What shards must look like (saga.laws.ts) is checked in every state; then, from
 * every state, that every saga ends if from there on all is answered.
 */

/** What is explored. Each part can be replaced by one that is wrong. */
export type Protocol = {
  readonly decide: typeof decide
  readonly evolve: typeof evolve
  readonly request: typeof stepRequest
  readonly post: typeof post
  /** What a node makes of the record that a step is answered with. */
  readonly heard: (shard: number, step: Step, record: RequestRecord) => SagaEvent
  /** What a node makes of no answer. The right thing is nothing: it asks again. */
  readonly unheard: (shard: number, step: Step) => SagaEvent | undefined
}

export const PROTOCOL: Protocol = {
  decide,
  evolve,
  request: stepRequest,
  post,
  heard: (shard, step, record) =>
    step === 'finalize' || step === 'release' ? { type: 'ended', shard } : { type: 'part', shard, ...partOf(record) },
  unheard: () => undefined,
}

/** A request by name, and the shard it goes to. */
export type Asked = { readonly name: string; readonly shard: number; readonly operation: Operation }

export type Wallet = { readonly shard: number; readonly funds: bigint; readonly limits?: Limits }

export type Configuration = {
  /** How many shards. */
  readonly shards: number
  readonly wallets: Readonly<Record<string, Wallet>>
  /** What is asked, and has come to its end, before the exploration starts. */
  readonly before?: readonly Asked[]
  /** What is asked at any time, in any order, or never. */
  readonly requests: readonly Asked[]
  /** Nodes that may work on the same saga at once. */
  readonly nodes: number
  /** Whether, at any moment, a day may pass. */
  readonly isDayPassing?: boolean
}

export type Exploration = {
  readonly states: number
  readonly transitions: number
  /** Different states of all shards together, whatever is on its way. */
  readonly ledgers: number
  /** How the sagas and requests by these names may end: `completed`, `compensated`, or the refusal at once. */
  readonly outcomes: ReadonlyMap<string, ReadonlySet<string>>
}

export function walletId(name: string): string {
  return digestUuid(`wallet ${name}`)
}

export function requestId(name: string): string {
  return digestUuid(`request ${name}`)
}

/**
 * Goes through every state that a configuration can reach.
 * @throws Violation with the shortest trace that leads to it
 */
export function explore(configuration: Configuration, protocol: Protocol = PROTOCOL): Exploration {
  return new Explorer(configuration, protocol).run()
}

const NOON_US = 1_700_000_000_000_000
const DAY_US = 86_400_000_000
/** More than any configuration here has; a wrong protocol may go on for ever. */
const STATES_MAX = 3_000_000
/** More different messages than any configuration has. */
const MESSAGES_MAX = 1_000
/** More rounds than any saga takes when all is answered. */
const ROUNDS_MAX = 12

/** Something that may arrive at a shard: what a client asks, or a step of a saga. */
type Message = {
  readonly name: string
  readonly shard: number
  readonly request: Request
  readonly step?: Step
}

/** A node's memory of a saga: what it knows, and the messages it sent. */
type Node = { readonly state: SagaState; readonly sent: readonly number[] }

/** All numbers: shards by state, messages that were sent and are not decided, nodes by memory; a list of nodes for each request. */
type World = {
  readonly shards: readonly number[]
  readonly isDayPast: boolean
  readonly network: readonly number[]
  readonly nodes: readonly (readonly number[])[]
}

type Action = { readonly verb: string; readonly message?: number; readonly slot?: number }

/** What comes of a message: the shard after, and its record; or nothing for now. */
type Delivery = { readonly after: number; readonly isNew: boolean; readonly record: RequestRecord } | 'busy'

class Explorer {
  readonly #configuration: Configuration
  readonly #protocol: Protocol
  readonly #homes: ReadonlyMap<string, number>

  readonly #shards = new Interned<Shard>()
  readonly #messages = new Interned<Message>()
  readonly #nodes = new Interned<Node>()

  readonly #deliveries = new Map<number, Delivery>()
  readonly #ledgers = new Set<string>()
  readonly #seenThrough = new Map<string, readonly number[]>()
  readonly #allSeenThrough = new Set<string>()
  readonly #outcomes = new Map<string, Set<string>>()

  constructor(configuration: Configuration, protocol: Protocol) {
    this.#configuration = configuration
    this.#protocol = protocol
    this.#homes = new Map(Object.entries(configuration.wallets).map(([name, { shard }]) => [walletId(name), shard]))
  }

  run(): Exploration {
    const worlds: World[] = []
    const origins: { readonly from: number; readonly action: Action }[] = []
    const seen = new Set<string>()
    let transitions = 0
    /** How a state was reached first. */
    const trace = (index: number): string[] => {
      const { from, action } = at(origins, index)
      return from < 0 ? [] : [...trace(from), this.#describe(action)]
    }
    const visit = (world: World, from: number, action: Action) => {
      transitions += 1
      const key = keyOf(world)
      if (seen.has(key)) return
      seen.add(key)
      worlds.push(world)
      origins.push({ from, action })
      if (worlds.length > STATES_MAX) throw new Error(`more than ${STATES_MAX} states`)
    }

    visit(this.#beginning(), -1, { verb: 'begin' })
    for (let index = 0; index < worlds.length; index += 1) {
      const world = at(worlds, index)
      tracing(
        () => this.#check(world.shards),
        () => trace(index),
      )
      this.#eachSuccessor(world, (make, action) => {
        const next = tracing(make, () => [...trace(index), this.#describe(action)])
        if (next) visit(next, index, action)
      })
    }
    for (const [index, world] of worlds.entries()) {
      tracing(
        () => this.#checkEnding(world),
        () => [...trace(index), 'from here all is answered'],
      )
    }
    return { states: worlds.length, transitions, ledgers: this.#ledgers.size, outcomes: this.#outcomes }
  }

  // The beginning.

  #beginning(): World {
    const { shards, wallets, before = [], requests } = this.#configuration
    let world: World = {
      shards: Array.from({ length: shards }, (_, number) => this.#shard({ number, state: new MemoryState() })),
      isDayPast: false,
      network: [],
      nodes: requests.map(() => []),
    }
    const ask = (message: number) => {
      const delivery = this.#deliver(world.shards, message, false)
      if (delivery === 'busy' || delivery.record.refusal !== null) throw new Error('the beginning is refused')
      world = { ...world, shards: this.#replaced(world.shards, message, delivery.after) }
      const saga = begunSaga(TENANT, delivery.record.result)
      const node = saga && this.#begun(saga)
      if (node) world = { ...world, shards: this.#seeThrough(world.shards, node.node, false) }
    }
    for (const [name, { shard, funds, limits = {} }] of Object.entries(wallets)) {
      const id = walletId(name)
      const settings = { currency: 'EUR', overdraftLimit: 0n, limits }
      ask(this.#clientMessage(`open ${name}`, shard, { kind: 'wallet-open', holderId: name, ...settings }, id))
      const topUp = { kind: 'top-up', walletId: id, amount: funds, currency: 'EUR' } as const
      if (funds > 0n) ask(this.#clientMessage(`fund ${name}`, shard, topUp))
    }
    for (const { name, shard, operation } of before) ask(this.#clientMessage(name, shard, operation))
    const network = requests.map(({ name, shard, operation }) => this.#clientMessage(name, shard, operation))
    return { ...world, network }
  }

  #clientMessage(name: string, shard: number, operation: Operation, id = requestId(name)): number {
    return this.#messages.indexOf(name, () => ({ name, shard, request: requestOf(id, TENANT, name, operation) }))
  }

  // What may happen next.

  #eachSuccessor(world: World, found: (make: () => World | undefined, action: Action) => void): void {
    const { network, nodes, isDayPast } = world
    for (const message of network) {
      found(() => this.#arrive(world, message), { verb: 'arrives', message })
    }
    nodes.forEach((some, slot) => {
      some.forEach((index, which) => {
        if (some.indexOf(index) < which) return
        const { state, sent } = this.#nodes.at(index)
        if (isOver(state)) return
        for (const message of sent) {
          found(() => this.#answer(world, slot, which, message), { verb: 'is answered', message, slot })
          found(() => this.#stayUnheard(world, slot, which, message), { verb: 'stays unheard', message, slot })
        }
        found(() => this.#happen(world, slot, which, { type: 'give-up' }), { verb: 'gives up', slot })
        found(() => this.#put(world, slot, which, this.#begun(state.saga)), { verb: 'crashes and starts again', slot })
      })
    })
    if (this.#configuration.isDayPassing && !isDayPast) {
      found(() => ({ ...world, isDayPast: true }), { verb: 'a day passes' })
    }
  }

  /** A message comes to its shard; if that begins a saga, nodes take it up. */
  #arrive(world: World, message: number): World | undefined {
    const delivery = this.#deliver(world.shards, message, world.isDayPast)
    if (delivery === 'busy') return undefined
    const shards = this.#replaced(world.shards, message, delivery.after)
    const next = { ...world, shards, network: this.#undecided(shards, world.network) }
    const { record } = delivery
    const saga = record.refusal === null ? begunSaga(TENANT, record.result) : undefined
    if (!saga || !delivery.isNew) return next
    const slot = this.#configuration.requests.findIndex(({ name }) => requestId(name) === saga.id)
    const { node, sends } = this.#begun(saga)
    const nodes = world.nodes.with(
      slot,
      Array.from({ length: this.#configuration.nodes }, () => node),
    )
    return { ...next, nodes, network: this.#undecided(shards, [...next.network, ...sends]) }
  }

  /** A node hears what was decided; if nothing was yet, there is nothing to hear. */
  #answer(world: World, slot: number, which: number, message: number): World | undefined {
    const delivery = this.#deliver(world.shards, message, world.isDayPast)
    if (delivery === 'busy' || delivery.isNew) return undefined
    return this.#happen(world, slot, which, this.#heard(message, delivery.record))
  }

  #stayUnheard(world: World, slot: number, which: number, message: number): World | undefined {
    const { shard, step } = this.#messages.at(message)
    const event = step && this.#protocol.unheard(shard, step)
    return event && this.#happen(world, slot, which, event)
  }

  #heard(message: number, record: RequestRecord): SagaEvent {
    const { shard, step } = this.#messages.at(message)
    if (!step) throw new Error('a node asks for steps only')
    return this.#protocol.heard(shard, step, record)
  }

  #happen(world: World, slot: number, which: number, event: SagaEvent): World | undefined {
    const before = at(at(world.nodes, slot), which)
    const after = this.#evolved(before, event)
    return after.node === before ? undefined : this.#put(world, slot, which, after)
  }

  #put(world: World, slot: number, which: number, { node, sends }: Evolved): World {
    // Which node is which makes no difference.
    const nodes = at(world.nodes, slot)
      .with(which, node)
      .sort((a, b) => a - b)
    const network = this.#undecided(world.shards, [...world.network, ...sends])
    return { ...world, network, nodes: world.nodes.with(slot, nodes) }
  }

  // Nodes.

  #begun(saga: Saga): Evolved {
    return this.#sending(initialState(saga), [])
  }

  #evolved(node: number, event: SagaEvent): Evolved {
    const { state, sent } = this.#nodes.at(node)
    return this.#sending(this.#protocol.evolve(state, event), sent)
  }

  /** As the runner does it: what is wanted now is sent, unless it was before. */
  #sending(state: SagaState, sentBefore: readonly number[]): Evolved {
    const sends = isOver(state) ? [] : this.#wanted(state)
    // A node that is done hears nothing any more.
    const sent = isOver(state) ? [] : sorted([...sentBefore, ...sends])
    const known = isOver(state) ? 'over' : `${[...state.parts].sort()} ${[...state.ended].sort()} ${state.isGivenUp}`
    const node = this.#nodes.indexOf(`${state.saga.id} ${known} ${sent}`, () => ({ state, sent }))
    return { node, sends }
  }

  #wanted(state: SagaState): number[] {
    return this.#protocol
      .decide(state)
      .map(({ shard, step, reason }) => this.#stepMessage(state.saga, shard, step, reason))
  }

  #stepMessage(saga: Saga, shard: number, step: Step, reason: Reason | undefined): number {
    const name = `${step}${reason === undefined ? '' : ` (${[reason.refusal, reason.leg ?? []].flat().join(' ')})`} of ${this.#nameOf(saga)} on shard ${shard}`
    return this.#messages.indexOf(name, () => {
      const request = this.#protocol.request(digestUuid(name), saga, step, reason)
      return { name, shard, request, step }
    })
  }

  #nameOf({ id }: Saga): string {
    return this.#requestName(id) ?? id
  }

  #requestName(id: string): string | undefined {
    const { before = [], requests } = this.#configuration
    return [...before, ...requests].find(({ name }) => requestId(name) === id)?.name
  }

  // Shards.

  /** Posts a message on its shard as it is. */
  #deliver(shards: readonly number[], message: number, isDayPast: boolean): Delivery {
    const { shard: number, request, name } = this.#messages.at(message)
    const before = at(shards, number)
    const key = (before * MESSAGES_MAX + message) * 2 + (isDayPast ? 1 : 0)
    const known = this.#deliveries.get(key)
    if (known) return known
    const delivery = this.#posted(before, request, isDayPast, name)
    this.#deliveries.set(key, delivery)
    return delivery
  }

  #posted(before: number, request: Request, isDayPast: boolean, name: string): Delivery {
    const shard = this.#shards.at(before)
    const nowUs = isDayPast ? NOON_US + DAY_US : NOON_US
    const context: PostingContext = { nowUs, shard: shard.number, shardOf: (id) => this.#homes.get(id) ?? shard.number }
    const { outcomes, decisions, changes } = attempt(name, () => this.#protocol.post(shard.state, [request], context))
    const [outcome] = outcomes
    // Which refusal is said makes no difference to money: here no other shard has anything to say.
    if (outcome === 'ask_peers') return this.#posted(before, { ...request, peers: new Map() }, isDayPast, name)
    if (outcome === undefined || outcome === 'busy') return 'busy'
    if (typeof outcome === 'string') throw new Error(`${name} is ${outcome}, though nothing moves here`)
    for (const { entries } of decisions) {
      for (const layer of ['posted', 'pending']) {
        const sum = entries.filter((entry) => entry.layer === layer).reduce((total, { amount }) => total + amount, 0n)
        if (sum !== 0n) throw new Violation('a shard does not sum to zero', `${name} adds ${sum} ${layer}`)
      }
    }
    const isNew = outcome.status === 'decided'
    const changed = { number: shard.number, state: shard.state.after(changes) }
    if (!isNew) return { after: before, isNew, record: outcome.record }
    const after = this.#shard(changed)
    checkChange(shard, changed)
    this.#note(shard.number, request, outcome.record)
    return { after, isNew, record: outcome.record }
  }

  #shard(shard: Shard): number {
    return this.#shards.indexOf(`${shard.number} ${shardKey(shard.state)}`, () => {
      checkShard(shard)
      return shard
    })
  }

  #replaced(shards: readonly number[], message: number, after: number): readonly number[] {
    return shards.with(this.#messages.at(message).shard, after)
  }

  /** Of what was sent, what would still be decided: the rest changes nothing any more. */
  #undecided(shards: readonly number[], network: readonly number[]): readonly number[] {
    // A wrong way to post may decide once more what was decided, so there nothing is left out.
    if (this.#protocol.post !== post) return sorted(network)
    return sorted(network).filter((message) => {
      const { shard, request } = this.#messages.at(message)
      return !this.#shards.at(at(shards, shard)).state.record(TENANT, request.scope, request.key)
    })
  }

  /** Remembers what became of a request by name, at once or when its saga ended. */
  #note(shard: number, { id, operation }: Request, { kind, refusal }: RequestRecord): void {
    const note = (of: string, outcome: string) => {
      const known = this.#outcomes.get(of) ?? new Set()
      this.#outcomes.set(of, known.add(outcome))
    }
    if (!('saga' in operation)) {
      const name = this.#requestName(id)
      if (name !== undefined) note(name, refusal ?? 'accepted')
      return
    }
    if (operation.saga.shard !== shard) return
    if (kind === 'saga-finalize') note(this.#nameOf(operation.saga), 'completed')
    if (kind === 'saga-release') note(this.#nameOf(operation.saga), `compensated: ${operation.reason?.refusal}`)
  }

  // What must hold.

  #check(shards: readonly number[]): void {
    const key = `${shards}`
    if (this.#ledgers.has(key)) return
    checkAcross(this.#all(shards))
    this.#ledgers.add(key)
  }

  /** From here, if everything arrives, every saga ends: by each node that is at work, and by one that takes it up now. */
  #checkEnding({ shards, isDayPast, nodes }: World): void {
    let all = shards
    for (const some of nodes) {
      const [any] = some
      if (any === undefined) continue
      const { saga } = this.#nodes.at(any).state
      const fresh = this.#begun(saga).node
      const impatient = this.#evolved(fresh, { type: 'give-up' }).node
      for (const node of new Set([...some, impatient])) {
        if (!isOver(this.#nodes.at(node).state)) this.#seeThrough(shards, node, isDayPast)
      }
      all = this.#seeThrough(all, fresh, isDayPast)
    }
    const key = `${all} ${isDayPast}`
    if (this.#allSeenThrough.has(key)) return
    for (const { name, shard } of this.#configuration.requests) {
      const message = this.#messages.indexOf(name, () => {
        throw new Error(`${name} on shard ${shard} was never sent`)
      })
      const isBusy = this.#deliver(all, message, isDayPast) === 'busy'
      if (isBusy) throw new Violation('never ends', `no saga is in flight, and ${name} is told to wait for one`)
    }
    this.#allSeenThrough.add(key)
  }

  /** Lets a node work, everything being answered, until its saga is over. */
  #seeThrough(shards: readonly number[], node: number, isDayPast: boolean): readonly number[] {
    const key = `${shards} ${node} ${isDayPast}`
    const known = this.#seenThrough.get(key)
    if (known) return known
    const name = this.#nameOf(this.#nodes.at(node).state.saga)
    const trace: string[] = []
    let now = shards
    let current = node
    for (let round = 0; !isOver(this.#nodes.at(current).state); round += 1) {
      if (round === ROUNDS_MAX) throw new Violation('never ends', `${name} goes round in circles`, trace)
      const before = current
      for (const message of this.#wanted(this.#nodes.at(current).state)) {
        trace.push(this.#describe({ verb: 'arrives, and is answered', message }))
        tracing(
          () => {
            const delivery = this.#deliver(now, message, isDayPast)
            if (delivery === 'busy') throw new Violation('never ends', `a step of ${name} is told to wait`)
            now = this.#replaced(now, message, delivery.after)
            this.#check(now)
            current = this.#evolved(current, this.#heard(message, delivery.record)).node
          },
          () => trace,
        )
      }
      if (current === before) throw new Violation('never ends', `${name} is stuck`, trace)
    }
    const { saga } = this.#nodes.at(current).state
    if (!isOverOn(this.#all(now), saga)) {
      throw new Violation('never ends', `${name} is over, but nothing says so under ${END_KEY}`, trace)
    }
    this.#seenThrough.set(key, now)
    return now
  }

  #all(shards: readonly number[]): Shard[] {
    return shards.map((index) => this.#shards.at(index))
  }

  #describe({ verb, message, slot }: Action): string {
    const node = slot === undefined ? '' : `a node of ${at(this.#configuration.requests, slot).name}`
    const what = message === undefined ? '' : this.#messages.at(message).name
    return [node && what ? `${node}:` : node, what, verb].filter(Boolean).join(' ')
  }
}

/** A node after an event, and what it sends. */
type Evolved = { readonly node: number; readonly sends: readonly number[] }

/** Values by a small number each; equal keys, equal numbers. */
class Interned<T> {
  readonly #values: T[] = []
  readonly #indexes = new Map<string, number>()

  indexOf(key: string, make: () => T): number {
    const known = this.#indexes.get(key)
    if (known !== undefined) return known
    this.#values.push(make())
    this.#indexes.set(key, this.#values.length - 1)
    return this.#values.length - 1
  }

  at(index: number): T {
    return at(this.#values, index)
  }
}

/** What of a shard makes a difference: not the order in which its accounts were moved, nor the times of blocks. */
function shardKey({ accounts, holds, transfers, records }: MemoryState): string {
  const parts = [
    [...accounts].map(([id, { sequence: _, ...account }]) => [id, account]),
    [...holds],
    [...transfers],
    [...records].map(([name, { kind, refusal, result }]) => [name, kind, refusal, result]),
  ]
  return JSON.stringify(
    parts.map((part) =>
      part.map((one) => JSON.stringify(one, (_, value) => (typeof value === 'bigint' ? `${value}` : value))).sort(),
    ),
  )
}

function keyOf({ shards, isDayPast, network, nodes }: World): string {
  return `${shards}|${isDayPast ? 1 : 0}|${network}|${nodes.join(';')}`
}

function sorted(numbers: readonly number[]): number[] {
  return [...new Set(numbers)].sort((a, b) => a - b)
}

function at<T>(list: readonly T[], index: number): T {
  const value = list[index]
  if (value === undefined) throw new Error(`nothing at ${index}`)
  return value
}

function attempt<T>(what: string, work: () => T): T {
  try {
    return work()
  } catch (error) {
    throw new Violation('a step threw', `${what}: ${error instanceof Error ? error.message : error}`, [], {
      cause: error,
    })
  }
}

/** Does something in which a violation may show, and says what happened before. */
function tracing<T>(work: () => T, trace: () => readonly string[]): T {
  try {
    return work()
  } catch (error) {
    throw error instanceof Violation ? error.after(trace()) : error
  }
}
