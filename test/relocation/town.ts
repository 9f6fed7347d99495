import { digestUuid } from '../../src/core/ids.ts'
import type { MapChange } from '../../src/core/mapChange.ts'
import { type Operation, requestOf } from '../../src/core/request.ts'
import { hold, TENANT, topUp, transfer } from '../core/memory-ledger.ts'
import { idIn } from '../saga/memory-shards.ts'
import { Asker, type Chance, type Stage } from './moving.ts'
import { MovingShards } from './moving-shards.ts'

// Slots 0 and 1 are on shard 0, 2 and 3 on shard 1, 4 and 5 on shard 2. Slot 1 goes to shard 1.
const HOMES = [0, 0, 1, 1, 2, 2]
export const CHANGE: MapChange = {
  ...{ id: digestUuid('a change'), epoch: 2, shardCount: 3, createdUs: 1, drained: [], slots: [1], from: 0, to: 1 },
}
/** Everything in the order in which it is written down, and nobody waits for long. */
const none: Chance = () => 0

/** Wallets on all shards, with debts too, and holds between one that moves and each other, in both directions. */
export function town(): Stage {
  const stage: Stage = { world: new MovingShards(HOMES, 3), chance: none, sent: [], adrift: [], count: 0 }
  let count = 0
  const make = (slot: number, operation: Operation): string => {
    count += 1
    const request = requestOf(idIn(slot, `request ${count}`), TENANT, `key ${count}`, operation)
    const work = new Asker(stage, stage.world.map).ask(request)
    for (;;) {
      const { done, value } = work.next()
      if (!done) continue
      if (value.refusal !== null) throw new Error(`${operation.kind}: ${value.refusal}`)
      return request.id
    }
  }
  const wallets = [1, 1, 0, 2, 4].map((slot) => {
    const settings = { currency: 'EUR', overdraftLimit: 50n, limits: {} }
    const id = make(slot, { kind: 'wallet-open', holderId: `holder ${slot} ${count}`, ...settings })
    return { id, slot }
  })
  for (const { id, slot } of wallets) make(slot, topUp(id, 100n))
  for (const { id: from, slot } of wallets) {
    for (const { id: to } of wallets) {
      if (from !== to && [from, to].includes(wallets[0]?.id ?? '')) make(slot, hold([from, to, 3n]))
    }
  }
  const [first, second] = wallets.map(({ id }) => id)
  make(1, transfer([second ?? '', first ?? '', 120n]))
  return stage
}
