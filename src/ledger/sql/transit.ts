import type { Sql, Tx } from '../../postgres/connect.ts'

/** What a saga has moved, for good, between this shard and another one: debits negative. */
export type Transit = {
  readonly saga: string
  readonly tenantId: string
  readonly peer: number
  readonly currency: string
  readonly amount: bigint
  /** A digest of the saga as the steps have recorded it. */
  readonly text: string
}

type Row = { saga: string; tenant_id: string; peer: number; currency: string; amount: string; text: string }

const PAGE_ROWS = 2_000

/**
 * The posted entries of a shard's transit accounts, summed up by saga and the shard at the other end; ordered by saga.
 * @param after only those of later blocks
 */
export async function* readTransit(sql: Tx, after: number): AsyncGenerator<Transit[]> {
  const pages = sql<Row[]>`
    SELECT r.scope AS saga, r.tenant_id, a.peer, a.currency, sum(e.amount)::text AS amount,
           string_agg(DISTINCT md5((r.payload->'saga')::text), ' ') AS text
    FROM accounts a
    JOIN entries e ON e.account_id = a.id AND e.layer = 'posted'
    JOIN requests r ON (r.block, r.item) = (e.block, e.item)
    WHERE a.kind = 'transit' AND e.block > ${after}
    GROUP BY r.scope, r.tenant_id, a.peer, a.currency ORDER BY r.scope`.cursor(PAGE_ROWS)
  for await (const rows of pages) yield rows.map(transitOf)
}

/** The same of one saga, as it is now. */
export async function readSagaTransit(
  sql: Sql,
  { tenantId, saga }: Pick<Transit, 'tenantId' | 'saga'>,
): Promise<Transit[]> {
  const rows = await sql<Row[]>`
    SELECT r.scope AS saga, r.tenant_id, a.peer, a.currency, sum(e.amount)::text AS amount,
           string_agg(DISTINCT md5((r.payload->'saga')::text), ' ') AS text
    FROM requests r
    JOIN entries e ON (e.block, e.item) = (r.block, r.item) AND e.layer = 'posted'
    JOIN accounts a ON a.id = e.account_id AND a.kind = 'transit'
    WHERE r.tenant_id = ${tenantId} AND r.scope = ${saga}
    GROUP BY r.scope, r.tenant_id, a.peer, a.currency`
  return rows.map(transitOf)
}

/** Whether a saga began on this shard and is not over; or, of the id of a wallet, whether that is moving. */
export async function isInFlight(sql: Sql, id: string): Promise<boolean> {
  const rows = await sql`
    SELECT FROM sagas_in_flight WHERE id = ${id}
    UNION ALL
    SELECT FROM map_change, json_array_elements_text(change->'slots') AS slot WHERE slot::int = slot_of(${id}::uuid)`
  return rows.count > 0
}

function transitOf({ tenant_id, amount, ...rest }: Row): Transit {
  return { ...rest, tenantId: tenant_id, amount: BigInt(amount) }
}
