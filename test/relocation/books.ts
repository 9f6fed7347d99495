import { expect } from 'vitest'
import { shardOfSlot } from '../../src/core/shardMap.ts'
import { planMoves } from '../../src/relocation/plan.ts'
import { readStored, type StoredMap } from '../../src/shards/storedMap.ts'
import { withShards } from '../saga/books.ts'

/** A change of the map that is under way on some shards. */
export type Underway = { readonly shard: number; readonly id: string; readonly phase: 'closed' | 'departing' }

/** What is under way, shard by shard; nothing of those that can't be asked. @param urls by the shards' numbers */
export async function underway(urls: readonly string[]): Promise<Underway[]> {
  return await withShards(urls, async (shards) => {
    const found = await Promise.allSettled(
      shards.map((sql) => sql<{ id: string; phase: Underway['phase'] }[]>`SELECT id, phase FROM map_change`),
    )
    return found.flatMap((rows, shard) =>
      rows.status === 'fulfilled' ? rows.value.map(({ id, phase }) => ({ shard, id, phase })) : [],
    )
  })
}

/** The map, which all shards hold. @throws if they don't, or a change is under way */
export async function settledMap(urls: readonly string[]): Promise<StoredMap> {
  return await withShards(urls, async (shards) => {
    const stored = await Promise.all(shards.map((sql) => readStored(sql)))
    const [first] = stored
    for (const { map, change } of stored) {
      expect(change).toBeUndefined()
      expect(map).toEqual(first?.map)
    }
    if (!first?.map) throw new Error('no map is stored')
    return first.map
  })
}

/** Every slot is where the ring puts it. @returns how many each shard has */
export async function expectEven(urls: readonly string[]): Promise<number[]> {
  const map = await settledMap(urls)
  expect(planMoves(map)).toEqual([])
  return urls.map((_, number) => map.shards.filter((shard) => shard === number).length)
}

type EntryRow = {
  account_id: string
  slot: number
  sequence: number
  layer: 'posted' | 'pending'
  amount: bigint
  posted: bigint
  pending_out: bigint
  pending_in: bigint
}

/**
 * The history of wallets that moved, without a word of Zerosum's own audit: every transaction of every shard sums to zero; the entries
 * that all shards together have of a wallet are numbered without a gap, each going on from the one before; the shard where the
 * wallet lives knows all of them; and its account is what the last one says.
 */
export async function expectWholeHistory(urls: readonly string[]): Promise<void> {
  const map = await settledMap(urls)
  await withShards(urls, async (shards) => {
    const entries: EntryRow[] = []
    for (const [shard, sql] of shards.entries()) {
      const uneven = await sql`
        SELECT block, item, currency, layer, sum(amount) FROM entries GROUP BY 1, 2, 3, 4 HAVING sum(amount) <> 0`
      expect([...uneven], `transactions of shard ${shard} that do not sum to zero`).toEqual([])
      entries.push(
        ...(await sql<EntryRow[]>`
          SELECT account_id, slot_of(account_id) AS slot, e.sequence::int, layer, amount, e.posted, pending_out, pending_in
          FROM entries e JOIN accounts a ON a.id = e.account_id WHERE a.kind = 'wallet'`),
      )
    }
    const known = new Map<string, string>()
    const accounts = new Map<string, string>()
    for (const [shard, sql] of shards.entries()) {
      for (const row of await sql<{ account_id: string; slot: number; lines: string }[]>`
        SELECT account_id, slot_of(account_id) AS slot,
               string_agg(concat_ws(' ', sequence, layer, amount, posted, pending_out, pending_in), ', ' ORDER BY sequence) AS lines
        FROM known_entries WHERE slot_of(account_id) IS NOT NULL GROUP BY 1`) {
        if (shardOfSlot(map, row.slot) === shard) known.set(row.account_id, row.lines)
      }
      for (const row of await sql<{ id: string; slot: number; is: string }[]>`
        SELECT id, slot_of(id) AS slot,
               concat_ws(' ', sequence, credits_posted - debits_posted, debits_pending, credits_pending) AS is
        FROM accounts WHERE kind = 'wallet'`) {
        if (shardOfSlot(map, row.slot) === shard) accounts.set(row.id, row.is)
        // What it left behind is empty.
        else expect(row.is.split(' ').slice(1), `${row.id}, which left shard ${shard}`).toEqual(['0', '0', '0'])
      }
    }
    const histories = Map.groupBy(entries, (entry) => entry.account_id)
    expect(histories.size).toBeGreaterThan(0)
    for (const [id, history] of histories) {
      let [posted, out, into, sequence] = [0n, 0n, 0n, 0]
      for (const entry of history.sort((a, b) => a.sequence - b.sequence)) {
        sequence += 1
        if (entry.layer === 'posted') posted += entry.amount
        else if (entry.pending_out !== out) out -= entry.amount
        else into += entry.amount
        expect({ id, ...gist(entry) }).toEqual({ id, sequence, posted, out, into })
      }
      const lines = history.map((e) => [e.sequence, e.layer, e.amount, e.posted, e.pending_out, e.pending_in].join(' '))
      expect(known.get(id), `what is known of ${id} where it lives`).toBe(lines.join(', '))
      expect(accounts.get(id), `the account of ${id}`).toBe(`${sequence} ${posted} ${out} ${into}`)
    }
  })
}

function gist({ sequence, posted, pending_out: out, pending_in: into }: EntryRow) {
  return { sequence, posted, out, into }
}

/** How often slots were closed, and how long, ms: from the first shard that closed them to the last that opened them. */
export type Closures = { moved: number; abandoned: number; median: number; longest: number }

/** By the times of the blocks of all chains. */
export async function closures(urls: readonly string[]): Promise<Closures> {
  const changes = new Map<string, { from: number; to: number; moved: boolean }>()
  await withShards(urls, async (shards) => {
    for (const sql of shards) {
      for (const { id, close, open, moved } of await sql<{ id: string; close: number; open: number; moved: boolean }[]>`
        SELECT c.scope AS id, cb.time_us::float8 / 1000 AS close, ob.time_us::float8 / 1000 AS open,
               (o.payload->>'isMoved')::boolean AS moved
        FROM requests c JOIN blocks cb ON cb.number = c.block
        JOIN requests o ON o.scope = c.scope AND o.kind = 'map-open' JOIN blocks ob ON ob.number = o.block
        WHERE c.kind = 'map-close' AND json_array_length(c.payload->'change'->'slots') > 0`) {
        const known = changes.get(id) ?? { from: close, to: open, moved }
        changes.set(id, { from: Math.min(known.from, close), to: Math.max(known.to, open), moved })
      }
    }
  })
  const all = [...changes.values()]
  const times = all.map(({ from, to }) => Math.round(to - from)).sort((a, b) => a - b)
  const moved = all.filter((one) => one.moved).length
  return {
    ...{ moved, abandoned: all.length - moved },
    ...{ median: times[Math.floor(times.length / 2)] ?? 0, longest: times.at(-1) ?? 0 },
  }
}
