import { setTimeout as sleep } from 'node:timers/promises'
import type { Sql } from '../postgres/connect.ts'
import type { LedgerEvent, Topic } from './events.ts'
import type { Marks } from './marks.ts'

/** Where the ledger's events can be had from: the blocks themselves (embeddedBus.ts), or Kafka (kafkaBus.ts). */
export type Bus = {
  /** Joins a consumer group. All nodes that subscribe under a name share the group's work. */
  subscribe(group: ConsumerGroup): Subscription
  /** Ends all subscriptions, each after the batch that it is at; a handler that takes too long is left behind. */
  close(): Promise<void>
}

export type ConsumerGroup = {
  /** Of letters, digits, `-`, `_`, `.`; 1 to 100 characters. A new group begins with the first event that there is. */
  readonly name: string
  readonly topics: readonly Topic[]
  /**
   * Takes a batch of events. Events with the same key come in the order of the ledger, one batch after the other, each at least once:
   * progress is recorded after this returned. When it throws, the same events come again, after a pause that grows; nothing is skipped.
   */
  readonly handle: (events: readonly LedgerEvent[], marks: Marks) => Promise<void>
  /**
   * Whether nothing in these blocks of a shard, which are committed, is of use to the group: they are passed over unread. Where events come
   * from Kafka nobody asks.
   * @param sql a pool on the shard's database
   */
  readonly skips?: (blocks: BlockRange, sql: Sql) => Promise<boolean>
}

/** Blocks after one, up to another. */
export type BlockRange = { readonly shard: number; readonly after: number; readonly upTo: number }

export type Subscription = {
  /** Ends after the batch that is being handled. */
  stop(): Promise<void>
}

/** Events in a batch at most. */
export const BATCH_MAX = 1_000

/** @throws Error if it can't be a group's name */
export function checkedName(name: string): string {
  if (!/^[A-Za-z0-9._-]{1,100}$/.test(name)) throw new Error(`"${name}" is no name for a consumer group`)
  return name
}

const STOP_MS_MAX = 15_000

/** Stops all, and waits for them, but not for ever. */
export async function stopAll(subscriptions: readonly Subscription[]): Promise<void> {
  const stopped = Promise.all(subscriptions.map((each) => each.stop()))
  await Promise.race([stopped, sleep(STOP_MS_MAX, undefined, { ref: false })])
}
