import type { ConsumerGroup } from '../bus/bus.ts'
import { TRANSACTIONS } from '../bus/events.ts'
import type { Sql } from '../postgres/connect.ts'
import { activityOf, completedBy } from './activity.ts'
import { addActivity } from './sql/addActivity.ts'
import { addTotals } from './sql/addTotals.ts'
import { shareProjections } from './sql/lock.ts'
import { totalsOf } from './totals.ts'

/** The name of the group. */
export const PROJECTIONS = 'projections'

/**
 * Makes the activity feeds of wallets and the daily totals of tenants (migrations/0009_projections.sql). Both are made of the events that
 * say `completed` and of nothing else, so neither depends on the order in which shards are read: the same ledger, the same rows. Rows and
 * marks are one transaction, so what comes twice counts once.
 * @param sql a pool on the first shard's database
 */
export function projectionsGroup(sql: Sql): ConsumerGroup {
  return {
    name: PROJECTIONS,
    topics: [TRANSACTIONS],
    handle: async (_, marks) => {
      await sql.begin(async (sql) => {
        await shareProjections(sql)
        const completed = (await marks.fresh(sql)).flatMap((event) => completedBy(event) ?? [])
        await addActivity(sql, completed.flatMap(activityOf))
        await addTotals(sql, totalsOf(completed))
      })
    },
  }
}
