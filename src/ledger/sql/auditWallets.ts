import type { AccountStatus } from '../../core/account.ts'
import { type Columns, type Finding, payloadOf } from '../../core/audit.ts'
import type { Payload } from '../../core/request.ts'
import type { Tx } from '../../postgres/connect.ts'
import { Due, earliestFinding, type History, NOWHERE, type Place } from './auditHistory.ts'

type Row = {
  subject: string
  request: string | null
  kind: 'wallet-open' | 'wallet-update' | 'wallet-arrive' | null
  tenant_id: string
  payload: string
  block: bigint
  item: number
  time_us: bigint
  status: AccountStatus | null
  transfer_max: bigint | null
  balance_max: bigint | null
  wallet_tenant: string | null
  holder_id: string
  name: string | null
  metadata: unknown
  opened_us: bigint
}

const PAGE_ROWS = 1_000

/**
 * Finds the first wallet whose status, limits, holder, name or metadata are not what the accepted requests about it made
 * of them, the last word counting. Of a chain that was walked already; the place is that of the request with that word.
 */
export async function findWrongWallet(sql: Tx): Promise<Finding | undefined> {
  const pages = sql<Row[]>`
    SELECT coalesce(r.subject, a.id, w.id) AS subject, r.id AS request, r.kind, r.tenant_id, r.payload, r.block, r.item,
           b.time_us, a.status, a.transfer_max, a.balance_max,
           w.tenant_id AS wallet_tenant, w.holder_id, w.name, w.metadata, w.opened_us
    FROM (SELECT CASE kind WHEN 'wallet-open' THEN id ELSE scope END AS subject,
                 id, kind, tenant_id, payload::text, block, item
          FROM requests WHERE refusal IS NULL AND kind IN ('wallet-open', 'wallet-update', 'wallet-arrive')) AS r
    FULL JOIN (SELECT id, status, transfer_max, balance_max FROM accounts WHERE kind = 'wallet') AS a ON a.id = r.subject
    FULL JOIN wallets w ON w.id = coalesce(r.subject, a.id)
    LEFT JOIN blocks b ON b.number = r.block
    ORDER BY 1, r.block, r.item`.cursor(PAGE_ROWS)
  return await earliestFinding(pages, walletHistory)
}

function walletHistory(first: Row): History<Row> {
  const account = first.subject
  const due = new Due()
  return {
    add({ request, kind, tenant_id, payload, block, item, time_us }) {
      if (request === null) return { ...NOWHERE, account, problem: 'there is a wallet that no accepted request opened' }
      const place: Place = { block: Number(block), item, transaction: request }
      const asked = payloadOf(payload)
      if (kind === 'wallet-open') {
        const { holderId = null, name = null, metadata = null } = asked
        due.set(place, { tenant_id, holder_id: holderId, opened_us: time_us, status: 'active' })
        due.set(place, { ...limitColumns(asked), name, metadata: canonical(metadata) })
        return undefined
      }
      if (kind === 'wallet-arrive') {
        const { wallet } = asked
        const {
          holderId: holder_id = null,
          openedUs: opened_us = null,
          status = null,
          name = null,
          metadata = null,
        } = wallet ?? {}
        due.set(place, { tenant_id, holder_id, opened_us, status })
        due.set(place, { ...limitColumns(wallet ?? {}), name, metadata: canonical(metadata) })
        return undefined
      }
      if (asked.status !== undefined) due.set(place, { status: asked.status })
      if (asked.limits !== undefined) due.set(place, limitColumns(asked))
      if (asked.name !== undefined) due.set(place, { name: asked.name })
      if (asked.metadata !== undefined) due.set(place, { metadata: canonical(asked.metadata) })
      return undefined
    },
    end() {
      const { status, transfer_max, balance_max, holder_id, name, opened_us } = first
      if (first.request === null) return undefined
      const place: Place = { block: Number(first.block), item: first.item, transaction: first.request }
      const wrongly = (problem: string): Finding => ({ ...place, account, problem })
      if (first.kind === 'wallet-update') return wrongly('the wallet was updated, but not opened before')
      if (first.wallet_tenant === null) return wrongly('the wallet was opened, but has no row')
      const wrong = due.compare({
        ...{ tenant_id: first.wallet_tenant, holder_id, opened_us, status, transfer_max, balance_max },
        ...{ name, metadata: canonical(first.metadata) },
      })
      return wrong && { ...wrong.place, account, problem: `in the row of the wallet, ${wrong.problem}` }
    },
  }
}

function limitColumns({ limits }: Pick<Payload, 'limits'>): Columns {
  return { transfer_max: limits?.transferMax ?? null, balance_max: limits?.balanceMax ?? null }
}

/** Metadata as text that doesn't depend on the order of its keys. */
function canonical(metadata: unknown): string | null {
  if (typeof metadata !== 'object' || metadata === null) return metadata === null ? null : JSON.stringify(metadata)
  return JSON.stringify(Object.entries(metadata).sort(([a], [b]) => (a < b ? -1 : 1)))
}
