import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import { verifyShard } from '../../src/ledger/auditor.ts'
import { connect, type Sql } from '../../src/postgres/connect.ts'

/** Looks at the databases of all shards as their owner, beside the nodes. @param urls by the shards' numbers */
export async function withShards<T>(urls: readonly string[], work: (shards: readonly Sql[]) => Promise<T>): Promise<T> {
  const shards = urls.map((url) => connect(url, { max: 1, role: null }))
  try {
    return await work(shards)
  } finally {
    await Promise.all(shards.map((sql) => sql.end()))
  }
}

/** The sum over the wallets of all shards: posted, minor units, by currency. */
export async function moneyIn(urls: readonly string[]): Promise<Record<string, bigint>> {
  return await withShards(urls, async (shards) => {
    const total: Record<string, bigint> = {}
    for (const sql of shards) {
      const rows = await sql<{ currency: string; sum: bigint }[]>`
        SELECT currency, sum(credits_posted - debits_posted)::int8 AS sum FROM accounts WHERE kind = 'wallet' GROUP BY 1`
      for (const { currency, sum } of rows) total[currency] = (total[currency] ?? 0n) + sum
    }
    return total
  })
}

/** Waits until no saga is in flight on any shard. @returns how long that took, ms @throws after `msMax` */
export async function untilOver(urls: readonly string[], msMax: number): Promise<number> {
  return await withShards(urls, async (shards) => {
    const start = Date.now()
    for (;;) {
      const counts = await Promise.all(shards.map(inFlight))
      if (counts.every((count) => count === 0)) return Date.now() - start
      if (Date.now() - start > msMax)
        throw new Error(`sagas are still in flight after ${msMax} ms, by shard: ${counts}`)
      await sleep(100)
    }
  })
}

export async function inFlight(sql: Sql): Promise<number> {
  const [row] = await sql<{ count: number }[]>`SELECT count(*)::int AS count FROM sagas_in_flight`
  return row?.count ?? 0
}

/**
 * What must hold when no saga is in flight: every one has ended once; transit accounts cancel out between each two shards; what
 * is pending on wallets is what open holds reserve; and the audit of each shard finds nothing, if that is asked.
 */
export async function expectSettledBooks(urls: readonly string[]): Promise<void> {
  await withShards(urls, async (shards) => {
    const transits = new Map<string, bigint>()
    const pending = { out: 0n, in: 0n, held: 0n }
    for (const [shard, sql] of shards.entries()) {
      const unended = await sql`
        SELECT id FROM requests r WHERE refusal IS NULL AND result->'saga' IS NOT NULL AND kind NOT LIKE 'saga-%'
          AND NOT EXISTS (SELECT FROM requests e WHERE e.scope = r.id AND e.key = '§end')`
      expect([...unended], `sagas of shard ${shard} that never ended`).toEqual([])

      const rows = await sql<{ tenant_id: string; currency: string; peer: number; posted: bigint; pending: bigint }[]>`
        SELECT tenant_id, currency, peer, sum(credits_posted - debits_posted)::int8 AS posted,
               sum(credits_pending - debits_pending)::int8 AS pending
        FROM accounts WHERE kind = 'transit' GROUP BY 1, 2, 3`
      for (const { tenant_id: tenant, currency, peer, posted, pending } of rows) {
        const [low, high] = shard < peer ? [shard, peer] : [peer, shard]
        for (const [layer, amount] of [
          ['posted', posted],
          ['pending', pending],
        ] as const) {
          const name = `${layer} ${currency} of ${tenant} between ${low} and ${high}`
          transits.set(name, (transits.get(name) ?? 0n) + amount)
        }
      }

      const [sums] = await sql<{ out: bigint; in: bigint; held: bigint }[]>`
        SELECT coalesce(sum(debits_pending), 0)::int8 AS out, coalesce(sum(credits_pending), 0)::int8 AS in,
               (SELECT coalesce(sum(amount), 0)::int8 FROM holds WHERE status = 'held') AS held
        FROM accounts WHERE kind = 'wallet'`
      if (!sums) throw new Error('no sums')
      pending.out += sums.out
      pending.in += sums.in
      pending.held += sums.held
      const halfway = await sql`SELECT id FROM holds WHERE status IN ('pending', 'capturing')`
      expect([...halfway], `holds of shard ${shard} that are neither held nor not`).toEqual([])
    }
    expect([...transits].filter(([, sum]) => sum !== 0n)).toEqual([])
    expect(pending).toEqual({ out: pending.held, in: pending.held, held: pending.held })
    for (const [shard, sql] of shards.entries()) {
      const { balanced, discrepancy } = await verifyShard(sql, shard)
      expect({ shard, balanced, discrepancy }).toEqual({ shard, balanced: true, discrepancy: null })
    }
  })
}

/** Waits until no hold is past its time; each has its saga then. */
export async function untilExpired(urls: readonly string[]): Promise<void> {
  await withShards(urls, async (shards) => {
    for (const sql of shards) {
      // As long as the shortest may yet have: longer ones are left open.
      const due = () => sql`
        SELECT FROM holds WHERE status = 'held' AND expires_at_us < (extract(epoch FROM now()) + 10) * 1000000`
      while ((await due()).length > 0) await sleep(100)
    }
  })
}
