import type { Sql } from '../postgres/connect.ts'

const PREFIX = 'zerosum node of '

/** The name of a connection to shard 0 by which a node says how many shards it knows. */
export function presenceName(shards: number): string {
  return `${PREFIX}${shards}`
}

/** How many nodes run that know fewer shards than there are: what moves to the others is out of their reach. @param sql on shard 0 */
export async function countNodesBehind(sql: Sql, shardCount: number): Promise<number> {
  return (await knownShards(sql)).filter((count) => count < shardCount).length
}

/** How many nodes run. @param sql on shard 0 */
export async function countNodes(sql: Sql): Promise<number> {
  return (await knownShards(sql)).length
}

/** Of each node that runs, how many shards it knows. */
async function knownShards(sql: Sql): Promise<number[]> {
  const rows = await sql<{ name: string }[]>`
    SELECT application_name AS name FROM pg_stat_activity
    WHERE datname = current_database() AND starts_with(application_name, ${PREFIX})`
  return rows.map(({ name }) => Number(name.slice(PREFIX.length)))
}
