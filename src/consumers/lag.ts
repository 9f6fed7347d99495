import type { KafkaLag } from '../bus/kafkaLag.ts'
import type { Lag } from '../bus/position.ts'

/** How far behind the ledger things are, as far as it can be told within seconds. */
export type ConsumersLag = {
  /** What is published to Kafka, of each shard that answers; empty without Kafka. */
  readonly relay: readonly Lag[]
  /**
   * The groups that this node should work for, though it may never have come to it, and those that somebody works for, or has worked for: without
   * Kafka by shards, of those that answer; with Kafka by messages, `undefined` if the brokers do not answer. A group that an installation does
   * without is not behind.
   */
  readonly groups: readonly (
    | { readonly group: string; readonly shards: readonly Lag[] }
    | { readonly group: string; readonly messages: number | undefined }
  )[]
}

const ANSWER_MS_MAX = 2_000

/**
 * Asks for something, and waits for it for two seconds. While an answer is outstanding, nothing is asked again: who is silent gets one question.
 * @returns `undefined` if it fails, or does not answer in time
 */
export function patientLook<T>(ask: () => Promise<T>): () => Promise<T | undefined> {
  let pending: Promise<T | undefined> | undefined
  return async () => {
    pending ??= ask()
      .catch(() => undefined)
      .finally(() => {
        pending = undefined
      })
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<undefined>((done) => {
      timer = setTimeout(() => done(undefined), ANSWER_MS_MAX)
    })
    try {
      return await Promise.race([pending, late])
    } finally {
      clearTimeout(timer)
    }
  }
}

/** One such look for each name, made when it is first asked for. */
export function looksBy<K, T>(ask: (key: K) => Promise<T>): (key: K) => Promise<T | undefined> {
  const looks = new Map<K, () => Promise<T | undefined>>()
  return (key) => {
    const known = looks.get(key) ?? patientLook(() => ask(key))
    looks.set(key, known)
    return known()
  }
}

/** Up to when all that happened is done by a group, and whether anybody works for it. */
export type Progress = {
  readonly isRun: boolean
  /** Microseconds since 1970; `undefined` if it can't be told yet. */
  readonly asOfUs: number | undefined
}

/**
 * Up to when the blocks of these shards are done.
 * @param beforeUs when they were asked
 */
export function doneUpTo(lags: readonly Lag[], beforeUs: number): number {
  return Math.min(beforeUs, ...lags.flatMap(({ blocks, doneUs }) => (blocks === 0 ? [] : [doneUs])))
}

/**
 * The same for a group that is fed by Kafka. What the relay had published when the ends of the topics were looked at is done when the group
 * has come so far: so a look remembers the ends until then.
 */
export function kafkaProgress() {
  let goal: { ends: ReadonlyMap<string, bigint>; asOfUs: number } | undefined
  let asOfUs: number | undefined
  return (publishedUs: number, { ends, next, members }: Pick<KafkaLag, 'ends' | 'next' | 'members'>): Progress => {
    const isReached = (ends: ReadonlyMap<string, bigint>) =>
      [...ends].every(([name, end]) => (next.get(name) ?? 0n) >= end)
    if (isReached(ends)) goal = { ends, asOfUs: publishedUs }
    if (goal && isReached(goal.ends)) {
      asOfUs = Math.max(asOfUs ?? 0, goal.asOfUs)
      goal = undefined
    }
    goal ??= { ends, asOfUs: publishedUs }
    return { isRun: members > 0, asOfUs }
  }
}
