import { bulkhead } from 'cockatiel'
import { restAfter } from '../bus/brake.ts'
import type { Bus, ConsumerGroup } from '../bus/bus.ts'
import { createEmbeddedBus } from '../bus/embeddedBus.ts'
import { createKafkaBus } from '../bus/kafkaBus.ts'
import type { KafkaSecurity } from '../bus/kafkaSecurity.ts'
import type { Pools } from '../bus/pools.ts'
import type { Lag } from '../bus/position.ts'
import { startRelay } from '../bus/relay.ts'
import { type ConsumersLag, doneUpTo, kafkaProgress, looksBy, type Progress } from './lag.ts'

export type ConsumersOptions = {
  /** `host:port`; empty: the shards' databases are the bus. */
  brokers: readonly string[]
  security?: KafkaSecurity | undefined
  partitions: number
  shards: () => readonly number[]
  urlOf: (shard: number) => string | undefined
  /** On the shards' databases, which others use too; else it opens its own. */
  pools?: Pools | undefined
  /** All that there are. */
  groups: readonly ConsumerGroup[]
  /** Whether this node works for a group. */
  worksFor: (group: string) => boolean
  /** Whether requests wait to be posted here: then groups that catch up go slowly. */
  isBusy?: () => boolean
  onTrouble: (error: unknown) => void
  /** Told of messages in Kafka that a group left out, because they are no events of the ledger's. */
  onPoisoned?: (group: string) => void
  /** Told that trouble is over. */
  onWell?: ((message: string) => void) | undefined
}

/**
 * Batches of one group that are handled at once on this node. Each may hold a connection to the first shard, for which all groups wait: a group
 * that waits for a lock there must leave some to the others.
 */
const HANDLED_MAX = 2
/** Connections to the first shard that are enough for handlers: one more than a group that is stuck can hold. */
export const HANDLER_CONNECTIONS = 3

export type Consumers = {
  /** Of all groups, whoever works for them. Takes a few seconds at most, never throws. */
  lag(): Promise<ConsumersLag>
  /** Up to when a group has done what happened; `undefined` if shards or brokers do not answer within seconds. Never throws. */
  progress(group: string): Promise<Progress | undefined>
  /** Ends all, after what is being handled. */
  stop(): Promise<void>
}

type Reports = Pick<Consumers, 'lag' | 'progress'> & { readonly bus: Bus; stopRelay(): Promise<void> }

/** Opens the bus and has groups work; with Kafka also what publishes the events there. Posting waits for none of it. */
export function startConsumers(options: ConsumersOptions): Consumers {
  const { groups, worksFor, isBusy = () => false } = options
  const { bus, stopRelay, lag, progress } = options.brokers.length === 0 ? onBlocks(options) : onKafka(options, isBusy)
  for (const group of groups) if (worksFor(group.name)) bus.subscribe(unhurried(inTurns(group), isBusy))
  return {
    ...{ lag, progress },
    async stop() {
      await stopRelay()
      await bus.close()
    },
  }
}

function unhurried(group: ConsumerGroup, isBusy: () => boolean): ConsumerGroup {
  const handle: ConsumerGroup['handle'] = restAfter(isBusy, async (events, marks) => {
    await group.handle(events, marks)
    return events.length
  })
  return { ...group, handle }
}

/** Whether anybody reads there for the group, or ever did. */
const isKnown = ({ isFollowed, doneUs }: Lag) => isFollowed || doneUs > 0

function onBlocks({ shards, urlOf, pools, groups, worksFor, onTrouble, onWell }: ConsumersOptions): Reports {
  const bus = createEmbeddedBus({ shards, urlOf, pools, onTrouble, onWell })
  const looks = new Map(groups.map(({ name }) => [name, looksBy((shard: number) => bus.lagOn(name, shard))]))
  const all = async (group: string) => await Promise.all(shards().map((shard) => looks.get(group)?.(shard)))
  return {
    ...{ bus, stopRelay: async () => {} },
    async lag() {
      const found = await Promise.all(
        groups.map(async ({ name }) => ({
          group: name,
          shards: (await all(name)).filter((lag) => lag !== undefined).filter((lag) => worksFor(name) || isKnown(lag)),
        })),
      )
      return { relay: [], groups: found }
    },
    async progress(group) {
      const beforeUs = Date.now() * 1000
      const found = await all(group)
      const lags = found.filter((lag) => lag !== undefined)
      if (lags.length < found.length) return undefined
      return { isRun: lags.every(({ isFollowed }) => isFollowed), asOfUs: doneUpTo(lags, beforeUs) }
    },
  }
}

function onKafka(
  {
    brokers,
    security,
    partitions,
    shards,
    urlOf,
    pools,
    groups,
    worksFor,
    onTrouble,
    onPoisoned,
    onWell,
  }: ConsumersOptions,
  isBusy: () => boolean,
): Reports {
  const bus = createKafkaBus({ brokers, security, partitions, onTrouble, onPoisoned, onWell })
  const relay = startRelay({ shards, urlOf, pools, openPublisher: bus.openPublisher, isBusy, onTrouble, onWell })
  const published = looksBy(relay.lagOn)
  const look = looksBy(async (name: string) => {
    const group = groups.find((one) => one.name === name)
    return group && (await bus.lag(group))
  })
  const progresses = new Map(groups.map(({ name }) => [name, kafkaProgress()]))
  return {
    ...{ bus, stopRelay: () => relay.stop() },
    async lag() {
      const [relayed, found] = await Promise.all([
        Promise.all(shards().map(published)),
        Promise.all(groups.map(async ({ name }) => ({ group: name, behind: await look(name) }))),
      ])
      const known = found.filter(({ group, behind }) => worksFor(group) || behind?.isKnown !== false)
      return {
        relay: relayed.filter((lag) => lag !== undefined),
        groups: known.map(({ group, behind }) => ({ group, messages: behind?.messages })),
      }
    },
    async progress(group) {
      const beforeUs = Date.now() * 1000
      const found = await Promise.all(shards().map(published))
      const lags = found.filter((lag) => lag !== undefined)
      const behind = await look(group)
      if (lags.length < found.length || !behind) return undefined
      return progresses.get(group)?.(doneUpTo(lags, beforeUs), behind)
    },
  }
}

/** The same group, handling a few batches at once; the others wait here, and not for a connection. */
function inTurns(group: ConsumerGroup): ConsumerGroup {
  // As many wait as there are shards: each has one batch in hand.
  const turns = bulkhead(HANDLED_MAX, Number.POSITIVE_INFINITY)
  return { ...group, handle: (events, marks) => turns.execute(() => group.handle(events, marks)) }
}
