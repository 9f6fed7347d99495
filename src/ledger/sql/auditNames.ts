import type { Account } from '../../core/account.ts'
import { formatId } from '../../core/ids.ts'
import type { Tx } from '../../postgres/connect.ts'

/**
 * What people call an account: `wal_…` for a wallet, `cash USD (…)` for a system account. One without a row counts as a
 * wallet, and so does one that a request opened, whatever its row says.
 */
export async function accountName(sql: Tx, id: string): Promise<string> {
  const [system] = await sql<Pick<Account, 'kind' | 'currency'>[]>`
    SELECT kind, currency FROM accounts
    WHERE id = ${id} AND kind <> 'wallet' AND NOT EXISTS (SELECT FROM requests WHERE id = ${id})`
  return system ? `${system.kind} ${system.currency} (${id})` : formatId('wal', id)
}
