/**
 * How many connections a node takes at most to each shard, and how many more to the first one. Those that are idle for half a minute are
 * closed, but for the two of the poster. test/http/connections.test.ts holds a busy node to it.
 *
 *   each shard   2 poster, 6 reads, 3 in the background: following blocks, or relaying them, and ending moves; and without Kafka
 *                2 of the queue of what is posted later
 *   the first    2 for callers' keys, 2 for projections, webhook endpoints and ends of asynchronous requests,
 *                3 handlers of consumer groups, 2 webhook deliveries,
 *                1 by which commands see the node, 1 that holds the lock of the audit
 */
export const NODE_CONNECTIONS = { eachShard: 13, firstShard: 11 } as const

/** What the audit takes of each shard beside that, on the one node of all that is at it. */
export const AUDIT_CONNECTIONS = 2

/** Connections that this many nodes take to a server with these shards, by their numbers, at most. */
export function connectionsOf(nodes: number, shards: readonly number[]): number {
  const perNode = shards.length * NODE_CONNECTIONS.eachShard + (shards.includes(0) ? NODE_CONNECTIONS.firstShard : 0)
  return nodes * perNode + shards.length * AUDIT_CONNECTIONS
}
