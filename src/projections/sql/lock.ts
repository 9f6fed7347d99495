import type { Tx } from '../../postgres/connect.ts'

/** Of the advisory locks of a database, the one that keeps a replay and the group apart: "proj". */
const LOCK = 0x70726f6a

/** Until the end of the transaction there is no replay; the group's consumers hold this together. */
export async function shareProjections(sql: Tx): Promise<void> {
  await sql`SELECT pg_advisory_xact_lock_shared(${LOCK})`
}

/** Until the end of the transaction no consumer of the group writes. */
export async function ownProjections(sql: Tx): Promise<void> {
  await sql`SELECT pg_advisory_xact_lock(${LOCK})`
}
