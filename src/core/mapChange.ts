import { slotOfId } from './ids.ts'
import type { ShardMap } from './shardMap.ts'

/**
 * One change of the shard map: some slots go from one shard to another, or, without slots, the number of shards or the list of
 * drained ones changes. It is made by requests in the chains of all shards, in this order (docs/ARCHITECTURE.md, "Moving slots"):
 *
 *   map-close    every shard   the slots take no new requests; sagas that began before go on, and come to their end
 *   map-depart   the shard that they leave: from here on there is no way back. Or
 *   map-abandon  the same shard: the change comes to nothing. Both have one idempotency key, so only one of them is ever decided
 *   wallets and holds leave the one shard and arrive on the other
 *   map-open     the shard that they came to first, then every other: the new map counts
 */
export type MapChange = {
  readonly id: string
  /** Of the map that it makes: one more than that of the map before. */
  readonly epoch: number
  readonly shardCount: number
  /** When it was asked for, microseconds since 1970; the same in all shards. */
  readonly createdUs: number
  /** Shards that are to be empty, in the map that it makes. */
  readonly drained: readonly number[]
  /** Ascending. */
  readonly slots: readonly number[]
  /** The shard that the slots leave; it decides whether the change is made. */
  readonly from: number
  readonly to: number
}

/** A change that is under way on a shard. `departing`: this is the shard that its slots are leaving, for good. */
export type OpenChange = { readonly change: MapChange; readonly phase: 'closed' | 'departing' }

/** What a shard knows of where things are: the map, and what is about to become of it. */
export type Layout = { readonly map: ShardMap; readonly open: OpenChange | undefined }

/** The map after a change. */
export function nextMap(map: ShardMap, { epoch, shardCount, drained, slots, to }: MapChange): ShardMap {
  const moved = new Set(slots)
  return { epoch, shardCount, drained, shards: map.shards.map((shard, slot) => (moved.has(slot) ? to : shard)) }
}

/** Whether a change can be made of a map: it was made for it, and its slots are where it says. */
export function fits(map: ShardMap, { epoch, shardCount, slots, from, to }: MapChange): boolean {
  return epoch === map.epoch + 1 && Math.max(from, to) < shardCount && slots.every((slot) => map.shards[slot] === from)
}

const sets = new WeakMap<MapChange, ReadonlySet<number>>()

/** Whether what this id names is on its way to another shard, or about to be. */
export function isMoving(open: OpenChange | undefined, id: string): boolean {
  return open !== undefined && isMovingSlot(open.change, slotOfId(id))
}

/** Whether a slot (0 to 4095) is one of those that a change moves. */
export function isMovingSlot(change: MapChange, slot: number): boolean {
  let slots = sets.get(change)
  if (!slots) {
    slots = new Set(change.slots)
    sets.set(change, slots)
  }
  return slots.has(slot)
}

/** The idempotency keys of what makes a change; clients' keys are ASCII, so they can't be taken for these. */
export const CLOSE_KEY = '§close'
export const FATE_KEY = '§fate'
export const OPEN_KEY = '§open'

/** Under which the parts of a change are recorded: they belong to no tenant. */
export const SYSTEM_TENANT = '00000000-0000-0000-0000-000000000000'
