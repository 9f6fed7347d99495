import { setTimeout as sleep } from 'node:timers/promises'
import { createReadGuard, type ReadGuard } from '../guard/readGuard.ts'
import { type Batcher, createBatcher } from '../ledger/batcher.ts'
import { createPoster, type OnBlock } from '../ledger/poster.ts'
import { createReader, type Reader } from '../ledger/reader.ts'
import { connect } from '../postgres/connect.ts'

/** One database with its chain: where the requests of some holders are posted and read. */
export type Shard = {
  readonly number: number
  readonly batcher: Batcher
  readonly reader: Reader
  /** What stands before the reads. */
  readonly reads: Pick<ReadGuard, 'breaker'>
  /** Answers what waits, then closes the connections. */
  close(): Promise<void>
}

export type ShardOptions = {
  number: number
  url: string
  writer: string
  /** Told of each block that this node wrote, when it is committed. */
  onBlock?: OnBlock
  /** Told about what went wrong while posting and was tried again. */
  onTrouble: (error: unknown) => void
}

const READ_CONNECTIONS = 6
const DRAIN_MS_MAX = 12_000
const READ_MS_MAX = 5_000

/** Opens a shard. Its database was made ready by `prepareShards`, which also knows that it is the one with this number. */
export function openShard({ number, url, writer, onBlock, onTrouble }: ShardOptions): Shard {
  // The wall clock, as everything else that looks at times: a monotonic one stands still while a machine sleeps.
  const clockUs = () => Date.now() * 1000
  const poster = createPoster({ url, shard: number, writer, clockUs, onTrouble, ...(onBlock ? { onBlock } : {}) })
  const batcher = createBatcher({ post: (requests) => poster.post(requests), shard: number })
  const guard = createReadGuard({ atOnceMax: READ_CONNECTIONS })
  const reads = connect(url, {
    ...{ max: READ_CONNECTIONS, name: `zerosum reader ${number}`, answerMsMax: READ_MS_MAX },
    guard: guard.run,
  })
  const reader = createReader(reads, number)
  return {
    number,
    batcher,
    reader,
    reads: guard,
    async close() {
      // What still waits when the database does not answer is not lost: nobody was told that it was posted.
      await Promise.race([batcher.drain(), sleep(DRAIN_MS_MAX, undefined, { ref: false })])
      await Promise.all([poster.close(), reads.end({ timeout: 5 })])
    },
  }
}
