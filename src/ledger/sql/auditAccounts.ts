import { type Account, type AccountStatus, systemAccountId } from '../../core/account.ts'
import { difference, type Finding } from '../../core/audit.ts'
import type { Tx } from '../../postgres/connect.ts'

/** Counts the accounts of the shard. */
export async function countAccounts(sql: Tx): Promise<number> {
  const [row] = await sql<{ count: bigint }[]>`SELECT count(*) FROM accounts`
  return Number(row?.count ?? 0)
}

type CountersRow = {
  id: string
  block: bigint | null
  item: number | null
  request: string | null
  sequence: bigint
  debits_posted: bigint
  credits_posted: bigint
  debits_pending: bigint
  credits_pending: bigint
  due_sequence: bigint
  due_debits_posted: string
  due_credits_posted: string
  due_debits_pending: bigint
  due_credits_pending: bigint
}

/**
 * Finds the first account, by its last entry, whose counters are not what its entries come to: the posted ones sums, the
 * pending ones and the sequence those of its last entry, all zero without entries; a wallet that has come here begins with the
 * sequence that it came with. Of a chain that was walked already. The
 * place is that of the last entry; without one, that of the wallet's opening.
 */
export async function findWrongCounters(sql: Tx): Promise<Finding | undefined> {
  const [row] = await sql<CountersRow[]>`
    WITH sums AS (
      SELECT account_id, max(sequence) AS sequence,
             coalesce(-sum(amount) FILTER (WHERE amount < 0 AND layer = 'posted'), 0) AS debits_posted,
             coalesce(sum(amount) FILTER (WHERE amount > 0 AND layer = 'posted'), 0) AS credits_posted
      FROM entries GROUP BY account_id
    ), due AS (
      SELECT a.*, l.block, l.item,
             greatest(s.sequence, v.sequence, 0) AS due_sequence,
             coalesce(s.debits_posted, 0) AS due_debits_posted,
             coalesce(s.credits_posted, 0) AS due_credits_posted,
             coalesce(l.pending_out, 0) AS due_debits_pending,
             coalesce(l.pending_in, 0) AS due_credits_pending
      FROM accounts a
      LEFT JOIN sums s ON s.account_id = a.id
      LEFT JOIN (SELECT account_id, max(sequence) AS sequence FROM arrivals GROUP BY account_id) v ON v.account_id = a.id
      LEFT JOIN entries l ON l.account_id = s.account_id AND l.sequence = s.sequence
    ), wrong AS (
      SELECT * FROM due
      WHERE (sequence, debits_posted, credits_posted, debits_pending, credits_pending)
        <> (due_sequence, due_debits_posted, due_credits_posted, due_debits_pending, due_credits_pending)
      ORDER BY block NULLS LAST, item, id LIMIT 1
    )
    SELECT w.id, coalesce(r.block, o.block) AS block, coalesce(r.item, o.item) AS item, coalesce(r.id, o.id) AS request,
           w.sequence, w.debits_posted, w.credits_posted, w.debits_pending, w.credits_pending, w.due_sequence,
           w.due_debits_posted::text, w.due_credits_posted::text, w.due_debits_pending, w.due_credits_pending
    FROM wrong w
    LEFT JOIN requests r ON (r.block, r.item) = (w.block, w.item)
    LEFT JOIN requests o ON o.id = w.id AND w.block IS NULL`
  if (!row) return undefined
  const { id, block, item, request, sequence, debits_posted, credits_posted, debits_pending, credits_pending } = row
  const problem = difference(
    { sequence, debits_posted, credits_posted, debits_pending, credits_pending },
    {
      sequence: row.due_sequence,
      debits_posted: row.due_debits_posted,
      credits_posted: row.due_credits_posted,
      debits_pending: row.due_debits_pending,
      credits_pending: row.due_credits_pending,
    },
  )
  return {
    ...{ block: block === null ? null : Number(block), item, transaction: request, account: id },
    problem: `in the row of the account, ${problem}, as its entries say`,
  }
}

type SystemAccountRow = Pick<Account, 'id' | 'currency'> & {
  kind: Exclude<Account['kind'], 'wallet'>
  peer: number | null
  tenant_id: string
  status: AccountStatus
  transfer_max: bigint | null
  balance_max: bigint | null
  block: bigint | null
  item: number | null
  request: string | null
}

const PAGE_ROWS = 1_000

/** Finds a system account that is not what its id says, or that somebody restricted, which only wallets can be. */
export async function findWrongSystemAccount(sql: Tx, shard: number): Promise<Finding | undefined> {
  const pages = sql<SystemAccountRow[]>`
    SELECT a.id, a.tenant_id, a.kind, a.currency, a.peer, a.status, a.transfer_max, a.balance_max, r.block, r.item, r.id AS request
    FROM accounts a
    LEFT JOIN entries e ON e.account_id = a.id AND e.sequence = a.sequence
    LEFT JOIN requests r ON (r.block, r.item) = (e.block, e.item)
    WHERE a.kind <> 'wallet' ORDER BY r.block NULLS LAST, r.item, a.id`.cursor(PAGE_ROWS)
  for await (const rows of pages) {
    for (const row of rows) {
      const { kind, currency, status, transfer_max, balance_max } = row
      const place = { tenantId: row.tenant_id, shard, kind, currency }
      const id = systemAccountId(row.peer === null ? place : { ...place, peer: row.peer })
      const due = { id, status: 'active' }
      const problem = difference(
        { id: row.id, status, transfer_max, balance_max },
        { ...due, transfer_max: null, balance_max: null },
      )
      if (problem === undefined) continue
      return {
        ...{ block: row.block === null ? null : Number(row.block), item: row.item, transaction: row.request },
        ...{ account: row.id, problem: `in the row of the ${kind} account in ${currency}, ${problem}` },
      }
    }
  }
  return undefined
}
