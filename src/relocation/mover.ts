import { setTimeout as sleep } from 'node:timers/promises'
import type { Hold } from '../core/hold.ts'
import { formatId, slotOfId } from '../core/ids.ts'
import { isMovingSlot, type MapChange, SYSTEM_TENANT } from '../core/mapChange.ts'
import { AMOUNT_MAX } from '../core/money.ts'
import {
  departedOf,
  type Homes,
  holdOf,
  type MovedWallet,
  type RelocationOperation,
  relocationKey,
} from '../core/relocation.ts'
import { type Payload, type RequestRecord, requestOf } from '../core/request.ts'
import { readHead } from '../ledger/sql/chainHead.ts'
import {
  countSagasOf,
  listGross,
  listHoldsOf,
  listSlotWallets,
  readTransitGross,
  type WalletRow,
} from '../ledger/sql/relocation.ts'
import type { Sql } from '../postgres/connect.ts'
import { newId } from '../shards/newId.ts'
import type { Router } from '../shards/router.ts'
import { type CopyProgress, copyHistory } from './history.ts'

/** Makes changes of the shard map, step by step through the chains of all shards: core/mapChange.ts has the steps. */
export type Mover = {
  /**
   * Makes a change from its beginning. Its slots are closed meanwhile.
   * @returns whether it was made; not if sagas would not end in time, or somebody else abandoned it: then all is as before
   * @throws when a shard can't be reached; what is half done is finished or undone by `resume`, on any node
   */
  make(change: MapChange): Promise<boolean>
  /** Ends a change that somebody left half done: forward if its slots had begun to leave, else back. Any number of times, by anyone. */
  resume(change: MapChange): Promise<boolean>
  /** Copies the history of slots ahead, so that little is left to be copied while they are closed. */
  copyAhead(move: Pick<MapChange, 'from' | 'to' | 'slots'>, onProgress?: CopyProgress): Promise<void>
}

/** A wallet that has left. */
type Departed = { readonly row: WalletRow; readonly wallet: MovedWallet; readonly departedUs: number }

export type MoverOptions = {
  router: Router
  /** A pool on a shard's database. */
  pool: (shard: number) => Sql
  /** How long to wait for sagas that have to do with the slots to end. */
  drainMsMax?: number
}

const DRAIN_MS_MAX = 4_000
const DRAIN_PAUSE_MS = 10
const PORTION = 500
/** Blocks that may be left to look through while slots are closed, unless they come faster than they are copied. */
const BLOCKS_BEHIND_MAX = 20
const CATCH_UPS_MAX = 5

export function createMover({ router, pool, drainMsMax = DRAIN_MS_MAX }: MoverOptions): Mover {
  /** Has a step posted; what was decided before, by whoever asked, is the answer too. @throws RequestUndecided, LedgerUnavailable */
  async function ask(
    shard: number,
    operation: RelocationOperation,
    { tenantId, slot }: { tenantId: string; slot: number } = { tenantId: SYSTEM_TENANT, slot: 0 },
  ): Promise<RequestRecord> {
    const request = requestOf(newId(slot), tenantId, relocationKey(operation), operation)
    return (await router.shard(shard).batcher.submit(request)).record
  }

  /** Slots whose history is copied but for what comes meanwhile: while they stay where they are, nothing else is added. */
  const copied = new Set<string>()

  const all = () => router.shards.map(({ number }) => number)

  /**
   * What moves has to do with all shards: a hold whose other end is on one that is not known here would be left behind there.
   * @throws if there are more than are known here
   */
  function mustKnowAll({ slots, shardCount }: MapChange): void {
    if (slots.length > 0 && all().length < shardCount) {
      throw new Error(
        `there are ${shardCount} shards, and ${all().length} of them are known here: others must end this`,
      )
    }
  }

  async function isUnderWay(shard: number, { id }: MapChange): Promise<boolean> {
    const { open } = await router.shard(shard).reader.layout()
    return open?.change.id === id
  }

  const close = (shard: number, change: MapChange) => ask(shard, { kind: 'map-close', change })

  /**
   * What must not be found out when there is no way back: counters only grow, and have an end.
   * @throws if what a wallet holds, or all of them together, would not fit where it is to be counted
   */
  async function mustFit({ slots, from, to }: MapChange): Promise<void> {
    if (slots.length === 0) return
    const [leaving, known, out, back] = await Promise.all([
      listGross(pool(from), slots),
      listGross(pool(to), slots),
      readTransitGross(pool(from), to),
      readTransitGross(pool(to), from),
    ])
    const there = new Map(known.map(({ id, gross }) => [id, gross]))
    const sums = new Map(
      [...out].map(([name, gross]) => [name, gross > (back.get(name) ?? 0n) ? gross : (back.get(name) ?? 0n)]),
    )
    for (const { id, tenantId, currency, gross, posted } of leaving) {
      const name = `${tenantId} ${currency}`
      const amount = posted < 0n ? -posted : posted
      const sum = (sums.get(name) ?? back.get(name) ?? 0n) + amount
      sums.set(name, sum)
      if ([gross + amount, (there.get(id) ?? 0n) + amount, sum].some((counter) => counter > AMOUNT_MAX)) {
        throw new Error(
          `${formatId('wal', id)} can not be moved: so much has gone through its accounts that their counters would overflow`,
        )
      }
    }
  }

  async function open(shard: number, change: MapChange, isMoved: boolean): Promise<void> {
    if (await isUnderWay(shard, change)) await ask(shard, { kind: 'map-open', change, isMoved })
  }

  /** Waits for the sagas that began before the slots were closed. */
  async function isDrained({ slots }: MapChange): Promise<boolean> {
    const deadlineMs = Date.now() + drainMsMax
    for (;;) {
      const counts = await Promise.all(all().map((shard) => countSagasOf(pool(shard), slots)))
      if (counts.every((count) => count === 0)) return true
      if (Date.now() >= deadlineMs) return false
      await sleep(DRAIN_PAUSE_MS)
    }
  }

  /**
   * Nothing has left: every shard goes on as before. The shard that the slots are on decides that, once and for all; if it has decided
   * that they leave, they do.
   */
  async function abandon(change: MapChange): Promise<boolean> {
    const fate = await ask(change.from, { kind: 'map-abandon', change })
    if (fate.kind === 'map-depart') return await finish(change, holdsOf(fate))
    await settled(all().map((shard) => open(shard, change, false)))
    return false
  }

  /** Everything leaves one shard and arrives on the other. Then the new map counts: first where things are now. */
  async function finish(change: MapChange, holds: readonly Hold[]): Promise<true> {
    const { to, slots } = change
    // As long as it is closed there, it is not known whether all has arrived.
    if (slots.length > 0 && (await isUnderWay(to, change))) {
      try {
        await carry(change, holds)
      } catch (error) {
        // Somebody else may have come first.
        if (await isUnderWay(to, change)) throw error
      }
    }
    await open(to, change, true)
    await settled(all().map((shard) => open(shard, change, true)))
    return true
  }

  async function carry(change: MapChange, holds: readonly Hold[]): Promise<void> {
    const { from, to, slots } = change
    mustKnowAll(change)
    for (const shard of all()) if (shard !== to) await moveHolds(shard, change, holds)
    const wallets: Departed[] = []
    for await (const rows of pagesOf(pool(from), slots)) {
      wallets.push(...(await Promise.all(rows.map((row) => leave(row, change)))))
    }
    const isAhead = slots.every((slot) => copied.has(nameOf(change, slot)))
    await copyHistory({ slots, from, to, source: pool(from), target: pool(to), isAhead })
    await inPortions(wallets, ({ row, wallet, departedUs }) =>
      ask(to, { kind: 'wallet-arrive', wallet, changeId: change.id, fromShard: from, departedUs }, placeOf(row)),
    )
    await moveHolds(to, change, holds)
  }

  async function leave(row: WalletRow, change: MapChange): Promise<Departed> {
    const { id, currency, holderId, name, metadata, openedUs } = row
    const operation = {
      kind: 'wallet-depart',
      walletId: id,
      currency,
      changeId: change.id,
      toShard: change.to,
    } as const
    const { result, timeUs: departedUs } = await ask(change.from, operation, placeOf(row))
    const named = { ...(name === null ? {} : { name }), ...(metadata === null ? {} : { metadata }) }
    return { row, wallet: { id, holderId, ...named, openedUs, ...departedOf(result) }, departedUs }
  }

  /** Of each hold, what is pending on a shard goes between its ends as they are after the change. */
  async function moveHolds(shard: number, change: MapChange, holds: readonly Hold[]): Promise<void> {
    const homesOf = (hold: Hold, ofMoving: number): Homes => {
      const home = (id: string) => (isMovingSlot(change, slotOfId(id)) ? ofMoving : router.shardOf(id))
      return { from: home(hold.from), to: home(hold.to) }
    }
    await inPortions(holds, async (hold) => {
      const [before, after] = [homesOf(hold, change.from), homesOf(hold, change.to)]
      if (![before.from, before.to, after.from, after.to].includes(shard)) return
      await ask(shard, { kind: 'hold-move', hold, changeId: change.id, before, after }, placeOf(hold))
    })
  }

  return {
    async make(change) {
      mustKnowAll(change)
      // A shard that is silent would keep the others closed until it is given up.
      await settled(all().map((shard) => router.shard(shard).reader.ping()))
      try {
        // None may still be on its way when they are opened again. Where the slots are, last: there most is asked for.
        await settled(all().map((shard) => (shard === change.from ? undefined : close(shard, change))))
        await close(change.from, change)
        if (!(await isDrained(change))) return await abandon(change)
        await mustFit(change)
        const holds = await Promise.all(all().map((shard) => listHoldsOf(pool(shard), change.slots)))
        const fate = await ask(change.from, { kind: 'map-depart', change, holds: holds.flat() })
        return fate.kind === 'map-depart' ? await finish(change, holdsOf(fate)) : await abandon(change)
      } catch (error) {
        // Nothing should stay closed for longer than it must. If this fails too, any node does it.
        if (await abandon(change).catch(() => false)) return true
        throw error
      }
    },
    resume: abandon,
    async copyAhead({ from, to, slots }, onProgress) {
      const [source, target] = [pool(from), pool(to)]
      for (let round = 0; round < CATCH_UPS_MAX; round++) {
        const upTo = await copyHistory({ slots, from, to, source, target, isAhead: round > 0 }, onProgress)
        for (const slot of slots) copied.add(nameOf({ from, to }, slot))
        if ((await readHead(source)).number - upTo <= BLOCKS_BEHIND_MAX) return
      }
    },
  }
}

/** The holds that were open when the slots began to leave. */
function holdsOf({ payload }: RequestRecord): Hold[] {
  const { holds = [] } = JSON.parse(payload) as Payload
  return holds.map(holdOf)
}

function placeOf({ id, tenantId }: { id: string; tenantId: string }): { tenantId: string; slot: number } {
  return { tenantId, slot: slotOfId(id) }
}

function nameOf({ from, to }: Pick<MapChange, 'from' | 'to'>, slot: number): string {
  return `${slot} ${from} ${to}`
}

/** So many at a time that they don't fill the queue for others. */
async function inPortions<T>(items: readonly T[], work: (item: T) => Promise<unknown>): Promise<void> {
  for (let begin = 0; begin < items.length; begin += PORTION) {
    await Promise.all(items.slice(begin, begin + PORTION).map(work))
  }
}

async function* pagesOf(sql: Sql, slots: readonly number[]): AsyncGenerator<WalletRow[]> {
  let after: string | undefined
  for (;;) {
    const rows = await listSlotWallets(sql, { slots, after, limit: PORTION })
    if (rows.length > 0) yield rows
    if (rows.length < PORTION) return
    after = rows.at(-1)?.id
  }
}

/** Waits for all, also when one fails. @throws the first failure */
async function settled(work: readonly (Promise<unknown> | undefined)[]): Promise<void> {
  for (const result of await Promise.allSettled(work)) if (result.status === 'rejected') throw result.reason
}
