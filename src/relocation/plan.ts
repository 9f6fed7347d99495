import { layOutSlots, type ShardMap } from '../core/shardMap.ts'

/** Slots that are to go from one shard to another. */
export type Move = { readonly from: number; readonly to: number; readonly slots: readonly number[] }

/** What lies between a map and the even one for its shards, without those that are drained; in the order of the shards. */
export function planMoves({ shardCount, shards, drained }: ShardMap): Move[] {
  const due = layOutSlots(shardCount, drained)
  const moves = new Map<string, { from: number; to: number; slots: number[] }>()
  for (const [slot, from] of shards.entries()) {
    const to = due[slot]
    if (to === undefined || to === from) continue
    const name = `${from} ${to}`
    const move = moves.get(name) ?? { from, to, slots: [] }
    move.slots.push(slot)
    moves.set(name, move)
  }
  return [...moves.values()].sort((a, b) => a.from - b.from || a.to - b.to)
}

/** Slots at a time, and wallets, unless a single slot has more: what is closed meanwhile should be open again within a second or so. */
const SLOTS_MAX = 64
const WALLETS_MAX = 500

/** Cuts a move into portions that are made one after the other. @param walletsOf how many wallets each slot has */
export function portionsOf({ from, to, slots }: Move, walletsOf: ReadonlyMap<number, number>): Move[] {
  const portions: { from: number; to: number; slots: number[] }[] = []
  let wallets = 0
  for (const slot of slots) {
    const more = walletsOf.get(slot) ?? 0
    const last = portions.at(-1)
    if (!last || last.slots.length === SLOTS_MAX || (wallets > 0 && wallets + more > WALLETS_MAX)) {
      portions.push({ from, to, slots: [slot] })
      wallets = more
    } else {
      last.slots.push(slot)
      wallets += more
    }
  }
  return portions
}
