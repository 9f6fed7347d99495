import type { Request } from '../src/core/request.ts'
import { connect, type Sql } from '../src/postgres/connect.ts'

/**
 * The classic way, for comparison: one transfer a transaction; the two accounts locked with SELECT … FOR UPDATE; the same
 * tables and indexes. The triggers that need blocks are dropped, which only spares it work.
 */
export async function prepareClassic(url: string): Promise<Sql> {
  await dropBlockTriggers(url)
  return connect(url, { max: 16, role: null })
}

/** Lets single transactions write the ledger's tables: without the triggers that need blocks, under numbers of their own. */
export async function dropBlockTriggers(url: string): Promise<void> {
  const owner = connect(url, { max: 1, role: null })
  await owner`DROP TRIGGER IF EXISTS apply_entries ON entries`
  await owner`DROP TRIGGER IF EXISTS check_requests ON requests`
  await owner`DROP TRIGGER IF EXISTS no_direct_update ON accounts`
  await owner`CREATE SEQUENCE IF NOT EXISTS classic_number START 1000000000`
  await owner.end()
}

type Row = { id: string; sequence: bigint; posted: bigint; pending: bigint; overdraft_limit: bigint }

/** Moves one amount; false if the payer can't pay. */
export async function transferClassic(pool: Sql, request: Request): Promise<boolean> {
  const leg = request.operation.kind === 'transfer' ? request.operation.legs[0] : undefined
  if (!leg) throw new Error('the classic way moves single transfers')
  return await pool.begin(async (sql) => {
    const rows = await sql<Row[]>`
      SELECT id, sequence, credits_posted - debits_posted AS posted, debits_pending AS pending, overdraft_limit
      FROM accounts WHERE id IN (${leg.from}, ${leg.to}) ORDER BY id FOR UPDATE`
    const from = rows.find(({ id }) => id === leg.from)
    const to = rows.find(({ id }) => id === leg.to)
    if (!from || !to || from.posted - from.pending - leg.amount < -from.overdraft_limit) return false
    const [request_] = await sql<{ block: bigint }[]>`
      INSERT INTO requests (block, item, id, tenant_id, scope, key, kind, payload, leaf)
      VALUES (nextval('classic_number'), 0, ${request.id}, ${request.tenantId}, ${request.scope}, ${request.key},
              'transfer', ${request.payload}::text::json, decode(repeat('00', 32), 'hex'))
      RETURNING block`
    const block = request_?.block ?? 0n
    await sql`
      INSERT INTO entries
        (block, item, line, account_id, sequence, currency, layer, amount, posted, pending_out, pending_in)
      VALUES
        (${block}, 0, 0, ${from.id}, ${from.sequence + 1n}, ${leg.currency}, 'posted', ${-leg.amount},
         ${from.posted - leg.amount}, 0, 0),
        (${block}, 0, 1, ${to.id}, ${to.sequence + 1n}, ${leg.currency}, 'posted', ${leg.amount},
         ${to.posted + leg.amount}, 0, 0)`
    await sql`
      UPDATE accounts SET sequence = sequence + 1,
        debits_posted = debits_posted + CASE WHEN id = ${leg.from} THEN ${leg.amount}::int8 ELSE 0 END,
        credits_posted = credits_posted + CASE WHEN id = ${leg.to} THEN ${leg.amount}::int8 ELSE 0 END
      WHERE id IN (${leg.from}, ${leg.to})`
    return true
  })
}
