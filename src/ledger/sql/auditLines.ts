import { LRUCache } from 'lru-cache'
import type { Balances, StoredLine } from '../../core/audit.ts'
import type { Layer } from '../../core/workspace.ts'
import { arrayLiteral, type Tx } from '../../postgres/connect.ts'
import type { BlockRange, InBlock } from './auditBlocks.ts'

/** Accounts whose last entry is remembered; some 60 MB. Others are looked up. */
const ACCOUNTS_MAX = 200_000

/**
 * Reads the entries of blocks, by block, item and line, with what they build on.
 * @param max entries at most
 */
export type LineReader = (range: BlockRange, max: number) => Promise<InBlock<StoredLine>[]>

type Account = { currency: string | null; overdraftLimit: bigint | null }
type Line = { -readonly [Field in keyof InBlock<StoredLine>]: InBlock<StoredLine>[Field] }
/** The last entry of an account so far. */
type Last = { sequence: number; balances: Balances; readonly account: Account }

/**
 * A reader of entries for ranges that are asked for in chain order. It remembers the last entry of the accounts that came
 * by of late, because the next entry of an account builds on it; what it doesn't remember it looks up by index.
 */
export function createLineReader(sql: Tx): LineReader {
  const lastEntries = new LRUCache<string, Last>({ max: ACCOUNTS_MAX })
  return async (range, max) => {
    const lines = await readEntries(sql, range, max)
    const unknown: { line: Line; account: Account }[] = []
    for (const line of lines) {
      let last = lastEntries.get(line.accountId)
      if (last?.sequence === line.sequence - 1) {
        line.previous = last.balances
      } else {
        last ??= { sequence: 0, balances: line, account: { currency: null, overdraftLimit: null } }
        lastEntries.set(line.accountId, last)
        unknown.push({ line, account: last.account })
      }
      line.account = last.account
      last.sequence = line.sequence
      last.balances = { posted: line.posted, pendingOut: line.pendingOut, pendingIn: line.pendingIn }
    }
    if (unknown.length > 0) await lookUp(sql, unknown)
    return lines
  }
}

const NO_ACCOUNT: Account = { currency: null, overdraftLimit: null }

type EntryRow = {
  block: bigint
  item: number
  line: number
  account_id: string
  sequence: bigint
  currency: string
  layer: Layer
  amount: bigint
  posted: bigint
  pending_out: bigint
  pending_in: bigint
}

async function readEntries(sql: Tx, { first, last }: BlockRange, max: number): Promise<Line[]> {
  const rows = await sql<EntryRow[]>`
    SELECT block, item, line, account_id, sequence, currency, layer, amount, posted, pending_out, pending_in
    FROM entries WHERE block BETWEEN ${first} AND ${last} ORDER BY block, item, line LIMIT ${max}`
  return rows.map((row) => ({
    block: Number(row.block),
    item: row.item,
    line: row.line,
    accountId: row.account_id,
    sequence: Number(row.sequence),
    currency: row.currency,
    layer: row.layer,
    amount: row.amount,
    posted: row.posted,
    pendingOut: row.pending_out,
    pendingIn: row.pending_in,
    previous: null,
    isPreviousLater: false,
    account: NO_ACCOUNT,
  }))
}

type BaseRow = {
  place: number
  posted: bigint
  pending_out: bigint
  pending_in: bigint
  is_later: boolean | null
  is_arrival: boolean
  currency: string | null
  overdraft_limit: bigint | null
}

/** Looks up accounts, and the entries before these. */
async function lookUp(sql: Tx, unknown: readonly { line: Line; account: Account }[]): Promise<void> {
  const column = (value: (line: Line, place: number) => string | number | null) =>
    arrayLiteral(unknown.map(({ line }, place) => value(line, place)))
  // A number that no entry can have is of no use to look for; there is nothing before it either.
  const before = ({ sequence }: Line) => (sequence > 0 && Number.isSafeInteger(sequence) ? sequence - 1 : null)
  const rows = await sql<BaseRow[]>`
    SELECT l.place, p.posted, p.pending_out, p.pending_in, (p.block, p.item, p.line) > (l.block, l.item, l.line) AS is_later,
           v.block IS NOT NULL AS is_arrival, a.currency, a.overdraft_limit
    FROM unnest(${column((_, place) => place)}::int[], ${column(({ block }) => block)}::int8[],
                ${column(({ item }) => item)}::int[], ${column(({ line }) => line)}::int[],
                ${column(({ accountId }) => accountId)}::uuid[], ${column(before)}::int8[])
         AS l (place, block, item, line, account_id, before)
    LEFT JOIN entries p ON p.account_id = l.account_id AND p.sequence = l.before
    -- A wallet that came from another shard goes on after the number that it had there, from nothing.
    LEFT JOIN LATERAL (
      SELECT v.block FROM arrivals v
      WHERE v.account_id = l.account_id AND v.sequence = l.before AND (v.block, v.item) <= (l.block, l.item) LIMIT 1) AS v ON true
    LEFT JOIN accounts a ON a.id = l.account_id`
  for (const row of rows) {
    const found = unknown[row.place]
    if (!found) continue
    const { line, account } = found
    // Remembered with the account, and shared by all of its entries.
    account.currency = row.currency
    account.overdraftLimit = row.overdraft_limit
    if (row.is_later === null) {
      if (row.is_arrival) line.previous = { posted: 0n, pendingOut: 0n, pendingIn: 0n }
      continue
    }
    line.previous = { posted: row.posted, pendingOut: row.pending_out, pendingIn: row.pending_in }
    line.isPreviousLater = row.is_later
  }
}
