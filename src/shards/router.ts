import { slotOf, slotOfId } from '../core/ids.ts'
import { type ShardMap, shardOfSlot } from '../core/shardMap.ts'
import type { Shard } from './shard.ts'

/** Finds the shard of anything: holders by the hash of their id, the rest by the slot that its id carries. */
export type Router = {
  /** By number. */
  readonly shards: readonly Shard[]
  forHolder(tenantId: string, holderId: string): Shard
  /** @param id of a wallet, transfer, hold or transaction */
  forId(id: string): Shard
  /** @throws if there is no such shard, which is a bug */
  shard(number: number): Shard
  /** The number of the shard of an id. */
  shardOf(id: string): number
}

/**
 * @param shards by number, from 0
 * @throws when asked for what the map puts on a shard that is not among them, which is a bug
 */
export function createRouter(shards: readonly Shard[], map: ShardMap): Router {
  const shard = (number: number): Shard => {
    const open = shards[number]
    if (open?.number !== number) throw new Error(`shard ${number} is not open`)
    return open
  }
  const forSlot = (slot: number): Shard => shard(shardOfSlot(map, slot))
  return {
    shards,
    forHolder: (tenantId, holderId) => forSlot(slotOf(tenantId, holderId)),
    forId: (id) => forSlot(slotOfId(id)),
    shard,
    shardOf: (id) => shardOfSlot(map, slotOfId(id)),
  }
}
