import type { StoredItem } from '../../core/audit.ts'
import type { BlockHeader } from '../../core/block.ts'
import type { Refusal } from '../../core/refusal.ts'
import type { Kind } from '../../core/request.ts'
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
  opened: StoredItem['opened']
  arrived_at: bigint | null
}

/**
 * The requests of blocks, by block and item, with the accounts of the wallets that they opened.
 * @param max requests at most
 */
export async function readItems(sql: Tx, { first, last }: BlockRange, max: number): Promise<InBlock<StoredItem>[]> {
  const rows = await sql<ItemRow[]>`
    SELECT block, item, id, tenant_id, scope, key, kind, target, payload::text, refusal, result::text, leaf,
           CASE WHEN kind IN ('wallet-open', 'wallet-arrive') THEN (
             SELECT json_build_object('tenantId', a.tenant_id, 'kind', a.kind, 'currency', a.currency,
                                      'overdraftLimit', a.overdraft_limit::text)
             FROM accounts a WHERE a.id = CASE requests.kind WHEN 'wallet-open' THEN requests.id ELSE requests.scope END) END AS opened,
           (SELECT v.sequence FROM arrivals v
            WHERE (v.block, v.item, v.account_id) = (requests.block, requests.item, requests.scope)) AS arrived_at
    FROM requests WHERE block BETWEEN ${first} AND ${last} ORDER BY block, item LIMIT ${max}`
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
    opened: row.opened,
    arrivedAt: row.arrived_at,
  }))
}
