/**
 * What all keys and channels of an installation begin with, so that many may share a Redis: made of the time of its first shard map, which never
 * changes and comes back with a backup. A copy of an installation's databases has the same: it needs a Redis of its own.
 * @param madeUs microseconds since 1970
 */
export function redisPrefix(madeUs: bigint): string {
  return `zerosum:${madeUs.toString(36)}:`
}
