import { connect, type Sql } from '../postgres/connect.ts'

/** Pools on the shards' databases, opened when they are first asked for. */
export type Pools = {
  (shard: number): Sql
  end(): Promise<void>
}

const ANSWER_MS_MAX = 30_000

/** Connections of a node to each database by which it follows the blocks there, and ends what others left half done. */
export const BACKGROUND_CONNECTIONS = 3

/** Pools that others use too, and that whoever opened them ends. */
export function lent(pools: Pools): Pools {
  return Object.assign((shard: number) => pools(shard), { end: async () => {} })
}

/** @param max connections to each database */
export function createPools(urlOf: (shard: number) => string | undefined, name: string, max: number): Pools {
  const pools = new Map<number, Sql>()
  const pool = (shard: number): Sql => {
    const known = pools.get(shard)
    if (known) return known
    const url = urlOf(shard)
    if (url === undefined) throw new Error(`nothing is known of the database of shard ${shard}`)
    const opened = connect(url, { max, name, answerMsMax: ANSWER_MS_MAX })
    pools.set(shard, opened)
    return opened
  }
  return Object.assign(pool, {
    async end() {
      await Promise.all([...pools.values()].map((sql) => sql.end()))
    },
  })
}

const LOOK_MS = 1_000

/** Calls `begin` for each shard, also for those that are added later, until it is stopped; then ends what was begun. */
export function onEachShard(
  shards: () => readonly number[],
  begin: (shard: number) => { stop(): Promise<void> },
): { stop(): Promise<void> } {
  const begun = new Map<number, { stop(): Promise<void> }>()
  const look = () => {
    for (const shard of shards()) if (!begun.has(shard)) begun.set(shard, begin(shard))
  }
  look()
  const timer = setInterval(look, LOOK_MS)
  return {
    async stop() {
      clearInterval(timer)
      await Promise.all([...begun.values()].map((each) => each.stop()))
    },
  }
}
