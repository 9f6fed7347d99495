import type { RequestRecord } from '../../core/request.ts'
import { begunSaga, END_KEY, type Saga } from '../../core/saga.ts'
import { arrayLiteral, type Sql } from '../../postgres/connect.ts'
import { type RecordRow, recordOf } from './records.ts'

const FIRST_ID = '00000000-0000-0000-0000-000000000000'

/** The record of the last step of a saga, by the shard that it began on; `undefined` while it is not over. */
export async function findSagaEnd(sql: Sql, tenantId: string, id: string): Promise<RequestRecord | undefined> {
  const [row] = await sql<RecordRow[]>`
    SELECT e.id, e.tenant_id, e.kind, e.payload::text, e.refusal, e.result::text, e.time_us
    FROM known_requests r JOIN known_requests e ON e.shard = r.shard
    WHERE r.id = ${id} AND e.tenant_id = ${tenantId} AND e.scope = ${id} AND e.key = ${END_KEY}`
  return row && recordOf(row)
}

/** A saga's place among those in flight: when it began, microseconds since 1970. */
export type SagaPlace = { readonly id: string; readonly begunUs: number }

/** The sagas that began on this shard before a time and are not over, the oldest first, after a place. */
export async function listSagasInFlight(
  sql: Sql,
  { beforeUs, after, limit }: { beforeUs: number; after: SagaPlace | undefined; limit: number },
): Promise<SagaPlace[]> {
  const rows = await sql<{ id: string; time_us: bigint }[]>`
    SELECT s.id, b.time_us FROM sagas_in_flight s JOIN requests r USING (id) JOIN blocks b ON b.number = r.block
    WHERE b.time_us < ${beforeUs} AND (b.time_us, s.id) > (${after?.begunUs ?? 0}::int8, ${after?.id ?? FIRST_ID}::uuid)
    ORDER BY b.time_us, s.id LIMIT ${limit}`
  return rows.map(({ id, time_us }) => ({ id, begunUs: Number(time_us) }))
}

/** A saga that began on a shard. */
export type BegunSaga = {
  readonly saga: Saga
  /** Microseconds since 1970. */
  readonly begunUs: number
  /** W3C trace context of the request that began it, if that is traced. */
  readonly traceparent?: string
}

/** Sagas by id, as their beginnings recorded them. */
export async function findBegunSagas(sql: Sql, ids: readonly string[]): Promise<BegunSaga[]> {
  const rows = await sql<{ tenant_id: string; result: string | null; time_us: bigint; traceparent: string | null }[]>`
    SELECT r.tenant_id, r.result::text, b.time_us, t.traceparent
    FROM requests r JOIN blocks b ON b.number = r.block LEFT JOIN request_traces t USING (block, item)
    WHERE r.id = ANY (${arrayLiteral(ids)}::uuid[])`
  return rows.flatMap(({ tenant_id, result, time_us, traceparent }) => {
    const saga = begunSaga(tenant_id, result)
    return saga ? [{ saga, begunUs: Number(time_us), ...(traceparent === null ? {} : { traceparent }) }] : []
  })
}
