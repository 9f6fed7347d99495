import type { CircuitState } from 'cockatiel'
import type { Subscription } from '../bus/bus.ts'
import type { Disposition } from './disposition.ts'

/** Where requests wait to be posted: topics in Kafka (kafkaQueue.ts), or a table on each shard (embeddedQueue.ts). */
export type RequestQueue = {
  /**
   * Keeps a request for good. What comes while others are written is written together with what else came.
   * @throws QueueSaturated at once; QueueUnavailable if it is not known whether it is kept: adding it again does no harm
   */
  add(request: Queued): Promise<void>
  /** Whether anything is taken in, for where that is not up to the shards. */
  readonly breaker?: CircuitState
  /** Has a function settle what is there and what comes, batch after batch, several at a time. All nodes that do so share the work. */
  work(settle: Settle): Subscription
  /** How many wait to be posted, counted up to 100,000 in a place. @throws if that can't be told within seconds */
  waiting(): Promise<number>
  /** What was set aside, up to so many. */
  dead(limit: number): Promise<DeadLetter[]>
  /** Has these, or all that were set aside before this began, 100,000 at most, settled again. @returns how many there were */
  revive(which: readonly string[] | 'all'): Promise<number>
  /** Ends what was begun here, after what is under way; at most after some seconds. */
  close(): Promise<void>
}

export type Queued = {
  readonly id: string
  /** What has the same one is settled in the order in which it was added, as long as nothing of it has to be put off. */
  readonly scope: string
  readonly text: string
  /** W3C trace context of who asked, if that is traced. */
  readonly traceparent?: string
}

/** One to be settled. */
export type Letter = {
  readonly text: string
  /** How often it was put off so far. */
  readonly attempts: number
  /** When that was the first time, milliseconds since 1970; `null` if it never was. */
  readonly firstMs: number | null
  readonly traceparent?: string
}

/**
 * Says what is to become of each letter, in their order. A letter may come again: after a crash, or to two nodes at once. When it throws, all of them come again.
 * @param signal aborted when this node stops
 */
export type Settle = (letters: readonly Letter[], signal: AbortSignal) => Promise<Disposition[]>

/** A letter that was set aside. */
export type DeadLetter = {
  /** The id of the request as in `trf_…`; of what can't be read, where it was. */
  readonly name: string
  readonly text: string
  readonly reason: string
  readonly attempts: number
  /** Where it came from: a topic with partition and offset, or a shard. */
  readonly origin: string
  /** Milliseconds since 1970. */
  readonly deadMs: number
}

/** As much waits to be written as may: nothing was taken in. */
export class QueueSaturated extends Error {}

/** It is not known whether the request is kept. */
export class QueueUnavailable extends Error {}

/** Of one place no more are counted. */
export const COUNTED_MAX = 100_000

/** Batches that are settled at a time by a node, for each place where they lie. */
export const IN_FLIGHT_MAX = 4
