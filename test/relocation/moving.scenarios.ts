import assert from 'node:assert/strict'
import fc from 'fast-check'
import type { post } from '../../src/core/post.ts'
import type { Request } from '../../src/core/request.ts'
import type { ReversalResult } from '../../src/core/transfer.ts'
import { MemoryShards } from '../saga/memory-shards.ts'
import { Client, type Command, command, isComparable, openingOf } from '../saga/random-work.ts'
import { Asker, chanceOf, type Mover, Play, type Stage, type Told, type Work } from './moving.ts'
import { MovingShards, SLOTS } from './moving-shards.ts'

/** What is tried out. Each part can be replaced by one that is wrong. */
export type Protocol = { readonly mover?: typeof Mover; readonly post?: typeof post }

/** Wallets with money in some slots, slots on some shards, then anything; `seed` decides who goes first, crashes, comes late. */
export type Scenario = { slots: number[]; homes: number[]; commands: Command[]; seed: number }

const COMMANDS_MAX = 50
const START_US = 1_700_000_000_000_000

/** @param shards how many */
export function scenarios(shards: number): fc.Arbitrary<Scenario> {
  return fc.record({
    slots: fc.array(fc.nat(SLOTS - 1), { minLength: 5, maxLength: 5 }),
    homes: fc.array(fc.nat(shards - 1), { minLength: SLOTS, maxLength: SLOTS }),
    commands: fc.array(command, { minLength: COMMANDS_MAX / 2, maxLength: COMMANDS_MAX, size: 'max' }),
    seed: fc.nat(),
  })
}

export type Tally = Play['tally'] & { sagas: number }

function stageOf({ homes, seed }: Scenario, shards: number, { post }: Protocol): Stage {
  const world = new MovingShards(homes, shards, post)
  return { world, chance: chanceOf(seed), sent: [], adrift: [], count: 0 }
}

/**
 * One request after the other, on one shard and on several whose slots move meanwhile: what the client is told, and what it can see,
 * must be the same. In the end all of it is asked again.
 */
export function playInTurn(scenario: Scenario, shards: number, protocol: Protocol = {}): Tally {
  const stage = stageOf(scenario, shards, protocol)
  const { world } = stage
  const play = new Play(stage, protocol.mover)
  const together = new MemoryShards(1)
  const client = new Client()
  const asked: { request: Request; told: Told }[] = []
  const firstMap = world.map
  let nowUs = START_US
  let sagas = 0
  const compare = () => assert.deepEqual(world.seen(), together.seen())

  for (const { choice, waitSeconds } of [...openingOf(scenario.slots), ...scenario.commands]) {
    const request = client.request(choice)
    if (!request) continue
    nowUs += 1 + waitSeconds * 1_000_000
    world.nowUs = nowUs
    if (stage.chance(4) === 0) play.make()
    const expected = together.ask(request, nowUs)
    // Now and then a client that knows nothing but how things were in the beginning.
    const told = play.run(new Asker(stage, stage.chance(4) === 0 ? firstMap : world.map).ask(request))
    const what = `${request.operation.kind}: ${expected.refusal} on one shard, ${told.refusal} on ${shards}`
    assert.equal(told.refusal === null, expected.refusal === null, what)
    if (expected.isReplay) assert.ok(told.isReplay, what)
    if (isComparable(request, expected.refusal)) assert.equal(told.refusal, expected.refusal, what)
    if (world.isWhole) compare()
    client.note(request, told.refusal === null)
    if (told.record.result?.includes('"saga"')) sagas += 1
    asked.push({ request, told })
  }
  play.settle()
  world.checkSettled()
  compare()
  for (const { request, told } of asked) {
    const again = play.run(new Asker(stage, firstMap).ask(request))
    assert.deepEqual(
      again,
      { ...told, isReplay: true },
      `${request.operation.kind} is answered otherwise when it comes again`,
    )
  }
  play.settle()
  world.checkSettled()
  compare()
  return { ...play.tally, sagas }
}

const CLIENTS = 4

/**
 * Several clients at once. Their nodes crash too, and give up sagas that take long. In the end everybody asks again, and each wallet
 * must have what the answers say.
 */
export function playAtOnce(scenario: Scenario, shards: number, protocol: Protocol = {}): Tally {
  const stage = stageOf(scenario, shards, protocol)
  const { world, chance } = stage
  const play = new Play(stage, protocol.mover)
  const client = new Client()
  const firstMap = world.map
  const asked = new Set<Request>()
  let sagas = 0
  world.nowUs = START_US

  function* all(): Work<void> {
    const left = [...scenario.commands].reverse()
    const busy = new Map<Asker, { request: Request; work: Work<Told> }>()
    while (left.length > 0 || busy.size > 0) {
      yield
      const next = busy.size < CLIENTS ? left.pop() : undefined
      if (next) {
        world.nowUs += 1 + next.waitSeconds * 1_000_000
        if (chance(4) === 0) play.make()
        const request = client.request(next.choice)
        if (!request) continue
        asked.add(request)
        const asker = new Asker(stage, chance(2) === 0 ? firstMap : world.map, true)
        busy.set(asker, { request, work: asker.ask(request) })
      }
      const [asker, { request, work }] = [...busy][chance(busy.size)] ?? assert.fail()
      if (chance(60) === 0) {
        if (asker.pending) stage.adrift.push(asker.pending)
        busy.delete(asker)
        continue
      }
      const { done, value } = work.next()
      if (!done) continue
      busy.delete(asker)
      client.note(request, value.refusal === null)
    }
  }
  function* opened(): Work<void> {
    for (const { choice } of openingOf(scenario.slots)) {
      const request = client.request(choice) ?? assert.fail()
      asked.add(request)
      client.note(request, (yield* new Asker(stage, firstMap).ask(request)).refusal === null)
    }
  }
  /** What crashed nodes left: other nodes find it. */
  function* recovered(): Work<void> {
    for (const { inFlight } of world.shards) {
      for (const saga of inFlight.values()) if (chance(2) === 0) yield* new Asker(stage, world.map, true).run(saga)
    }
  }
  function* withRecovery<T>(work: Work<T>): Work<T> {
    let recovery = recovered()
    for (;;) {
      const { done, value } = work.next()
      if (done) return value
      if (chance(3) === 0 && recovery.next().done) recovery = recovered()
      yield
    }
  }
  function* rest(): Work<void> {
    for (const { inFlight } of world.shards) {
      for (const saga of [...inFlight.values()]) yield* new Asker(stage, world.map).run(saga)
    }
  }
  const settle = () => {
    do {
      play.settle()
      play.run(rest())
    } while (world.open.length > 0 || stage.adrift.length > 0 || world.shards.some(({ inFlight }) => inFlight.size > 0))
    play.settle()
  }
  play.run(opened())
  play.run(withRecovery(all()))
  settle()
  const expected = new Map<string, bigint>()
  const move = (from: string | null, to: string | null, amount: bigint) => {
    if (from !== null) expected.set(from, (expected.get(from) ?? 0n) - amount)
    if (to !== null) expected.set(to, (expected.get(to) ?? 0n) + amount)
  }
  const requests = new Map([...asked].map((request) => [request.id, request]))
  const told = [...asked].map((request) => ({
    request,
    ...play.run(withRecovery(new Asker(stage, firstMap).ask(request))),
  }))
  for (const { request, refusal, record } of told) {
    const { operation } = request
    if (record.result?.includes('"saga"')) sagas += 1
    if (refusal !== null) continue
    if (operation.kind === 'wallet-open') move(null, request.id, 0n)
    if (operation.kind === 'transfer') for (const { from, to, amount } of operation.legs) move(from, to, amount)
    if (operation.kind === 'top-up') move(null, operation.walletId, operation.amount)
    if (operation.kind === 'withdrawal') move(operation.walletId, null, operation.amount)
    if (operation.kind === 'reversal') {
      const { movements } = JSON.parse(record.result ?? '') as ReversalResult
      for (const { from, to, amount } of movements) move(from, to, BigInt(amount))
    }
    if (operation.kind === 'capture') {
      const hold = requests.get(operation.holdId)?.operation
      assert.ok(hold?.kind === 'hold')
      move(hold.leg.from, hold.leg.to, operation.amount ?? hold.leg.amount)
    }
  }
  settle()
  world.checkSettled()
  const { wallets } = world.seen() as { wallets: Record<string, { posted: bigint }> }
  assert.deepEqual(
    new Map(Object.entries(wallets).map(([id, { posted }]) => [id, posted])),
    new Map([...Object.keys(wallets)].map((id) => [id, expected.get(id) ?? 0n])),
  )
  return { ...play.tally, sagas }
}
