import type { LastAudit } from '../audit/background.ts'
import type { ConsumersLag } from '../consumers/lag.ts'
import type { Shard } from '../shards/shard.ts'
import { type Sight, startLookout } from './lookout.ts'
import type { Metrics } from './metrics.ts'

export type LookAroundOptions = {
  metrics: Pick<Metrics, 'shard' | 'lag' | 'audit' | 'webhooksPending'>
  /** As of now. */
  shards: () => readonly Pick<Shard, 'number' | 'reader'>[]
  lag: () => Promise<ConsumersLag>
  lastAudit: () => Promise<LastAudit | undefined>
  webhooksPending: () => Promise<number>
  /** Told when something stops answering, not each time that it goes on to. */
  onTrouble: (error: unknown) => void
  intervalMs?: number
}

/** Keeps those figures up to date that somebody has to be asked for. @returns what ends it */
export function lookAround({
  metrics,
  shards,
  lag,
  lastAudit,
  webhooksPending,
  onTrouble,
  intervalMs,
}: LookAroundOptions) {
  const shardSight = ({ number, reader }: Pick<Shard, 'number' | 'reader'>): Sight => ({
    name: `shard ${number}`,
    look: async () => metrics.shard(number, await reader.vitals()),
    lost: () => metrics.shard(number, undefined),
  })
  const others: Sight[] = [
    {
      name: 'lags',
      look: async () => metrics.lag(await lag()),
      lost: () => metrics.lag({ relay: [], groups: [] }),
    },
    // What the last audit found stays true until there is another: its time says how old it is.
    { name: 'the last audit', look: async () => metrics.audit(await lastAudit()), lost: () => {} },
    {
      name: 'webhooks',
      look: async () => metrics.webhooksPending(await webhooksPending()),
      lost: () => metrics.webhooksPending(undefined),
    },
  ]
  return startLookout({
    sights: () => [...shards().map(shardSight), ...others],
    onTrouble: (name, error) => onTrouble(new Error(`${name} can't be asked`, { cause: error })),
    ...(intervalMs === undefined ? {} : { intervalMs }),
  })
}
