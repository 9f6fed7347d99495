import { setTimeout as sleep } from 'node:timers/promises'
import { slotOf, slotOfId } from '../core/ids.ts'
import { isMoving, isMovingSlot } from '../core/mapChange.ts'
import { type ShardMap, shardOfSlot } from '../core/shardMap.ts'
import { LedgerUnavailable, RequestUndecided } from '../ledger/poster.ts'
import type { StoredLayout } from '../ledger/sql/layout.ts'
import type { Shard } from './shard.ts'

/** Finds the shard of anything: holders by the hash of their id, the rest by the slot that its id carries. */
export type Router = {
  /** By number. */
  readonly shards: readonly Shard[]
  /** The newest that was seen on any shard. */
  readonly map: ShardMap
  forHolder(tenantId: string, holderId: string): Shard
  /** @param id of a wallet, transfer, hold or transaction */
  forId(id: string): Shard
  /** @throws LedgerUnavailable if this node does not know it: it was added since this node started */
  shard(number: number): Shard
  /** The number of the shard of an id. */
  shardOf(id: string): number
  /**
   * Reads something from the shard that it is on, by an id. The answer is true even if things move meanwhile: it is read again, there
   * where they have gone, until the shard says after it that they had not begun to leave.
   * @throws RequestUndecided if they are on their way for too long
   */
  read<T>(id: string, work: (shard: Shard) => Promise<T>): Promise<T>
  /** The same by a holder. */
  readHolder<T>(tenantId: string, holderId: string, work: (shard: Shard) => Promise<T>): Promise<T>
  /** Looks at a shard's layout; what it says counts from then on. */
  look(number: number): Promise<StoredLayout>
  /** Waits until none of these ids is about to move away from a shard, or the deadline has come, milliseconds since 1970. */
  untilOpen(number: number, ids: readonly string[], deadlineMs: number): Promise<void>
  /** Tells of each shard: those that there are, and those that are added. */
  onShard(listener: (shard: Shard) => void): void
}

const PAUSE_MS = 20
const PAUSE_MS_MAX = 250
const READ_MS_MAX = 8_000

/**
 * @param first by number, from 0
 * @param map as it is known so far
 * @param open opens a shard that was added; `undefined` if nothing is known of its database
 * @throws LedgerUnavailable when asked for what the map puts on a shard that is not among them
 */
export function createRouter(
  first: readonly Shard[],
  map: ShardMap,
  open: (number: number) => Shard | undefined = () => undefined,
): Router {
  const shards = [...first]
  let newest = map
  const layouts = new Map<number, StoredLayout>()
  const looking = new Map<number, Promise<StoredLayout>>()
  const listeners: ((shard: Shard) => void)[] = []

  const shard = (number: number): Shard => {
    const found = shards[number]
    if (found?.number !== number)
      throw new LedgerUnavailable(`shard ${number} is not open: this node does not know its database`)
    return found
  }
  const forSlot = (slot: number): Shard => shard(shardOfSlot(newest, slot))

  function learn(number: number, layout: StoredLayout): void {
    layouts.set(number, layout)
    if (layout.map.epoch <= newest.epoch) return
    newest = layout.map
    for (let next = shards.length; next < newest.shardCount; next++) {
      const added = open(next)
      if (!added) return
      shards.push(added)
      for (const listener of listeners) listener(added)
    }
  }

  async function lookAt(number: number): Promise<StoredLayout> {
    const { reader } = shard(number)
    const known = layouts.get(number)
    if (known && (await reader.layoutBlock()) === known.block) return known
    const layout = await reader.layout()
    learn(number, layout)
    return layout
  }

  /** One look at a time: whoever comes meanwhile shares it. */
  function look(number: number): Promise<StoredLayout> {
    let looked = looking.get(number)
    if (!looked) {
      looked = lookAt(number).finally(() => looking.delete(number))
      looking.set(number, looked)
    }
    return looked
  }

  async function readSlot<T>(slot: number, work: (shard: Shard) => Promise<T>): Promise<T> {
    const deadlineMs = Date.now() + READ_MS_MAX
    do {
      const there = forSlot(slot)
      const { number } = there
      const layout = layouts.get(number) ?? (await look(number))
      const isLeaving = layout.open?.phase === 'departing' && isMovingSlot(layout.open.change, slot)
      if (!isLeaving && forSlot(slot) === there) {
        const { epoch } = newest
        const value = await work(there)
        if ((await there.reader.layoutBlock()) === layout.block) return value
        // Others may have moved: while many do, a read that takes long would be made again and again.
        if (await there.reader.hasStayed(slot, epoch)) return value
      } else if (isLeaving) await sleep(PAUSE_MS)
      await look(number)
    } while (Date.now() < deadlineMs)
    throw new RequestUndecided('moving')
  }

  return {
    get shards() {
      return shards
    },
    get map() {
      return newest
    },
    forHolder: (tenantId, holderId) => forSlot(slotOf(tenantId, holderId)),
    forId: (id) => forSlot(slotOfId(id)),
    shard,
    shardOf: (id) => shardOfSlot(newest, slotOfId(id)),
    read: (id, work) => readSlot(slotOfId(id), work),
    readHolder: (tenantId, holderId, work) => readSlot(slotOf(tenantId, holderId), work),
    look,
    async untilOpen(number, ids, deadlineMs) {
      for (let pauseMs = PAUSE_MS; Date.now() < deadlineMs; pauseMs = Math.min(PAUSE_MS_MAX, pauseMs * 1.5)) {
        const { open } = await look(number)
        if (!ids.some((id) => isMoving(open, id))) return
        await sleep(pauseMs * (0.5 + Math.random() / 2))
      }
    },
    onShard(listener) {
      listeners.push(listener)
      for (const each of shards) listener(each)
    },
  }
}
