import { createEmbeddedBus } from '../bus/embeddedBus.ts'
import { createPools } from '../bus/pools.ts'
import { checkShards } from '../shards/map.ts'
import { projectionsGroup } from './group.ts'
import { caughtUp, finishReplay, headsOf, NoSuchBlock, rebuildProjections, refetchProjections } from './replay.ts'

export type ReplayOptions = {
  readonly urls: readonly string[]
  /** 0: everything is made again. More: what is missing is fetched, from that block of every shard on. */
  readonly from: number
}

/**
 * `zerosum replay projections`: reads the blocks, whatever the bus is. Broken off, it is run again; meanwhile nodes with Kafka leave the
 * projections as they are.
 * @returns the exit code
 */
export async function replayProjections({ urls, from }: ReplayOptions): Promise<number> {
  await checkShards(urls)
  const numbers = urls.map((_, shard) => shard)
  const urlOf = (shard: number) => urls[shard]
  const pool = createPools(urlOf, 'zerosum replay', 2)
  const onTrouble = (error: unknown) => console.error(`met trouble and goes on: ${String(error)}`)
  const bus = createEmbeddedBus({ shards: () => numbers, urlOf, onTrouble })
  try {
    if (from === 0) await rebuildProjections(pool(0), bus)
    else await refetchProjections(pool, numbers, bus, from)
    console.log(
      from === 0 ? 'The projections are empty, and are made again.' : `Events from block ${from} on come again.`,
    )
    const heads = await headsOf(pool, numbers)
    bus.subscribe(projectionsGroup(pool(0)))
    await caughtUp(pool, heads, bus.lag)
    await finishReplay(pool(0))
    for (const [shard, head] of heads) console.log(`shard ${shard}: up to block ${head}`)
    return 0
  } catch (error) {
    if (!(error instanceof NoSuchBlock)) throw error
    console.error(error.message)
    return 1
  } finally {
    await bus.close()
    await pool.end()
  }
}
