import { randomUUID } from 'node:crypto'
import { SpanKind } from '@opentelemetry/api'
import { inSpans } from '../observe/spans.ts'
import { restAfter } from './brake.ts'
import { eventsOf, type LedgerEvent } from './events.ts'
import { follow } from './follow.ts'
import { BACKGROUND_CONNECTIONS, createPools, lent, onEachShard, type Pools } from './pools.ts'
import { type Lag, readLag } from './position.ts'

/** Sends events, in order; resolves when all are on the brokers for good. What it throws for may be there too, in part or whole. */
export type Publisher = {
  publish(events: readonly LedgerEvent[], signal: AbortSignal): Promise<void>
  close(): Promise<void>
}

export type Relay = {
  /** How far each shard's events are behind its blocks. */
  lag(): Promise<Lag[]>
  lagOn(shard: number): Promise<Lag>
  stop(): Promise<void>
}

export type RelayOptions = {
  /** The numbers of the shards, as of now. */
  shards: () => readonly number[]
  urlOf: (shard: number) => string | undefined
  /** Pools on the shards' databases that others use too; else it opens its own. */
  pools?: Pools | undefined
  /** Each shard has its own, so that one that waits delays no other. */
  openPublisher: () => Publisher
  /** Whether requests wait to be posted here: then what is far behind is published slowly. */
  isBusy?: () => boolean
  onTrouble: (error: unknown) => void
  /** Told that trouble is over. */
  onWell?: ((message: string) => void) | undefined
  /** How long a node that vanished is waited for. */
  leaseMs?: number
}

const READER = 'relay'

/**
 * Publishes the events of all shards' blocks, in the order of blocks, at least once and without a gap: a shard's position is recorded after
 * the brokers have acknowledged. What is sent twice, by a node that crashed in between or that was taken to be gone, is older than what its
 * successor sends, so marks absorb it (marks.ts). Nothing that posts waits for this.
 */
export function startRelay(options: RelayOptions): Relay {
  const { shards, urlOf, pools, openPublisher, isBusy, onTrouble, onWell, leaseMs } = options
  const pool = pools ? lent(pools) : createPools(urlOf, 'zerosum relay', BACKGROUND_CONNECTIONS)
  const holder = randomUUID()
  const relays = onEachShard(shards, (shard) => {
    const publisher = openPublisher()
    const attributes = { 'messaging.system': 'kafka', 'messaging.operation.type': 'send', 'zerosum.shard': shard }
    const following = follow({
      ...{ reader: READER, shard, pool, holder, onTrouble, onWell },
      ...(leaseMs === undefined ? {} : { leaseMs }),
      handle: restAfter(isBusy, async (blocks, signal) => {
        const events = blocks.flatMap(eventsOf)
        await inSpans('publish events', { kind: SpanKind.PRODUCER, attributes }, events, (traced) =>
          publisher.publish(traced, signal),
        )
        return events.length
      }),
    })
    return {
      async stop() {
        await following.stop()
        await publisher.close()
      },
    }
  })
  return {
    lagOn: async (shard) => await readLag(pool(shard), READER, shard),
    lag: () => Promise.all(shards().map((shard) => readLag(pool(shard), READER, shard))),
    async stop() {
      await relays.stop()
      await pool.end()
    },
  }
}
