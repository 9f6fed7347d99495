import { setImmediate as nextRound } from 'node:timers/promises'
import { beforeEach, describe, expect, test, vi } from 'vitest'
import { slotOfId } from '../../src/core/ids.ts'
import type { RelocationOperation } from '../../src/core/relocation.ts'
import type { Request } from '../../src/core/request.ts'
import { shardOfSlot } from '../../src/core/shardMap.ts'
import { RequestUndecided } from '../../src/ledger/poster.ts'
import type {
  countSagasOf,
  listGross,
  listHoldsOf,
  listSlotWallets,
  readTransitGross,
} from '../../src/ledger/sql/relocation.ts'
import type { Sql } from '../../src/postgres/connect.ts'
import type { copyHistory } from '../../src/relocation/history.ts'
import { createMover, type Mover } from '../../src/relocation/mover.ts'
import type { Router } from '../../src/shards/router.ts'
import { type Chance, chanceOf, type Stage } from './moving.ts'
import type { MovingShards } from './moving-shards.ts'
import { CHANGE, town } from './town.ts'

// The mover itself, on shards in memory: what it reads by SQL is read from them.

/** A shard in memory as whoever has so much strength left reaches it. */
type Access = { readonly world: MovingShards; readonly shard: number; reach(): Promise<void> }
const accessOf = (sql: Sql) => sql as unknown as Access

vi.mock('../../src/ledger/sql/relocation.ts', () => ({
  countSagasOf: (async (sql, slots) => {
    const { world, shard, reach } = accessOf(sql)
    await reach()
    return world.countSagasOf(shard, { ...CHANGE, slots })
  }) satisfies typeof countSagasOf,
  listHoldsOf: (async (sql, slots) => {
    const { world, shard, reach } = accessOf(sql)
    await reach()
    return world.holdsOf(shard, { ...CHANGE, slots })
  }) satisfies typeof listHoldsOf,
  // Amounts are small here.
  listGross: (async () => []) satisfies typeof listGross,
  readTransitGross: (async () => new Map()) satisfies typeof readTransitGross,
  listSlotWallets: (async (sql, { slots, after }) => {
    const { world, shard, reach } = accessOf(sql)
    await reach()
    return world
      .walletsOf(shard, { ...CHANGE, slots })
      .filter(({ id }) => after === undefined || id > after)
      .map(({ id, tenantId, currency }) => ({
        ...{ id, tenantId, currency, holderId: 'somebody', name: null, metadata: null, openedUs: 0 },
      }))
  }) satisfies typeof listSlotWallets,
}))
vi.mock('../../src/relocation/history.ts', () => ({
  copyHistory: (async ({ slots, from, to, source, target }) => {
    const [old, now] = [accessOf(source), accessOf(target)]
    await old.reach()
    const history = old.world.history(from, { ...CHANGE, slots, from, to })
    await now.reach()
    now.world.copy(to, { ...CHANGE, slots, from, to }, history)
    return 0
  }) satisfies typeof copyHistory,
}))

class Crashed extends Error {}

type Options = {
  /** How many messages arrive before it crashes. */
  strength?: number
  chance?: Chance
  /** How many shards it knows. */
  shards?: number
  /** Before a message arrives. */
  onSubmit?: (shard: number, operation: RelocationOperation) => Promise<void>
}

function moverOn(
  world: MovingShards,
  { strength = Number.POSITIVE_INFINITY, chance = () => 0, ...rest }: Options = {},
): Mover {
  const { shards = world.shards.length, onSubmit = async () => {} } = rest
  let left = strength
  /** A moment later, unless it has crashed. */
  const reach = async () => {
    for (let rounds = chance(3); rounds > 0; rounds--) await nextRound()
    if (left <= 0) throw new Crashed()
    left -= 1
  }
  const router = {
    shards: world.numbers.slice(0, shards).map((number) => ({ number })),
    get map() {
      return world.map
    },
    shardOf: (id: string) => shardOfSlot(world.map, slotOfId(id)),
    shard: (number: number) => ({
      batcher: {
        async submit(request: Request) {
          await onSubmit(number, request.operation as RelocationOperation)
          await reach()
          const outcome = world.post(number, request)
          if (typeof outcome !== 'object') throw new RequestUndecided(outcome)
          return outcome
        },
      },
      reader: {
        ping: reach,
        async layout() {
          await reach()
          return world.shard(number).layout
        },
      },
    }),
  } as unknown as Router
  return createMover({
    router,
    pool: (shard) => ({ world, shard, reach }) satisfies Access as unknown as Sql,
    drainMsMax: 0,
  })
}

let start: Stage
beforeEach(() => {
  start ??= town()
})

async function endAll(world: MovingShards): Promise<void> {
  // What was on its way when somebody crashed has arrived by then.
  for (let round = 0; round < 5; round++) await nextRound()
  for (let change = world.open[0]; change; change = world.open[0]) await moverOn(world).resume(change)
}

describe('the mover', () => {
  test('moves slots; nobody can tell', async () => {
    const world = start.world.copied()
    const seen = world.seen()
    expect(await moverOn(world).make(CHANGE)).toBe(true)
    world.checkSettled()
    expect(world.map.shards[1]).toBe(1)
    expect(world.seen()).toEqual(seen)
  })

  test('crashes after any number of messages, and so does who takes it up: all is made or undone, whole', async () => {
    const seen = start.world.seen()
    const chance = chanceOf(7)
    const ends = { made: 0, undone: 0 }
    let isMade = false
    for (let strength = 0; !isMade; strength++) {
      for (let strengthOfSecond = 0; strengthOfSecond < 80; strengthOfSecond += 1 + chance(10)) {
        const world = start.world.copied()
        const left = [
          moverOn(world, { strength, chance }).make(CHANGE),
          moverOn(world, { strength: strengthOfSecond, chance }).resume(CHANGE),
        ]
        const [first] = await Promise.allSettled(left)
        isMade = first?.status === 'fulfilled' && first.value
        await endAll(world)
        world.checkSettled()
        expect(world.seen()).toEqual(seen)
        ends[world.map.epoch === 2 ? 'made' : 'undone'] += 1
      }
      if (strength > 300) break
    }
    expect(ends.made).toBeGreaterThan(50)
    expect(ends.undone).toBeGreaterThan(50)
  })

  test('leaves no shard closed when another could not be', async () => {
    const world = start.world.copied()
    // Shard 1 refuses at once; the message to shard 2 takes its time.
    const mover = moverOn(world, {
      onSubmit: async (shard, { kind }) => {
        if (kind !== 'map-close') return
        if (shard === 1) throw new Crashed()
        if (shard === 2) for (let round = 0; round < 50; round++) await nextRound()
      },
    })
    await expect(mover.make(CHANGE)).rejects.toThrow(Crashed)
    for (let round = 0; round < 100; round++) await nextRound()
    expect(world.open).toEqual([])
  })

  test('who knows fewer shards than there are does not take up what has begun to leave', async () => {
    const world = start.world.copied()
    const seen = world.seen()
    // It crashes when all is decided, and nothing has moved.
    const first = moverOn(world, {
      onSubmit: async (_, { kind }) => {
        if (kind === 'hold-move' || kind === 'wallet-depart') throw new Crashed()
      },
    })
    await expect(first.make(CHANGE)).rejects.toThrow(Crashed)
    await moverOn(world, { shards: 2 })
      .resume(CHANGE)
      .catch(() => {})
    expect(world.shard(CHANGE.to).layout.open?.change).toEqual(CHANGE)
    await endAll(world)
    world.checkSettled()
    expect(world.seen()).toEqual(seen)
  })
})
