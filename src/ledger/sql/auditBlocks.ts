import type { Account } from '../../core/account.ts'
import type { StoredItem, StoredLine } from '../../core/audit.ts'
import type { BlockHeader } from '../../core/block.ts'
import type { Refusal } from '../../core/refusal.ts'
import type { Kind } from '../../core/request.ts'
import type { Layer } from '../../core/workspace.ts'
import type { Tx } from '../../postgres/connect.ts'

/** Blocks from the first to the last, both included. */
export type BlockRange = { readonly first: number; readonly last: number }

/** Something and the number of the block that it stands in. */
export type InBlock<T> = T & { readonly block: number }

type HeaderRow = {
  number: bigint
  previous_hash: Buffer
  root: Buffer
  hash: Buffer
  time_us: bigint
  writer: string
  request_count: number
  entry_count: number
}

/**
 * The headers that come next, in order.
 * @param after the number of the block before; `null` for all, even those with numbers that no block should have
 * @param max headers at most
 */
export async function readHeaders(sql: Tx, shard: number, after: number | null, max: number): Promise<BlockHeader[]> {
  const rows = await sql<HeaderRow[]>`
    SELECT number, previous_hash, root, hash, time_us, writer, request_count, entry_count FROM blocks
    WHERE number > ${after ?? -(2n ** 63n)} ORDER BY number LIMIT ${max}`
  return rows.map((row) => ({
    shard,
    number: Number(row.number),
    previousHash: row.previous_hash,
    root: row.root,
    timeUs: Number(row.time_us),
    writer: row.writer,
    requestCount: row.request_count,
    entryCount: row.entry_count,
    hash: row.hash,
  }))
}

type ItemRow = {
  block: bigint
  item: number
  id: string
  tenant_id: string
  scope: string
  key: string
  kind: Kind
  target: string | null
  payload: string
  refusal: Refusal | null
  result: string | null
  leaf: Buffer
  account_tenant: string | null
  account_kind: Account['kind']
  account_currency: string
  account_overdraft: bigint | null
}

/**
 * The requests of blocks, by block and item, with the accounts of the wallets that they opened.
 * @param max requests at most
 */
export async function readItems(sql: Tx, { first, last }: BlockRange, max: number): Promise<InBlock<StoredItem>[]> {
  const rows = await sql<ItemRow[]>`
    SELECT r.block, r.item, r.id, r.tenant_id, r.scope, r.key, r.kind, r.target, r.payload::text, r.refusal,
           r.result::text, r.leaf, a.tenant_id AS account_tenant, a.kind AS account_kind, a.currency AS account_currency,
           a.overdraft_limit AS account_overdraft
    FROM requests r LEFT JOIN accounts a ON a.id = CASE r.kind WHEN 'wallet-open' THEN r.id END
    WHERE r.block BETWEEN ${first} AND ${last} ORDER BY r.block, r.item LIMIT ${max}`
  return rows.map((row) => ({
    block: Number(row.block),
    item: row.item,
    id: row.id,
    tenantId: row.tenant_id,
    scope: row.scope,
    key: row.key,
    kind: row.kind,
    target: row.target,
    payload: row.payload,
    refusal: row.refusal,
    result: row.result,
    leaf: row.leaf,
    opened:
      row.account_tenant === null
        ? null
        : {
            tenantId: row.account_tenant,
            kind: row.account_kind,
            currency: row.account_currency,
            overdraftLimit: row.account_overdraft,
          },
  }))
}

type LineRow = {
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
  before_posted: bigint
  before_pending_out: bigint
  before_pending_in: bigint
  before_is_earlier: boolean | null
  account_currency: string | null
  account_overdraft: bigint | null
}

/**
 * The entries of blocks, by block, item and line, each with its account and with the entry of that account before it.
 * @param max entries at most
 */
export async function readLines(sql: Tx, { first, last }: BlockRange, max: number): Promise<InBlock<StoredLine>[]> {
  const rows = await sql<LineRow[]>`
    SELECT e.block, e.item, e.line, e.account_id, e.sequence, e.currency, e.layer, e.amount, e.posted, e.pending_out,
           e.pending_in, p.posted AS before_posted, p.pending_out AS before_pending_out,
           p.pending_in AS before_pending_in, (p.block, p.item, p.line) < (e.block, e.item, e.line) AS before_is_earlier,
           a.currency AS account_currency, a.overdraft_limit AS account_overdraft
    FROM entries e
    LEFT JOIN entries p ON p.account_id = e.account_id AND p.sequence = e.sequence - 1
    LEFT JOIN accounts a ON a.id = e.account_id
    WHERE e.block BETWEEN ${first} AND ${last} ORDER BY e.block, e.item, e.line LIMIT ${max}`
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
    previous:
      row.before_is_earlier === null
        ? null
        : {
            posted: row.before_posted,
            pendingOut: row.before_pending_out,
            pendingIn: row.before_pending_in,
            isEarlier: row.before_is_earlier,
          },
    account:
      row.account_currency === null ? null : { currency: row.account_currency, overdraftLimit: row.account_overdraft },
  }))
}
