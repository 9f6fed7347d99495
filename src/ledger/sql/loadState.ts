import type { Account, AccountStatus } from '../../core/account.ts'
import type { Hold } from '../../core/hold.ts'
import type { Refusal } from '../../core/refusal.ts'
import type { Kind, Payload, Request, RequestRecord } from '../../core/request.ts'
import { END_KEY } from '../../core/saga.ts'
import { recordedMovements, type Transfer } from '../../core/transfer.ts'
import { recordName } from '../../core/workspace.ts'
import { arrayLiteral, type Sql, type Tx } from '../../postgres/connect.ts'

/** What a batch names, as far as it must be read from the database. */
export type Wanted = {
  readonly accounts: readonly string[]
  readonly holds: readonly string[]
  readonly transfers: readonly string[]
  readonly records: readonly Pick<Request, 'tenantId' | 'scope' | 'key'>[]
}

/** What was found of it; the accounts of wanted holds and transfers included. */
export type Loaded = {
  readonly accounts: readonly Account[]
  readonly holds: readonly Hold[]
  readonly transfers: readonly Transfer[]
  /** By their `recordName`. */
  readonly records: ReadonlyMap<string, RequestRecord>
}

/** Loads all that a batch needs in one round trip. @param hasCopies whether there are records here that came from other shards */
export async function loadState(sql: Sql | Tx, wanted: Wanted, hasCopies: boolean): Promise<Loaded> {
  const [accounts, holds, transfers, records] = await Promise.all([
    loadAccounts(sql, wanted),
    wanted.holds.length === 0 ? [] : loadHolds(sql, wanted.holds),
    wanted.transfers.length === 0 ? [] : loadTransfers(sql, wanted.transfers),
    wanted.records.length === 0 ? new Map() : loadRecords(sql, wanted.records, hasCopies),
  ])
  return { accounts, holds, transfers, records }
}

type AccountRow = {
  id: string
  tenant_id: string
  kind: Account['kind']
  currency: string
  status: AccountStatus
  overdraft_limit: bigint | null
  transfer_max: bigint | null
  balance_max: bigint | null
  sequence: bigint
  debits_posted: bigint
  credits_posted: bigint
  debits_pending: bigint
  credits_pending: bigint
}

async function loadAccounts(sql: Sql | Tx, { accounts, holds, transfers }: Wanted): Promise<Account[]> {
  const columns = sql`
    id, tenant_id, kind, currency, status, overdraft_limit, transfer_max, balance_max,
    sequence, debits_posted, credits_posted, debits_pending, credits_pending`
  const isIndirect = holds.length + transfers.length > 0
  if (accounts.length === 0 && !isIndirect) return []
  const rows = isIndirect
    ? await sql<AccountRow[]>`
        SELECT ${columns} FROM accounts WHERE id IN (
          SELECT unnest(${arrayLiteral(accounts)}::uuid[])
          UNION SELECT unnest(ARRAY[from_account, to_account]) FROM holds WHERE id = ANY (${arrayLiteral(holds)}::uuid[])
          UNION SELECT a.id FROM holds h JOIN accounts a USING (tenant_id, currency)
                WHERE h.id = ANY (${arrayLiteral(holds)}::uuid[]) AND a.kind <> 'wallet'
          UNION SELECT unnest(ARRAY[(leg->>'from')::uuid, (leg->>'to')::uuid])
                FROM known_requests r, json_array_elements(r.payload->'legs') AS leg WHERE r.id = ANY (${arrayLiteral(transfers)}::uuid[])
          UNION SELECT (payload->>'walletId')::uuid FROM known_requests WHERE id = ANY (${arrayLiteral(transfers)}::uuid[])
          UNION SELECT a.id FROM known_requests r JOIN accounts a USING (tenant_id)
                WHERE r.id = ANY (${arrayLiteral(transfers)}::uuid[]) AND a.kind <> 'wallet')`
    : await sql<AccountRow[]>`SELECT ${columns} FROM accounts WHERE id = ANY (${arrayLiteral(accounts)}::uuid[])`
  return rows.map((row) => ({
    id: row.id,
    tenantId: row.tenant_id,
    kind: row.kind,
    currency: row.currency,
    status: row.status,
    overdraftLimit: row.overdraft_limit,
    limits: {
      ...(row.transfer_max === null ? {} : { transferMax: row.transfer_max }),
      ...(row.balance_max === null ? {} : { balanceMax: row.balance_max }),
    },
    sequence: Number(row.sequence),
    debitsPosted: row.debits_posted,
    creditsPosted: row.credits_posted,
    debitsPending: row.debits_pending,
    creditsPending: row.credits_pending,
  }))
}

type HoldRow = {
  id: string
  tenant_id: string
  from_account: string
  to_account: string
  amount: bigint
  currency: string
  expires_at_us: bigint
  status: Hold['status']
  captured: bigint
}

async function loadHolds(sql: Sql | Tx, ids: readonly string[]): Promise<Hold[]> {
  const rows = await sql<HoldRow[]>`
    SELECT id, tenant_id, from_account, to_account, amount, currency, expires_at_us, status, captured
    FROM holds WHERE id = ANY (${arrayLiteral(ids)}::uuid[])`
  return rows.map((row) => ({
    id: row.id,
    tenantId: row.tenant_id,
    from: row.from_account,
    to: row.to_account,
    amount: row.amount,
    currency: row.currency,
    expiresAtUs: Number(row.expires_at_us),
    status: row.status,
    captured: row.captured,
  }))
}

/**
 * Accepted transfers, top-ups and withdrawals, with what was reversed of each: the sum of their reversals' movements, but of those
 * that came to nothing.
 */
async function loadTransfers(sql: Sql | Tx, ids: readonly string[]): Promise<Transfer[]> {
  const rows = await sql<TransferRow[]>`
    SELECT t.id, t.tenant_id, t.kind, t.payload, t.result->'saga' IS NOT NULL AS is_saga, e.kind AS ended_by, (
      SELECT coalesce(sum((m->>'amount')::numeric), 0)::text
      FROM known_requests r, json_array_elements(r.result->'movements') AS m
      WHERE r.target = t.id AND r.kind = 'reversal' AND r.refusal IS NULL AND NOT EXISTS (
        SELECT FROM known_requests c
        WHERE (c.tenant_id, c.scope, c.key) = (r.tenant_id, r.id, ${END_KEY}) AND c.shard = r.shard
          AND c.kind = 'saga-release' OFFSET 0)) AS reversed
    FROM known_requests t
    LEFT JOIN LATERAL (
      SELECT * FROM known_requests e
      WHERE (e.tenant_id, e.scope, e.key) = (t.tenant_id, t.id, ${END_KEY}) AND e.shard = t.shard OFFSET 0) AS e ON true
    WHERE t.id = ANY (${arrayLiteral(ids)}::uuid[])
      AND t.refusal IS NULL AND t.kind IN ('transfer', 'top-up', 'withdrawal')`
  return rows.map(({ id, tenant_id, kind, payload, is_saga, ended_by, reversed }) => ({
    id,
    tenantId: tenant_id,
    movements: recordedMovements(kind, payload, null) ?? [],
    status: !is_saga || ended_by === 'saga-finalize' ? 'completed' : ended_by === null ? 'pending' : 'compensated',
    reversed: BigInt(reversed),
  }))
}

type TransferRow = {
  id: string
  tenant_id: string
  kind: Kind
  payload: Payload
  is_saga: boolean
  ended_by: Kind | null
  reversed: string
}

type RecordRow = {
  id: string
  tenant_id: string
  scope: string
  key: string
  kind: Kind
  payload: string
  refusal: Refusal | null
  result: string | null
  time_us: bigint
}

async function loadRecords(sql: Sql | Tx, requests: Wanted['records'], hasCopies: boolean): Promise<Loaded['records']> {
  const column = (value: (request: Wanted['records'][number]) => string) => arrayLiteral(requests.map(value))
  const wanted = sql`unnest(${column((r) => r.tenantId)}::uuid[], ${column((r) => r.scope)}::uuid[],
                            ${column((r) => r.key)}::text[]) AS w (tenant_id, scope, key)`
  // Steps of sagas are a shard's own: those of another shard say nothing about this one's.
  const copies = hasCopies
    ? sql`UNION ALL
          SELECT r.id, r.tenant_id, r.scope, r.key, r.kind, r.payload::text, r.refusal, r.result::text, r.time_us
          FROM ${wanted} JOIN moved_requests r USING (tenant_id, scope, key) WHERE left(r.key, 1) <> '§'`
    : sql``
  const rows = await sql<RecordRow[]>`
    SELECT r.id, r.tenant_id, r.scope, r.key, r.kind, r.payload::text, r.refusal, r.result::text, b.time_us
    FROM ${wanted} JOIN requests r USING (tenant_id, scope, key) JOIN blocks b ON b.number = r.block ${copies}`
  // What this shard has recorded itself comes first, and counts.
  const records = new Map<string, RequestRecord>()
  for (const { tenant_id, scope, key, time_us, ...row } of rows) {
    const name = recordName(tenant_id, scope, key)
    if (!records.has(name)) records.set(name, { ...row, tenantId: tenant_id, timeUs: Number(time_us) })
  }
  return records
}
