import type { AccountStatus, Limits } from '../../core/account.ts'
import type { Sql } from '../../postgres/connect.ts'

/** A wallet as its holder knows it. */
export type Wallet = {
  readonly id: string
  readonly holderId: string
  readonly currency: string
  readonly status: AccountStatus
  readonly overdraftLimit: bigint
  readonly limits: Limits
  readonly name: string | null
  readonly metadata: Record<string, string> | null
  readonly openedUs: number
}

type Row = {
  id: string
  holder_id: string
  currency: string
  status: AccountStatus
  overdraft_limit: bigint
  transfer_max: bigint | null
  balance_max: bigint | null
  name: string | null
  metadata: Record<string, string> | null
  opened_us: bigint
}

function columns(sql: Sql) {
  return sql`w.id, w.holder_id, a.currency, a.status, a.overdraft_limit, a.transfer_max, a.balance_max, w.name,
             w.metadata, w.opened_us`
}

/** A tenant's wallet; `undefined` if it has none with this id. */
export async function findWallet(sql: Sql, tenantId: string, id: string): Promise<Wallet | undefined> {
  const [row] = await sql<Row[]>`
    SELECT ${columns(sql)} FROM wallets w JOIN accounts a USING (id) WHERE w.id = ${id} AND w.tenant_id = ${tenantId}`
  return row && walletOf(row)
}

/** A holder's wallets, newest first, after the one with id `before`. */
export async function listWallets(
  sql: Sql,
  query: { tenantId: string; holderId: string; limit: number; before: string | null },
): Promise<Wallet[]> {
  const rows = await sql<Row[]>`
    SELECT ${columns(sql)} FROM wallets w JOIN accounts a USING (id)
    WHERE w.tenant_id = ${query.tenantId} AND w.holder_id = ${query.holderId}
      AND (${query.before}::uuid IS NULL OR w.id < ${query.before}::uuid)
    ORDER BY w.id DESC LIMIT ${query.limit}`
  return rows.map(walletOf)
}

function walletOf(row: Row): Wallet {
  return {
    id: row.id,
    holderId: row.holder_id,
    currency: row.currency,
    status: row.status,
    overdraftLimit: row.overdraft_limit,
    limits: {
      ...(row.transfer_max === null ? {} : { transferMax: row.transfer_max }),
      ...(row.balance_max === null ? {} : { balanceMax: row.balance_max }),
    },
    name: row.name,
    metadata: row.metadata,
    openedUs: Number(row.opened_us),
  }
}
