import { describe, expect, test } from 'vitest'
import { posted, systemAccountId } from '../../src/core/account.ts'
import { dueLines } from '../../src/core/dueLines.ts'
import type { Hold } from '../../src/core/hold.ts'
import { digestUuid, slotOfId } from '../../src/core/ids.ts'
import { type Layout, type MapChange, nextMap, type OpenChange, SYSTEM_TENANT } from '../../src/core/mapChange.ts'
import { type Decision, post } from '../../src/core/post.ts'
import {
  accountsOf,
  departedOf,
  type Homes,
  holdPairs,
  type RelocationOperation,
  relocationKey,
} from '../../src/core/relocation.ts'
import { type Operation, type Payload, type Request, requestOf, stepRequest } from '../../src/core/request.ts'
import { begunSaga } from '../../src/core/saga.ts'
import { idIn } from '../saga/memory-shards.ts'
import {
  capture,
  expiry,
  hold,
  release,
  reversal,
  TENANT,
  topUp,
  transfer,
  update,
  withdrawal,
} from './memory-ledger.ts'
import { MemoryState } from './memory-state.ts'

// Slots 0 and 1 are on shard 0, 2 and 3 on shard 1, 4 and 5 on shard 2. Slot 1 goes to shard 1.
const HOMES = [0, 0, 1, 1, 2, 2]
const CHANGE: MapChange = {
  ...{ id: digestUuid('a change'), epoch: 2, shardCount: 3, createdUs: 1, drained: [], slots: [1], from: 0, to: 1 },
}
const OTHER: MapChange = { ...CHANGE, id: digestUuid('another change') }

type Phase = 'before' | 'closed' | 'departing' | 'after'

/** One shard, to try things out on by hand. */
class Place {
  state = new MemoryState()
  layout: Layout = { map: { epoch: 1, shardCount: 3, shards: HOMES, drained: [] }, open: undefined }
  nowUs = 1_700_000_000_000_000
  readonly shard: number
  #count = 0

  constructor(shard: number) {
    this.shard = shard
  }

  be(phase: Phase, change = CHANGE): this {
    const { map } = this.layout
    if (phase === 'after') this.layout = { map: nextMap(map, change), open: undefined }
    else this.layout = { map, open: phase === 'before' ? undefined : ({ change, phase } satisfies OpenChange) }
    return this
  }

  request(slot: number, operation: Operation, key?: string): Request {
    this.#count += 1
    const name = `request ${this.#count} on shard ${this.shard}`
    return requestOf(idIn(slot, name), TENANT, key ?? name, operation)
  }

  relocation(operation: RelocationOperation, tenantId = TENANT): Request {
    this.#count += 1
    const id = idIn(0, `request ${this.#count} on shard ${this.shard}`)
    return requestOf(
      id,
      operation.kind.startsWith('map-') ? SYSTEM_TENANT : tenantId,
      relocationKey(operation),
      operation,
    )
  }

  /** Posts a batch. */
  post(...requests: Request[]) {
    this.nowUs += 1
    const { map, open } = this.layout
    const shardOf = (id: string) => map.shards[slotOfId(id)] ?? -1
    const posting = post(this.state, requests, {
      nowUs: this.nowUs,
      shard: this.shard,
      shardOf,
      open,
      map,
    })
    this.state = this.state.after(posting.changes)
    return posting
  }

  /** What becomes of one request: why it is not decided, or the status, or the refusal. */
  fate(request: Request): string {
    const [outcome] = this.post(request).outcomes
    if (typeof outcome !== 'object') return outcome ?? 'nothing'
    return outcome.status === 'decided' ? (outcome.record.refusal ?? 'accepted') : outcome.status
  }

  /** What must be decided and accepted. */
  make(request: Request): Decision {
    const { decisions, outcomes } = this.post(request)
    const [decision] = decisions
    if (!decision || decision.record.refusal !== null) {
      throw new Error(
        `${request.operation.kind}: ${JSON.stringify(outcomes, (_, v) => (typeof v === 'bigint' ? `${v}` : v))}`,
      )
    }
    return decision
  }

  wallet(slot: number, funds = 100n, overdraftLimit = 0n): string {
    this.#count += 1
    const open = {
      kind: 'wallet-open',
      holderId: `holder ${this.#count}`,
      currency: 'EUR',
      overdraftLimit,
      limits: {},
    } as const
    const { id } = this.make(this.request(slot, open)).record
    if (funds > 0n) this.make(this.request(slot, topUp(id, funds)))
    return id
  }

  transit(peer: number): string {
    return systemAccountId({ tenantId: TENANT, shard: this.shard, kind: 'transit', currency: 'EUR', peer })
  }

  /** Posted, pending out, pending in. */
  balance(id: string): [bigint, bigint, bigint] | undefined {
    const account = this.state.account(id)
    return account && [posted(account), account.debitsPending, account.creditsPending]
  }
}

/** Entries sum to zero in each layer, and are those that the record calls for, on accounts that a poster has loaded for it. */
function expectEntries({ request, record, entries }: Decision, shard: number): void {
  for (const layer of ['posted', 'pending']) {
    const sums = new Map<string, bigint>()
    for (const { currency, amount } of entries.filter((entry) => entry.layer === layer)) {
      sums.set(currency, (sums.get(currency) ?? 0n) + amount)
    }
    for (const [currency, sum] of sums) expect(sum, `${layer} ${currency}`).toBe(0n)
  }
  const due = dueLines(record, JSON.parse(record.payload) as Payload, shard)
  expect(entries.map(({ accountId, amount, currency, layer }) => ({ accountId, amount, currency, layer }))).toEqual(
    due?.map(({ ends: _, ...line }) => line),
  )
  const loaded = accountsOf(request.operation as RelocationOperation, request.tenantId, shard)
  for (const { accountId } of entries) expect(loaded).toContain(accountId)
}

const closing: RelocationOperation = { kind: 'map-close', change: CHANGE }
const departing: RelocationOperation = { kind: 'map-depart', change: CHANGE, holds: [] }
const abandoning: RelocationOperation = { kind: 'map-abandon', change: CHANGE }
const opening = (isMoved: boolean): RelocationOperation => ({ kind: 'map-open', change: CHANGE, isMoved })

describe('a step of a change is taken in its phase alone', () => {
  const SHARDS = { 'the shard that is left': 0, 'the shard that is come to': 1, 'a third shard': 2 }
  type Row = { step: RelocationOperation; on: keyof typeof SHARDS; accepted: Phase[] }
  const on = (step: RelocationOperation, accepted: Partial<Record<keyof typeof SHARDS, Phase[]>>): Row[] =>
    (Object.keys(SHARDS) as Row['on'][]).map((place) => ({ step, on: place, accepted: accepted[place] ?? [] }))
  const everywhere = (phases: Phase[]) => Object.fromEntries(Object.keys(SHARDS).map((place) => [place, phases]))

  test.each<Row>([
    ...on(closing, everywhere(['before'])),
    ...on(departing, { 'the shard that is left': ['closed', 'departing'] }),
    // Whoever asks has asked the shard that decides; there it may come before the close.
    ...on(abandoning, everywhere(['before', 'closed', 'departing', 'after'])),
    ...on(opening(true), {
      'the shard that is left': ['departing'],
      'the shard that is come to': ['closed'],
      'a third shard': ['closed'],
    }),
    ...on(opening(false), everywhere(['closed'])),
  ])('$step.kind (moved: $step.isMoved) on $on: $accepted', ({ step, on, accepted }) => {
    const shard = SHARDS[on]
    for (const phase of ['before', 'closed', 'departing', 'after'] as const) {
      if (phase === 'departing' && shard !== CHANGE.from) continue
      const place = new Place(shard).be(phase)
      const isAccepted = accepted.includes(phase)
      expect(place.fate(place.relocation(step)), phase).toBe(isAccepted ? 'accepted' : 'outdated')
      const another = new Place(shard).be(phase, { ...OTHER })
      const isOfNone = step.kind === 'map-abandon' || (step.kind === 'map-close' && phase === 'before')
      expect(another.fate(another.relocation(step)), `${phase} of another change`).toBe(
        isOfNone ? 'accepted' : 'outdated',
      )
    }
  })

  test.each([0, 1, 3, 7])('a close of a map with epoch %i is not one of the next map, which is 2', (epoch) => {
    const place = new Place(0)
    expect(place.fate(place.relocation({ kind: 'map-close', change: { ...CHANGE, epoch } }))).toBe('outdated')
  })

  test('it counts from the next batch on; a batch takes one', () => {
    const place = new Place(0)
    const wallet = place.wallet(1)
    const other = place.relocation({ kind: 'map-close', change: OTHER })
    const { outcomes, changes } = place.post(place.relocation(closing), place.request(1, topUp(wallet, 1n)), other)
    expect(outcomes.map((outcome) => (typeof outcome === 'object' ? outcome.status : outcome))).toEqual([
      'decided',
      'decided',
      'outdated',
    ])
    expect(changes.isLayoutChanged).toBe(true)
  })

  test('to abandon changes nothing by itself', () => {
    const place = new Place(0).be('closed')
    const { changes, decisions } = place.post(place.relocation(abandoning))
    expect(changes.isLayoutChanged).toBe(false)
    expect(decisions.map(({ entries }) => entries)).toEqual([[]])
  })

  test.each([
    [departing, abandoning],
    [abandoning, departing],
  ])('who comes second to the fate of a change hears of the first: %o', (first, second) => {
    const place = new Place(0).be('closed')
    place.make(place.relocation(first))
    const [outcome] = place.post(place.relocation(second)).outcomes
    expect(outcome).toMatchObject({ status: 'key_reused', record: { kind: first.kind } })
    expect(place.fate(place.relocation(first))).toBe('replayed')
  })

  test('what was decided stays decided, in whatever phase it comes again', () => {
    const phases: Phase[] = ['before', 'closed', 'departing', 'after']
    for (const [step, phase] of [
      [closing, 'before'],
      [departing, 'closed'],
      [opening(true), 'departing'],
    ] as const) {
      for (const later of phases) {
        const place = new Place(0).be(phase)
        place.make(place.relocation(step))
        expect(place.be('before').be(later).fate(place.relocation(step)), `${step.kind} ${later}`).toBe('replayed')
      }
    }
  })
})

describe('wallets', () => {
  const leaving = (walletId: string): RelocationOperation => ({
    ...{ kind: 'wallet-depart', walletId, currency: 'EUR', changeId: CHANGE.id, toShard: 1 },
  })
  const arriving = (id: string, { result }: Decision['record']): RelocationOperation => ({
    ...{ kind: 'wallet-arrive', changeId: CHANGE.id, fromShard: 0, departedUs: 1 },
    wallet: {
      id,
      holderId: 'a holder',
      openedUs: 5,
      name: 'a name',
      metadata: { b: '1', a: '2' },
      ...departedOf(result),
    },
  })
  const departed = (funds: bigint) => {
    const place = new Place(0)
    const wallet = place.wallet(1, funds)
    return { wallet, record: place.be('departing').make(place.relocation(leaving(wallet))).record }
  }

  test.each(['before', 'closed', 'departing', 'after'] as const)('leave while they depart, not %s', (phase) => {
    const place = new Place(0)
    const wallet = place.wallet(1)
    const isRight = phase === 'departing'
    expect(place.be(phase).fate(place.relocation(leaving(wallet)))).toBe(isRight ? 'accepted' : 'outdated')
    expect(
      place
        .be('before')
        .be('departing', OTHER)
        .fate(place.relocation(leaving(wallet))),
    ).toBe(isRight ? 'replayed' : 'outdated')
  })

  test.each(['before', 'closed', 'after'] as const)('arrive while their slots are closed, not %s', (phase) => {
    const { wallet, record } = departed(100n)
    const place = new Place(1).be(phase)
    expect(place.fate(place.relocation(arriving(wallet, record)))).toBe(phase === 'closed' ? 'accepted' : 'outdated')
  })

  test.each([0, 2])('arrive where they are to go, not on shard %i', (shard) => {
    const { wallet, record } = departed(100n)
    const place = new Place(shard).be('closed')
    expect(place.fate(place.relocation(arriving(wallet, record)))).toBe('outdated')
  })

  test.each([
    ['money', 100n, 0n],
    ['nothing', 0n, 0n],
    ['a debt', 0n, 70n],
  ])('move with all that they are: %s', (_, funds, debt) => {
    const [old, now] = [new Place(0), new Place(1)]
    const wallet = old.wallet(1, funds, 100n)
    const payee = old.wallet(0, 0n)
    if (debt > 0n) old.make(old.request(1, transfer([wallet, payee, debt])))
    old.make(old.request(1, update(wallet, { status: 'frozen', limits: { transferMax: 9n, balanceMax: 400n } })))
    const before = old.state.account(wallet)
    const amount = funds - debt

    const left = old.be('departing').make(old.relocation(leaving(wallet)))
    expectEntries(left, 0)
    expect(left.entries).toHaveLength(amount === 0n ? 0 : 2)
    expect(old.balance(wallet)).toEqual([0n, 0n, 0n])
    expect(old.balance(old.transit(1))?.[0] ?? 0n).toBe(amount)

    const come = now.be('closed').make(now.relocation(arriving(wallet, left.record)))
    expectEntries(come, 1)
    expect(now.balance(wallet)).toEqual([amount, 0n, 0n])
    expect(now.balance(now.transit(0))?.[0] ?? 0n).toBe(-amount)
    const isMoved = amount === 0n ? 0 : 1
    expect(now.state.account(wallet)).toMatchObject({
      ...{ status: 'frozen', limits: { transferMax: 9n, balanceMax: 400n }, overdraftLimit: 100n, currency: 'EUR' },
      // It goes on where it was: one entry there, one here.
      sequence: (before?.sequence ?? 0) + 2 * isMoved,
    })
  })

  test('are not moved twice, whoever asks', () => {
    const { wallet, record } = departed(100n)
    const place = new Place(1).be('closed')
    const { outcomes, decisions } = place.post(
      place.relocation(arriving(wallet, record)),
      place.relocation(arriving(wallet, record)),
    )
    expect(outcomes.map((outcome) => (typeof outcome === 'object' ? outcome.status : outcome))).toEqual([
      'decided',
      'replayed',
    ])
    expect(decisions).toHaveLength(1)
    expect(place.balance(wallet)).toEqual([100n, 0n, 0n])
  })

  test('do not leave with something pending', () => {
    const place = new Place(0)
    const [wallet, payee] = [place.wallet(1), place.wallet(0)]
    place.make(place.request(1, hold([wallet, payee, 5n])))
    for (const one of [wallet, payee]) {
      expect(() => place.be('departing').post(place.relocation(leaving(one)))).toThrow()
    }
  })

  test('leave if their slot does, and if they are the tenant’s', () => {
    const place = new Place(0)
    const [stays, leaves] = [place.wallet(0), place.wallet(1)]
    place.be('departing')
    expect(() => place.post(place.relocation(leaving(stays)))).toThrow('is no wallet that leaves')
    expect(() => place.post(place.relocation(leaving(leaves), digestUuid('another tenant')))).toThrow(
      'is no wallet that leaves',
    )
    expect(() => place.post(place.relocation(leaving(idIn(1, 'nobody'))))).toThrow('is no wallet that leaves')
  })

  test('do not arrive where they are', () => {
    const { wallet, record } = departed(100n)
    const place = new Place(1).be('closed')
    place.make(place.relocation(arriving(wallet, record)))
    const again = { ...arriving(wallet, record), changeId: OTHER.id } as RelocationOperation
    expect(() => place.be('closed', OTHER).post(place.relocation(again))).toThrow('arrives where it is already')
  })

  test('come back: their numbers go on, the counters of the account too', () => {
    const [old, other] = [new Place(0), new Place(1)]
    const wallet = old.wallet(1, 100n)
    const left = old.be('departing').make(old.relocation(leaving(wallet)))
    other.be('closed').make(other.relocation(arriving(wallet, left.record)))
    other.be('after').make(other.request(1, topUp(wallet, 20n)))

    const back: MapChange = { ...CHANGE, id: digestUuid('and back'), epoch: 3, from: 1, to: 0 }
    const gone = other
      .be('departing', back)
      .make(
        other.relocation({ kind: 'wallet-depart', walletId: wallet, currency: 'EUR', changeId: back.id, toShard: 0 }),
      )
    const come = old
      .be('after')
      .be('closed', back)
      .make(
        old.relocation({
          ...{ kind: 'wallet-arrive', changeId: back.id, fromShard: 1, departedUs: 1 },
          wallet: { id: wallet, holderId: 'a holder', openedUs: 5, ...departedOf(gone.record.result) },
        }),
      )
    expectEntries(gone, 1)
    expectEntries(come, 0)
    expect(old.balance(wallet)).toEqual([120n, 0n, 0n])
    // Top-up, departure, arrival, top-up, departure, arrival.
    expect(old.state.account(wallet)).toMatchObject({ sequence: 6, debitsPosted: 100n, creditsPosted: 220n })
    expect(old.balance(old.transit(1))).toEqual([-20n, 0n, 0n])
    expect(other.balance(other.transit(0))).toEqual([20n, 0n, 0n])
  })
})

describe('holds', () => {
  // The payer's and the payee's slots, and where the slots 1 go from shard 0 to 1.
  const slotOn = [0, 2, 4]
  const ends: { payer: number; payee: number; what: string }[] = [
    { payer: 1, payee: 1, what: 'both ends move' },
    ...[0, 1, 2].map((home) => ({
      payer: 1,
      payee: slotOn[home] ?? 0,
      what: `the payer moves, the payee is on shard ${home}`,
    })),
    ...[0, 1, 2].map((home) => ({
      payer: slotOn[home] ?? 0,
      payee: 1,
      what: `the payee moves, the payer is on shard ${home}`,
    })),
  ]
  const homes = (slots: { payer: number; payee: number }, ofMoving: number): Homes => ({
    from: slots.payer === 1 ? ofMoving : (HOMES[slots.payer] ?? 0),
    to: slots.payee === 1 ? ofMoving : (HOMES[slots.payee] ?? 0),
  })

  test.each(ends)('$what: each shard has what is pending between the ends as they are', (slots) => {
    const held: Hold = {
      ...{
        id: idIn(slots.payer, 'a hold'),
        tenantId: TENANT,
        from: idIn(slots.payer, 'payer'),
        to: idIn(slots.payee, 'payee'),
      },
      ...{ amount: 7n, currency: 'EUR', expiresAtUs: 99, status: 'held', captured: 0n },
    }
    const [before, after] = [homes(slots, 0), homes(slots, 1)]
    for (const shard of [0, 1, 2]) {
      const place = new Place(shard)
      // What the shard has in the beginning, by the lines that the hold itself would write.
      for (const [id, home] of [
        [held.from, before.from],
        [held.to, before.to],
      ] as const) {
        // The ends that are here, before or after, are accounts here by then.
        if (home === shard || (shard === 1 && slotOfId(id) === 1)) place.state = withAccount(place.state, id)
      }
      const entry = {
        kind: 'hold-move',
        hold: held,
        changeId: OTHER.id,
        before: { from: 9, to: 9 },
        after: before,
      } as const
      place.be('closed', OTHER).make(place.relocation(entry))
      const move = { kind: 'hold-move', hold: held, changeId: CHANGE.id, before, after } as const
      place.be('before').be(shard === 0 ? 'departing' : 'closed')
      const decision = place.make(place.relocation(move))
      expectEntries(decision, shard)
      expect(decision.entries).toHaveLength(2 * holdPairs(move, shard).length)

      const end = (id: string, home: number) => (home === shard ? id : place.transit(home))
      const isHere = after.from === shard || after.to === shard
      for (const account of place.state.accounts.values()) {
        const out = isHere && account.id === end(held.from, after.from) ? 7n : 0n
        const into = isHere && account.id === end(held.to, after.to) ? 7n : 0n
        expect([account.debitsPending, account.creditsPending], `${account.kind} on shard ${shard}`).toEqual([
          out,
          into,
        ])
        expect(posted(account)).toBe(0n)
      }
      const status = place.state.hold(held.id)?.status
      if (after.from === shard) expect(status).toBe('held')
      else expect(status).toBe(before.from === shard ? 'moved' : undefined)
    }
  })

  test.each(['before', 'closed', 'departing', 'after'] as const)(
    'move while the change is under way, not %s',
    (phase) => {
      const place = new Place(0)
      const [payer, payee] = [place.wallet(1), place.wallet(0)]
      const { id } = place.make(place.request(1, hold([payer, payee, 5n]))).record
      const held = place.state.hold(id)
      if (!held) throw new Error('no hold')
      const move: RelocationOperation = {
        ...{ kind: 'hold-move', hold: held, changeId: CHANGE.id },
        ...{ before: { from: 0, to: 0 }, after: { from: 1, to: 0 } },
      }
      const isRight = phase === 'closed' || phase === 'departing'
      expect(place.be(phase).fate(place.relocation(move))).toBe(isRight ? 'accepted' : 'outdated')
      expect(place.be('before').be('closed').fate(place.relocation(move))).toBe(isRight ? 'replayed' : 'accepted')
    },
  )

  test('that has moved is nobody’s to end where it was', () => {
    const place = new Place(0)
    const [payer, payee] = [place.wallet(1), place.wallet(0)]
    const { id } = place.make(place.request(1, hold([payer, payee, 5n]))).record
    const held = place.state.hold(id)
    if (!held) throw new Error('no hold')
    place.be('departing').make(
      place.relocation({
        ...{
          kind: 'hold-move',
          hold: held,
          changeId: CHANGE.id,
          before: { from: 0, to: 0 },
          after: { from: 1, to: 0 },
        },
      }),
    )
    for (const operation of [capture(id), release(id), expiry(id)]) {
      expect(place.fate(place.request(1, operation)), operation.kind).toBe('moving')
    }
    place.be('before').be('after')
    for (const operation of [capture(id), release(id), expiry(id)]) {
      expect(place.fate(place.request(1, operation)), operation.kind).toBe('moved')
    }
  })
})

function withAccount(state: MemoryState, id: string): MemoryState {
  const empty = { debitsPosted: 0n, creditsPosted: 0n, debitsPending: 0n, creditsPending: 0n }
  const account = {
    id,
    tenantId: TENANT,
    kind: 'wallet',
    currency: 'EUR',
    status: 'active',
    sequence: 0,
    ...empty,
  } as const
  return new MemoryState({
    ...state,
    accounts: new Map([...state.accounts, [id, { ...account, overdraftLimit: 0n, limits: {} }]]),
  })
}

describe('what clients ask', () => {
  /** On the shard that is left: three wallets of which one moves, holds and transfers between them. */
  function town() {
    const place = new Place(0)
    const [mover, ana, ben] = [place.wallet(1, 500n), place.wallet(0, 500n), place.wallet(0, 500n)]
    const make = (slot: number, operation: Operation) => place.make(place.request(slot, operation)).record.id
    return {
      ...{ place, mover, ana, ben },
      holdFrom: make(1, hold([mover, ana, 5n])),
      holdTo: make(0, hold([ana, mover, 5n])),
      holdOfOthers: make(0, hold([ana, ben, 5n])),
      paidFrom: make(1, transfer([mover, ana, 5n])),
      paidTo: make(0, transfer([ana, mover, 5n])),
      paidAmongOthers: make(0, transfer([ana, ben, 5n])),
      topUpOfMover: make(1, topUp(mover, 5n)),
      far: idIn(4, 'a wallet on shard 2'),
    }
  }
  type Town = ReturnType<typeof town>
  const opened: Operation = { kind: 'wallet-open', holderId: 'new', currency: 'EUR', overdraftLimit: 0n, limits: {} }
  const rows: [what: string, slot: number, ask: (town: Town) => Operation][] = [
    ['a transfer from it', 1, ({ mover, ana }) => transfer([mover, ana, 1n])],
    ['a transfer to it', 0, ({ mover, ana }) => transfer([ana, mover, 1n])],
    ['a transfer from it to another shard', 1, ({ mover, far }) => transfer([mover, far, 1n])],
    ['a transfer, one leg of which goes to it', 0, ({ mover, ana, ben }) => transfer([ana, ben, 1n], [ana, mover, 1n])],
    [
      'a transfer, one leg of which comes from it',
      0,
      ({ mover, ana, ben }) => transfer([ana, ben, 1n], [mover, ben, 1n]),
    ],
    ['a hold from it', 1, ({ mover, ana }) => hold([mover, ana, 1n])],
    ['a hold for it', 0, ({ mover, ana }) => hold([ana, mover, 1n])],
    ['a capture of a hold from it', 1, ({ holdFrom }) => capture(holdFrom)],
    ['a capture of a hold for it', 0, ({ holdTo }) => capture(holdTo)],
    ['a release of a hold from it', 1, ({ holdFrom }) => release(holdFrom)],
    ['a release of a hold for it', 0, ({ holdTo }) => release(holdTo)],
    ['the expiry of a hold from it', 1, ({ holdFrom }) => expiry(holdFrom)],
    ['the expiry of a hold for it', 0, ({ holdTo }) => expiry(holdTo)],
    ['a reversal of a transfer from it', 1, ({ paidFrom }) => reversal(paidFrom)],
    ['a reversal of a transfer to it', 0, ({ paidTo }) => reversal(paidTo)],
    ['a reversal of its top-up', 1, ({ topUpOfMover }) => reversal(topUpOfMover)],
    ['its opening', 1, () => opened],
    ['its update', 1, ({ mover }) => update(mover, { status: 'frozen' })],
    ['a top-up', 1, ({ mover }) => topUp(mover, 1n)],
    ['a withdrawal', 1, ({ mover }) => withdrawal(mover, 1n)],
  ]

  test.each(rows)('%s waits while it moves, and leaves no trace', (_, slot, ask) => {
    for (const phase of ['closed', 'departing'] as const) {
      const here = town()
      const { place } = here
      place.be(phase)
      const before = place.state
      const { outcomes, decisions } = place.post(place.request(slot, ask(here)))
      expect(outcomes, phase).toEqual(['moving'])
      expect(decisions).toEqual([])
      expect(place.state).toEqual(before)
    }
  })

  test.each(rows.filter(([, slot]) => slot === 1))('%s is for the other shard when it has moved', (_, slot, ask) => {
    const here = town()
    expect(here.place.be('after').fate(here.place.request(slot, ask(here)))).toBe('moved')
  })

  test.each(rows)('%s is decided before', (_, slot, ask) => {
    const here = town()
    expect(['accepted', 'hold_not_expired']).toContain(here.place.fate(here.place.request(slot, ask(here))))
  })

  test.each(rows)('%s is answered in any phase, if it was decided before', (_, slot, ask) => {
    for (const phase of ['closed', 'departing', 'after'] as const) {
      const here = town()
      const { place } = here
      const request = place.request(slot, ask(here))
      expect(['accepted', 'hold_not_expired']).toContain(place.fate(request))
      place.be(phase)
      expect(place.fate(request), phase).toBe('replayed')
      const otherwise = place.request(slot, topUp(here.mover, 77n))
      expect(place.fate({ ...otherwise, scope: request.scope, key: request.key }), phase).toBe('key_reused')
    }
  })

  test.each<[what: string, ask: (town: Town) => Operation]>([
    ['a transfer', ({ ana, ben }) => transfer([ana, ben, 1n])],
    ['a transfer to another shard', ({ ana, far }) => transfer([ana, far, 1n])],
    ['a hold', ({ ana, ben }) => hold([ana, ben, 1n])],
    ['a capture', ({ holdOfOthers }) => capture(holdOfOthers)],
    ['a release', ({ holdOfOthers }) => release(holdOfOthers)],
    ['a reversal', ({ paidAmongOthers }) => reversal(paidAmongOthers)],
    ['an opening', () => opened],
    ['an update', ({ ana }) => update(ana, { name: 'new' })],
    ['a top-up', ({ ana }) => topUp(ana, 1n)],
    ['a withdrawal', ({ ana }) => withdrawal(ana, 1n)],
  ])('%s that has nothing to do with it goes on', (_, ask) => {
    for (const phase of ['before', 'closed', 'departing', 'after'] as const) {
      const here = town()
      expect(here.place.be(phase).fate(here.place.request(0, ask(here))), phase).toBe('accepted')
    }
  })

  test.each([0, 1, 2])('on shard %i a wallet that moves elsewhere is waited for too', (shard) => {
    const place = new Place(shard)
    const slot = [0, 2, 4][shard] ?? 0
    const payer = place.wallet(slot)
    place.be('closed')
    expect(place.fate(place.request(slot, transfer([payer, idIn(1, 'moves'), 1n])))).toBe('moving')
    place.be('before').be('after')
    const [outcome] = place.post(place.request(slot, transfer([payer, idIn(1, 'moves'), 1n]))).outcomes
    if (shard === 1) return expect(outcome).toMatchObject({ record: { refusal: 'to_not_found' } })
    // A saga with the shard that it is on now.
    const legs = typeof outcome === 'object' ? begunSaga(TENANT, outcome.record.result)?.legs : undefined
    expect(legs).toMatchObject([{ fromShard: shard, toShard: 1 }])
  })

  test('what is for another shard is not decided here, whatever the phase', () => {
    for (const phase of ['before', 'closed', 'after'] as const) {
      const place = new Place(2).be(phase)
      expect(place.fate(place.request(0, topUp(idIn(0, 'elsewhere'), 1n))), phase).toBe('moved')
      expect(place.fate(place.request(0, capture(idIn(0, 'a hold')))), phase).toBe('moved')
    }
  })

  test('a hold for nobody is not found, also when the slot of nobody has come to the payer', () => {
    const place = new Place(1)
    const payer = place.wallet(2)
    const { record } = place.make(place.request(2, hold([payer, idIn(1, 'nobody'), 5n])))
    const saga = begunSaga(TENANT, record.result)
    if (!saga) throw new Error('no saga')
    place.make(stepRequest(idIn(2, 'release'), saga, 'release', { refusal: 'to_not_found' }))
    for (const phase of ['before', 'after'] as const) {
      for (const operation of [capture(record.id), release(record.id), expiry(record.id)]) {
        expect(place.be(phase).fate(place.request(2, operation)), `${operation.kind} ${phase}`).toBe('hold_not_found')
      }
      place.be('before')
    }
  })

  test('a saga that began before goes on to its end', () => {
    for (const phase of ['closed', 'departing'] as const) {
      const [old, there] = [new Place(0), new Place(1)]
      const [mover, payee] = [old.wallet(1), there.wallet(2, 0n)]
      const { record } = old.make(old.request(1, transfer([mover, payee, 30n])))
      const saga = begunSaga(TENANT, record.result)
      if (!saga) throw new Error('no saga')
      old.be(phase)
      there.be('closed')
      there.make(stepRequest(idIn(2, 'commit'), saga, 'commit'))
      old.make(stepRequest(idIn(1, 'finalize'), saga, 'finalize'))
      expect(old.balance(mover)).toEqual([70n, 0n, 0n])
      expect(there.balance(payee)).toEqual([30n, 0n, 0n])
      // Sent again when all has moved, they are what they were.
      old.be('before').be('after')
      there.be('before').be('after')
      expect(there.fate(stepRequest(idIn(2, 'again'), saga, 'commit'))).toBe('replayed')
      expect(old.fate(stepRequest(idIn(1, 'again'), saga, 'finalize'))).toBe('replayed')
    }
  })
})
