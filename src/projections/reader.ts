import type { Sql, Tx } from '../postgres/connect.ts'
import type { Activity } from './activity.ts'
import type { Total } from './totals.ts'

/** Both are on the first shard's database. */
type Source = Sql | Tx

/** Where a page of a feed ended. */
export type ActivityCursor = Pick<Activity, 'timeUs' | 'transactionId' | 'leg'>

type ActivityRow = Omit<Activity, 'timeUs' | 'amount'> & { timeUs: bigint; amount: bigint }

/**
 * A page of a wallet's feed, newest first.
 * @param options.before only what is older than this; the last row of the page before
 */
export async function readActivity(
  sql: Source,
  { tenantId, walletId }: { tenantId: string; walletId: string },
  { limit, before }: { limit: number; before?: ActivityCursor },
): Promise<Activity[]> {
  const older = before
    ? sql`AND (time_us, transaction_id, leg) < (${before.timeUs}::int8, ${before.transactionId}::uuid, ${before.leg}::int)`
    : sql``
  const rows = await sql<ActivityRow[]>`
    SELECT wallet_id AS "walletId", time_us AS "timeUs", transaction_id AS "transactionId", leg, tenant_id AS "tenantId", kind, direction,
           counterparty, amount, currency, transfer_id AS "transferId", hold_id AS "holdId", reverses, memo, reference
    FROM wallet_activity WHERE wallet_id = ${walletId} AND tenant_id = ${tenantId} ${older}
    ORDER BY time_us DESC, transaction_id DESC, leg DESC LIMIT ${limit}`
  return rows.map((row) => ({ ...row, timeUs: Number(row.timeUs), amount: `${row.amount}` }))
}

/**
 * A tenant's totals of the days from `from` to `to`, both included (UTC, `2026-01-31`), by day, currency and kind; in one currency, or all.
 */
export async function readDailyTotals(
  sql: Source,
  tenantId: string,
  { from, to, currency }: { from: string; to: string; currency?: string },
): Promise<Total[]> {
  const one = currency === undefined ? sql`` : sql`AND currency = ${currency}`
  const rows = await sql<(Omit<Total, 'amount'> & { amount: string })[]>`
    SELECT tenant_id AS "tenantId", day::text, currency, kind, number, amount::text FROM daily_totals
    WHERE tenant_id = ${tenantId} AND day BETWEEN ${from}::date AND ${to}::date ${one} ORDER BY daily_totals.day, currency, kind`
  return rows.map((row) => ({ ...row, amount: BigInt(row.amount) }))
}
