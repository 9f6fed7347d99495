import { slotOf, slotOfId } from '../core/ids.ts'
import type { Shard } from './shard.ts'

/** Finds the shard of anything: holders by the hash of their id, the rest by the slot that its id carries. */
export type Router = {
  readonly shards: readonly Shard[]
  forHolder(tenantId: string, holderId: string): Shard
  /** @param id of a wallet, transfer, hold or transaction */
  forId(id: string): Shard
}

/** With one shard, as yet, every slot is on it. */
export function createRouter(shards: readonly Shard[]): Router {
  const forSlot = (slot: number): Shard => {
    const shard = shards[slot % shards.length]
    if (!shard) throw new Error('there are no shards')
    return shard
  }
  return {
    shards,
    forHolder: (tenantId, holderId) => forSlot(slotOf(tenantId, holderId)),
    forId: (id) => forSlot(slotOfId(id)),
  }
}
