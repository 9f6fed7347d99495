import type { Bus, ConsumerGroup } from '../bus/bus.ts'
import { createEmbeddedBus } from '../bus/embeddedBus.ts'
import { createKafkaBus } from '../bus/kafkaBus.ts'
import { startRelay } from '../bus/relay.ts'

export type ConsumersOptions = {
  /** `host:port`; empty: the shards' databases are the bus. */
  brokers: readonly string[]
  partitions: number
  shards: () => readonly number[]
  urlOf: (shard: number) => string | undefined
  groups: readonly ConsumerGroup[]
  onTrouble: (error: unknown) => void
}

/**
 * Opens the bus and has these groups work; with Kafka also what publishes the events there. Posting waits for none of it.
 * @returns what ends it, after what is being handled
 */
export function startConsumers({ brokers, partitions, shards, urlOf, groups, onTrouble }: ConsumersOptions): {
  stop(): Promise<void>
} {
  const { bus, stopRelay } = open()
  for (const group of groups) bus.subscribe(group)
  return {
    async stop() {
      await stopRelay()
      await bus.close()
    },
  }

  function open(): { bus: Bus; stopRelay: () => Promise<void> } {
    if (brokers.length === 0) return { bus: createEmbeddedBus({ shards, urlOf, onTrouble }), stopRelay: async () => {} }
    const bus = createKafkaBus({ brokers, partitions, onTrouble })
    const relay = startRelay({ shards, urlOf, openPublisher: bus.openPublisher, onTrouble })
    return { bus, stopRelay: () => relay.stop() }
  }
}
