import { type Finding, payloadOf } from '../../core/audit.ts'
import { parseAmount } from '../../core/money.ts'
import type { Kind } from '../../core/request.ts'
import { END_KEY } from '../../core/saga.ts'
import { type Movement, recordedMovements, reversalMovements, type Transfer, totalOf } from '../../core/transfer.ts'
import type { Tx } from '../../postgres/connect.ts'
import { earliestFinding, type History } from './auditHistory.ts'

type Row = {
  subject: string
  request: string
  tenant_id: string
  payload: string
  result: string | null
  block: bigint
  item: number
  transfer_kind: Kind | null
  transfer_tenant: string
  transfer_payload: string
  is_later: boolean | null
  is_own: boolean
  is_undone: boolean
}

const PAGE_ROWS = 1_000

/**
 * Finds the first reversal that moved something else than the transfer it reverses, turned round, or more than was left of
 * it. Of a chain that was walked already; the account is the one that the money was taken back from. Reversals that were copied here count, but
 * are not judged: a wallet takes along what moved it, and not what its payer's slot has, the transfer itself, say. They are judged on the shard
 * that recorded them, which knows all of the transfer.
 */
export async function findWrongReversal(sql: Tx): Promise<Finding | undefined> {
  const pages = sql<Row[]>`
    SELECT * FROM (
    SELECT r.target AS subject, r.id AS request, r.tenant_id, r.payload::text, r.result::text, r.time_us, r.block, r.item,
           t.kind AS transfer_kind, t.tenant_id AS transfer_tenant, t.payload::text AS transfer_payload,
           CASE WHEN t.result->'saga' IS NULL THEN (t.time_us, t.block, t.item)
                ELSE (SELECT (e.time_us, e.block, e.item) FROM known_requests e
                      WHERE (e.tenant_id, e.scope, e.key) = (t.tenant_id, t.id, ${END_KEY}) AND e.shard = t.shard AND e.kind = 'saga-finalize')
           END < (r.time_us, r.block, r.item) AS is_later,
           r.shard = (SELECT coalesce(shard, 0) FROM chain_head) AS is_own, false AS is_undone
    FROM known_requests r
    LEFT JOIN known_requests t ON t.id = r.target AND t.refusal IS NULL AND t.kind IN ('transfer', 'top-up', 'withdrawal')
    WHERE r.kind = 'reversal' AND r.refusal IS NULL
    UNION ALL
    -- A reversal between shards that came to nothing gives back what it took.
    SELECT r.target, r.id, r.tenant_id, r.payload::text, r.result::text, c.time_us, c.block, c.item, NULL, NULL, NULL, true, true, true
    FROM known_requests r
    JOIN known_requests c ON (c.tenant_id, c.scope, c.key) = (r.tenant_id, r.id, ${END_KEY}) AND c.shard = r.shard
      AND c.kind = 'saga-release'
    WHERE r.kind = 'reversal' AND r.refusal IS NULL) AS r ORDER BY r.subject, r.time_us, r.block, r.item`.cursor(
    PAGE_ROWS,
  )
  return await earliestFinding(pages, reversalHistory)
}

function reversalHistory({ subject, transfer_kind, transfer_tenant, transfer_payload }: Row): History<Row> {
  const movements = transfer_kind && recordedMovements(transfer_kind, payloadOf(transfer_payload), null)
  let transfer: Transfer | null = movements && {
    ...{ id: subject, tenantId: transfer_tenant, movements, status: 'completed', reversed: 0n },
  }
  return {
    add(row) {
      const { block, item, request: transaction } = row
      const moved = recordedMovements('reversal', {}, JSON.parse(row.result ?? 'null')) ?? []
      const wrong = (problem: string): Finding => ({
        ...{ block: Number(block), item, transaction, account: moved[0]?.from ?? null },
        problem: `the reversal of ${subject} ${problem}`,
      })
      // What gave back was judged with what it gave back.
      if (row.is_undone || !row.is_own) {
        const total = row.is_undone ? -totalOf(moved) : totalOf(moved)
        transfer &&= { ...transfer, reversed: transfer.reversed + total }
        return undefined
      }
      if (!transfer || !row.is_later || transfer.tenantId !== row.tenant_id) {
        return wrong('is of no accepted transfer before it')
      }
      const { amount } = payloadOf(row.payload)
      const due = reversalMovements(transfer, amount === undefined ? undefined : (parseAmount(amount) ?? 0n))
      transfer = { ...transfer, reversed: transfer.reversed + totalOf(moved) }
      if (typeof due === 'string') return wrong(`takes back more than was left of it (${due})`)
      if (textOf(moved) !== textOf(due)) return wrong(`moved ${textOf(moved)}, but should have moved ${textOf(due)}`)
      return undefined
    },
    end: () => undefined,
  }
}

function textOf(movements: readonly Movement[]): string {
  const outside = 'the outside'
  return movements
    .map(({ from, to, amount, currency }) => `${amount} ${currency} from ${from ?? outside} to ${to ?? outside}`)
    .join(', ')
}
