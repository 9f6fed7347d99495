import { type Finding, payloadOf } from '../../core/audit.ts'
import { endedHoldOf } from '../../core/dueLines.ts'
import type { Hold } from '../../core/hold.ts'
import { begunSaga } from '../../core/saga.ts'
import type { Tx } from '../../postgres/connect.ts'
import { Due, earliestFinding, type History, NOWHERE, type Place } from './auditHistory.ts'

const STATUS_AFTER = { capture: 'captured', release: 'released', expiry: 'expired' } as const

/** What the end of a saga makes of a hold between shards, by the status before. */
const STATUS_AFTER_SAGA: Readonly<Record<SagaEnd, Partial<Record<Hold['status'], Hold['status']>>>> = {
  'saga-finalize': { pending: 'held', capturing: 'captured' },
  'saga-release': { pending: 'refused', capturing: 'held' },
}

type SagaEnd = 'saga-finalize' | 'saga-release'

type Row = {
  subject: string
  request: string | null
  kind: 'hold' | 'hold-move' | keyof typeof STATUS_AFTER | SagaEnd | null
  /** A copy of what ended it on another shard. */
  is_copy: boolean
  tenant_id: string
  payload: string
  result: string | null
  block: bigint
  item: number
  hold_tenant: string | null
  from_account: string
  to_account: string
  amount: bigint
  currency: string
  expires_at_us: bigint
  status: Hold['status']
  captured: bigint
}

const PAGE_ROWS = 1_000

/**
 * Finds the first hold that is not what the accepted requests about it made of it, or that was ended twice, or by a request
 * that recorded another hold than there was. Of a chain that was walked already; the account is the payer's.
 */
export async function findWrongHold(sql: Tx, shard: number): Promise<Finding | undefined> {
  const pages = sql<Row[]>`
    SELECT coalesce(r.subject, h.id) AS subject, r.id AS request, r.kind, r.tenant_id, r.payload, r.result, r.block, r.item,
           h.tenant_id AS hold_tenant, h.from_account, h.to_account, h.amount, h.currency, h.expires_at_us, h.status,
           h.captured, coalesce(r.is_copy, false) AS is_copy
    FROM (SELECT CASE kind WHEN 'hold' THEN id ELSE target END AS subject,
                 id, kind, tenant_id, payload::text, result::text, block, item, false AS is_copy
          FROM requests WHERE refusal IS NULL AND kind IN ('hold', 'capture', 'release', 'expiry')
          UNION ALL
          SELECT (result->'hold'->>'id')::uuid, id, kind, tenant_id, payload::text, result::text, block, item, false
          FROM requests WHERE kind IN ('saga-finalize', 'saga-release') AND result->'hold' IS NOT NULL
          UNION ALL
          SELECT scope, id, kind, tenant_id, payload::text, result::text, block, item, false FROM requests
          WHERE kind = 'hold-move' AND refusal IS NULL AND ${shard}::int = ANY (ARRAY[(payload->'before'->>'from')::int, (payload->'after'->>'from')::int])
            AND payload->'before'->>'from' <> payload->'after'->>'from'
          UNION ALL
          SELECT h.id, m.id, m.kind, m.tenant_id, m.payload::text, m.result::text, NULL, NULL, true
          FROM moved_requests m JOIN holds h ON h.id = (m.result->'hold'->>'id')::uuid
          WHERE m.refusal IS NULL AND m.result->'hold'->>'status' <> 'held') AS r
    FULL JOIN holds h ON h.id = r.subject
    ORDER BY 1, is_copy, r.block, r.item`.cursor(PAGE_ROWS)
  return await earliestFinding(pages, (row) => holdHistory(row, shard))
}

function holdHistory(first: Row, shard: number): History<Row> {
  const due = new Due()
  let status: Hold['status'] | undefined
  let payer: string | null = first.from_account
  let whole: string | undefined

  function placed(row: Row, place: Place): Finding | undefined {
    const [leg] = payloadOf(row.payload).legs ?? []
    payer = leg?.from ?? null
    whole = leg?.amount
    status = begunSaga(row.tenant_id, row.result) ? 'pending' : 'held'
    due.set(place, { tenant: row.tenant_id, from: payer, to: leg?.to ?? null, currency: leg?.currency ?? null })
    due.set(place, { amount: whole ?? null, expires: expiryOf(row.result), status, captured: 0 })
    return undefined
  }

  function ended(row: Row, kind: keyof typeof STATUS_AFTER, place: Place): Finding | undefined {
    if (status === 'held' && kind === 'capture' && begunSaga(row.tenant_id, row.result)) {
      status = 'capturing'
      due.set(place, { status })
      return undefined
    }
    const recorded = endedHoldOf(row.result)
    if (status !== 'held') {
      const before = status === undefined ? 'no accepted request placed it' : `it was ${status} before`
      return { ...place, account: recorded.from, problem: `the ${kind} ends a hold, but ${before}` }
    }
    status = STATUS_AFTER[kind]
    const captured = kind === 'capture' ? (payloadOf(row.payload).amount ?? whole ?? null) : 0
    due.set(place, { status, captured })
    return compare(row, kind, place)
  }

  function endedBySaga(row: Row, kind: SagaEnd, place: Place): Finding | undefined {
    const after = status && STATUS_AFTER_SAGA[kind][status]
    if (!after) {
      return {
        ...place,
        account: payer,
        problem: `the ${kind} is of a hold that was ${status ?? 'never placed'} before`,
      }
    }
    if (after === 'captured') due.set(place, { captured: payloadOf(row.payload).saga?.captured ?? null })
    status = after
    due.set(place, { status })
    return compare(row, kind, place)
  }

  /** It left for another shard, or came from one; copies say how it ended there. */
  function movedOrCopied(row: Row, place: Place): Finding | undefined {
    const { hold, after } = payloadOf(row.payload)
    const isLeaving = row.kind === 'hold-move' && after?.from !== shard
    if (isLeaving ? status !== 'held' : status !== undefined && status !== 'moved') {
      return {
        ...place,
        account: payer,
        problem: `the ${row.kind} is of a hold that was ${status ?? 'never placed'} before`,
      }
    }
    if (isLeaving) {
      status = 'moved'
      due.set(place, { status })
      return undefined
    }
    const { status: said, ...rest } = row.is_copy ? endedHoldOf(row.result) : (hold ?? endedHoldOf(row.result))
    status = said as Hold['status']
    payer = rest.from
    whole = rest.amount
    due.set(place, { tenant: row.tenant_id, from: rest.from, to: rest.to, currency: rest.currency })
    due.set(place, { amount: rest.amount, expires: rest.expiresAtUs, status, captured: rest.captured })
    return undefined
  }

  function compare(row: Row, kind: string, place: Place): Finding | undefined {
    const { expiresAtUs: expires, ...said } = endedHoldOf(row.result)
    const wrong = due.compare({ ...said, tenant: row.tenant_id, expires })
    return wrong && { ...place, account: payer, problem: `in what the ${kind} recorded of the hold, ${wrong.problem}` }
  }

  return {
    add(row) {
      if (row.request === null) {
        return { ...NOWHERE, account: payer, problem: 'there is a hold that no accepted request placed' }
      }
      const place: Place = {
        ...{ block: row.block === null ? null : Number(row.block), item: row.item, transaction: row.request },
      }
      if (row.kind === 'hold-move' || row.is_copy) return movedOrCopied(row, place)
      if (row.kind === 'hold' || row.kind === null) return placed(row, place)
      const isSaga = row.kind === 'saga-finalize' || row.kind === 'saga-release'
      return isSaga
        ? endedBySaga(row, row.kind as SagaEnd, place)
        : ended(row, row.kind as keyof typeof STATUS_AFTER, place)
    },
    end() {
      if (first.request === null || status === undefined) return undefined
      const place: Place = { block: Number(first.block), item: first.item, transaction: first.request }
      const { hold_tenant: tenant } = first
      if (tenant === null) return { ...place, account: payer, problem: 'the hold was placed, but has no row' }
      const { from_account: from, to_account: to, amount, currency, expires_at_us: expires, captured } = first
      const stored = { tenant, from, to, amount, currency, expires, status: first.status, captured }
      const wrong = due.compare(stored)
      return wrong && { ...wrong.place, account: payer, problem: `in the row of the hold, ${wrong.problem}` }
    },
  }
}

function expiryOf(result: string | null): number | null {
  const { expiresAtUs } = (JSON.parse(result ?? 'null') ?? {}) as { expiresAtUs?: number }
  return expiresAtUs ?? null
}
