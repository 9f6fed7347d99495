import type { BlockHeader } from '../core/block.ts'
import type { Shard } from '../shards/shard.ts'
import type { BalanceCache } from './cache.ts'
import type { RecordedHead, RedisCache } from './redisCache.ts'

/**
 * Sees to it that the cache is of the ledger's present history.
 *
 * A database that was restored from a backup, or a replica that took over and lacks the last blocks, is at lower versions than balances in a
 * cache that has outlived it; and newer wins. So nodes write into the cache where the chains end, and look whether what is written there is still
 * on the chains. If it is not, history has been taken back: the cache is emptied.
 */
export type History = {
  /** The cache; it answers no read before the first look has found it to be in order. */
  readonly cache: BalanceCache
  stop(): Promise<void>
}

export type HistoryOptions = {
  cache: RedisCache
  /** Those that there are, as of now. */
  shards: () => readonly { readonly number: number; readonly reader: Pick<Shard['reader'], 'block' | 'blocks'> }[]
  /** Told when the cache was emptied. */
  onTakenBack: (shards: readonly number[]) => void
  /** Told when the cache or a shard does not answer: once, until it does again. */
  onTrouble: (error: unknown) => void
  lookMs?: number
}

const LOOK_MS = 5_000
/** Until the first look has been possible. */
const FIRST_LOOK_MS = 200

export function watchHistory({ cache, shards, onTakenBack, onTrouble, lookMs = LOOK_MS }: HistoryOptions): History {
  let isKnown = false
  let isTroubled = false
  let isStopped = false
  let timer: NodeJS.Timeout | undefined
  let looking: Promise<void> = Promise.resolve()

  async function look(): Promise<void> {
    // What is recorded first, then the chains: so what is recorded is never ahead of them, unless they were set back.
    const recorded = await cache.heads()
    const heads: RecordedHead[] = []
    const takenBack: number[] = []
    const failures: unknown[] = []
    for (const { number: shard, reader } of shards()) {
      try {
        const [head] = await reader.blocks({ limit: 1, before: null })
        const known = recorded.find((one) => one.shard === shard)
        if (known && !isOn(known, known.block === head?.number ? head : await reader.block(known.block)))
          takenBack.push(shard)
        if (head) heads.push({ shard, block: head.number, hash: head.hash.toString('hex') })
      } catch (error) {
        failures.push(error)
      }
    }
    if (takenBack.length > 0) {
      await cache.flush()
      onTakenBack(takenBack)
    }
    await cache.recordHeads(heads)
    // While a shard is away its wallets can't be checked; they are not read from it either.
    isKnown ||= failures.length === 0
    if (failures.length > 0) throw failures[0]
  }

  function next(ms: number): void {
    if (isStopped) return
    timer = setTimeout(() => {
      looking = look()
        .then(
          () => {
            isTroubled = false
          },
          (error) => {
            // That Redis is away is told by its connection.
            if (!isTroubled && isKnown) onTrouble(error)
            isTroubled = true
          },
        )
        .then(() => next(isKnown ? lookMs : FIRST_LOOK_MS))
    }, ms)
  }
  next(0)

  return {
    cache: {
      ...cache,
      async read(walletId) {
        if (!isKnown) throw new Error('it is not known yet whether the cache is of this history')
        return await cache.read(walletId)
      },
    },
    async stop() {
      isStopped = true
      clearTimeout(timer)
      await looking
    },
  }
}

function isOn({ hash }: RecordedHead, block: BlockHeader | undefined): boolean {
  return block?.hash.toString('hex') === hash
}
