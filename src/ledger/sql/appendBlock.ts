import type { Account } from '../../core/account.ts'
import type { Block } from '../../core/block.ts'
import type { Hold } from '../../core/hold.ts'
import type { Posting } from '../../core/post.ts'
import { targetOf } from '../../core/request.ts'
import { arrayLiteral, type Sql, type Tx } from '../../postgres/connect.ts'

/**
 * Appends a block: header, requests, entries and what they change, in one statement, which is a transaction of its own
 * when `sql` is in none. One message there, one back. The trace contexts of requests that are traced go with it.
 * @throws ZS001 if the block does not follow the head of the chain; ZS002 if the database finds it wrong
 */
export async function appendBlock(sql: Sql | Tx, block: Block, changes: Posting['changes']): Promise<void> {
  const { decisions } = block
  const lines = decisions.flatMap(({ entries }, item) => entries.map((entry, line) => ({ ...entry, item, line })))
  const column = <T>(rows: readonly T[], value: (row: T) => string | number | null) => arrayLiteral(rows.map(value))
  await sql`${traceRows(sql, block)}SELECT append_block(
    ${block.number}::int8, ${block.previousHash}::bytea, ${block.root}::bytea, ${block.hash}::bytea,
    ${block.timeUs}::int8, ${block.writer}::text,
    ${column(decisions, ({ request }) => request.id)}::uuid[],
    ${column(decisions, ({ request }) => request.tenantId)}::uuid[],
    ${column(decisions, ({ request }) => request.scope)}::uuid[],
    ${column(decisions, ({ request }) => request.key)}::text[],
    ${column(decisions, ({ record }) => record.kind)}::text[],
    ${column(decisions, ({ request }) => targetOf(request.operation))}::uuid[],
    ${column(decisions, ({ record }) => record.payload)}::text[],
    ${column(decisions, ({ record }) => record.refusal)}::text[],
    ${column(decisions, ({ record }) => record.result)}::text[],
    ${Buffer.concat(block.leaves)}::bytea,
    ${column(lines, (line) => line.item)}::int[],
    ${column(lines, (line) => line.line)}::int[],
    ${column(lines, (line) => line.accountId)}::uuid[],
    ${column(lines, (line) => line.sequence)}::int8[],
    ${column(lines, (line) => line.currency)}::text[],
    ${column(lines, (line) => line.layer)}::layer[],
    ${column(lines, (line) => `${line.amount}`)}::int8[],
    ${column(lines, (line) => `${line.posted}`)}::int8[],
    ${column(lines, (line) => `${line.pendingOut}`)}::int8[],
    ${column(lines, (line) => `${line.pendingIn}`)}::int8[],
    ${arrayLiteral(changes.sagasBegun)}::uuid[], ${arrayLiteral(changes.sagasEnded)}::uuid[],
    ${changesJson(block, changes)}::text::json)`
}

/** For readers of the block; without traced requests, as when tracing is off, the statement has no such part. */
function traceRows(sql: Sql | Tx, { number, decisions }: Block) {
  const traced = decisions.flatMap(({ request: { traceparent } }, item) => (traceparent ? [{ item, traceparent }] : []))
  if (traced.length === 0) return sql``
  const items = arrayLiteral(traced.map(({ item }) => item))
  return sql`WITH traces AS (
    INSERT INTO request_traces (block, item, traceparent)
    SELECT ${number}::int8, * FROM unnest(${items}::int[], ${arrayLiteral(traced.map(({ traceparent }) => traceparent))}::text[])
    ON CONFLICT DO NOTHING) `
}

/** What a block changes beside balances, as `append_block` reads it; `null` when there is nothing, as in most blocks. */
function changesJson(block: Block, { accounts, opened, settingsChanged, holds }: Posting['changes']): string | null {
  const accepted = block.decisions.filter(({ record }) => record.refusal === null).map(({ request }) => request)
  const walletsOpened = accepted.flatMap(({ id, tenantId, operation }) => {
    if (operation.kind !== 'wallet-open') return []
    const { holderId, name, metadata } = operation
    return [{ id, tenant_id: tenantId, holder_id: holderId, name, metadata }]
  })
  // The last word on each wallet: one UPDATE sees a row once.
  const walletsChanged = new Map<string, { id: string; name: string | undefined; metadata: unknown }>()
  for (const { operation } of accepted) {
    if (operation.kind !== 'wallet-update') continue
    const { walletId: id, name, metadata } = operation
    const before = walletsChanged.get(id)
    walletsChanged.set(id, { id, name: name ?? before?.name, metadata: metadata ?? before?.metadata })
  }
  if (opened.length + settingsChanged.size + holds.size + walletsOpened.length + walletsChanged.size === 0) return null
  return JSON.stringify({
    accountsOpened: opened.map(openedRow),
    accountsChanged: [...settingsChanged].flatMap((id) => {
      const account = accounts.get(id)
      return account ? [{ id, status: account.status, ...limitColumns(account) }] : []
    }),
    walletsOpened,
    walletsChanged: [...walletsChanged.values()],
    holds: [...holds.values()].map(holdRow),
  })
}

function openedRow(account: Account): object {
  const { id, tenantId, kind, currency, peer, overdraftLimit } = account
  const overdraft_limit = overdraftLimit === null ? null : `${overdraftLimit}`
  return { id, tenant_id: tenantId, kind, currency, peer, overdraft_limit, ...limitColumns(account) }
}

function limitColumns({ limits }: Account): object {
  return { transfer_max: limits.transferMax?.toString(), balance_max: limits.balanceMax?.toString() }
}

function holdRow(hold: Hold): object {
  return {
    id: hold.id,
    tenant_id: hold.tenantId,
    from_account: hold.from,
    to_account: hold.to,
    amount: `${hold.amount}`,
    currency: hold.currency,
    expires_at_us: hold.expiresAtUs,
    status: hold.status,
    captured: `${hold.captured}`,
  }
}
