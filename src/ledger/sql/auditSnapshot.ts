import type { Tx } from '../../postgres/connect.ts'

/**
 * Settings for walking the chain, until the transaction ends: what belongs to a range of blocks is found by index. The
 * planner would read whole tables for each range, because it does not know that there are as many ranges as that.
 */
export async function walkByIndex(sql: Tx): Promise<void> {
  await sql`
    SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
           set_config('jit', 'off', true),
           -- A snapshot keeps nobody waiting, so it may pause for longer than a writer may.
           set_config('idle_in_transaction_session_timeout', '60s', true)`
}

/** Settings for going over whole tables once, until the transaction ends. */
export async function scanWhole(sql: Tx): Promise<void> {
  await sql`
    SELECT set_config('enable_hashjoin', 'on', true), set_config('enable_mergejoin', 'on', true),
           set_config('work_mem', '64MB', true)`
}
