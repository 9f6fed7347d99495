import { connect } from '../../src/postgres/connect.ts'
import type { Total } from '../../src/projections/totals.ts'

type Row = {
  root: string
  tenant: string
  kind: string
  currency: string
  amount: string
  /** When this shard ended it, if it is the one to say so. */
  ended_us: bigint | null
}

/**
 * The totals as the stored ledger has them, without any event: the posted credits of wallets and cash accounts, summed up over all shards by
 * what was asked, on the day of the block in which the shard that led it ended it.
 */
export async function expectedTotals(urls: readonly string[]): Promise<Total[]> {
  const rows: Row[] = []
  for (const [shard, url] of urls.entries()) {
    const sql = connect(url, { max: 1, name: 'test' })
    rows.push(
      ...(await sql<Row[]>`
        SELECT coalesce(r.payload->'saga'->>'id', r.id::text) AS root, r.tenant_id AS tenant, coalesce(r.payload->'saga'->>'as', r.kind) AS kind,
               e.currency, coalesce(sum(e.amount) FILTER (WHERE e.amount > 0 AND a.kind IN ('wallet', 'cash')), 0)::text AS amount,
               max(b.time_us) FILTER (WHERE r.payload->'saga' IS NULL
                 OR (r.kind = 'saga-finalize' AND (r.payload->'saga'->>'shard')::int = ${shard})) AS ended_us
        FROM entries e
        JOIN requests r USING (block, item)
        JOIN blocks b ON b.number = e.block
        JOIN accounts a ON a.id = e.account_id
        WHERE e.layer = 'posted' GROUP BY 1, 2, 3, 4`),
    )
    await sql.end()
  }
  const totals = new Map<string, Total>()
  for (const [root, mine] of Map.groupBy(rows, ({ root }) => root)) {
    const endedUs = mine.find(({ ended_us }) => ended_us !== null)?.ended_us
    if (endedUs === undefined || endedUs === null) throw new Error(`nobody has ended ${root}`)
    const day = new Date(Number(endedUs / 1000n)).toISOString().slice(0, 10)
    for (const [currency, parts] of Map.groupBy(mine, (row) => row.currency)) {
      const [first] = parts
      if (!first || first.kind === 'capture') continue
      const key = [first.tenant, day, currency, first.kind].join(' ')
      const kind = first.kind as Total['kind']
      const known = totals.get(key) ?? { tenantId: first.tenant, day, currency, kind, number: 0n, amount: 0n }
      const amount = parts.reduce((sum, part) => sum + BigInt(part.amount), known.amount)
      totals.set(key, { ...known, number: known.number + 1n, amount })
    }
  }
  return [...totals].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, total]) => total)
}

/** What each wallet's counters say. */
export async function walletBalances(urls: readonly string[]): Promise<Map<string, { posted: bigint; held: bigint }>> {
  const balances = new Map<string, { posted: bigint; held: bigint }>()
  for (const url of urls) {
    const sql = connect(url, { max: 1, name: 'test' })
    const rows = await sql<{ id: string; posted: bigint; held: bigint }[]>`
      SELECT id, credits_posted - debits_posted AS posted, debits_pending AS held FROM accounts WHERE kind = 'wallet'`
    for (const { id, posted, held } of rows) balances.set(id, { posted, held })
    await sql.end()
  }
  return balances
}
