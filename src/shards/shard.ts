import { type Batcher, createBatcher } from '../ledger/batcher.ts'
import { createPoster } from '../ledger/poster.ts'
import { createReader, type Reader } from '../ledger/reader.ts'
import { connect } from '../postgres/connect.ts'
import { migrate } from '../postgres/migrate.ts'
import { startHoldExpiry } from './holdExpiry.ts'

/** One database with its chain: where the requests of some holders are posted and read. */
export type Shard = {
  readonly number: number
  readonly batcher: Batcher
  readonly reader: Reader
  /** Answers what waits, then closes the connections. */
  close(): Promise<void>
}

export type ShardOptions = {
  number: number
  url: string
  writer: string
  /** Told about what went wrong while posting and was tried again. */
  onTrouble: (error: unknown) => void
}

const READ_CONNECTIONS = 8
const READ_MS_MAX = 5_000

/**
 * Opens a shard: brings its schema up to date and makes sure that the database is the one with this number.
 * @throws if the database belongs to another place in the list of shards
 */
export async function openShard({ number, url, writer, onTrouble }: ShardOptions): Promise<Shard> {
  await prepareDatabase(url, number)
  const clockUs = () => Math.round((performance.timeOrigin + performance.now()) * 1000)
  const poster = createPoster({ url, shard: number, writer, clockUs, onTrouble })
  const batcher = createBatcher({ post: (requests) => poster.post(requests) })
  const reads = connect(url, { max: READ_CONNECTIONS, name: `zerosum reader ${number}`, answerMsMax: READ_MS_MAX })
  const reader = createReader(reads, number)
  const stopHoldExpiry = startHoldExpiry({ reader, batcher }, onTrouble)
  return {
    number,
    batcher,
    reader,
    async close() {
      await stopHoldExpiry()
      await batcher.drain()
      await Promise.all([poster.close(), reads.end({ timeout: 5 })])
    },
  }
}

/** Migrates the database and gives it its number, or finds that it has it. */
export async function prepareDatabase(url: string, number: number): Promise<string[]> {
  const sql = connect(url, { max: 1, role: null, name: 'zerosum migrations' })
  try {
    const applied = await migrate(sql)
    await sql`UPDATE chain_head SET shard = ${number} WHERE shard IS NULL`
    const [head] = await sql<{ shard: number }[]>`SELECT shard FROM chain_head`
    if (head?.shard !== number) {
      throw new Error(
        `ZEROSUM_SHARDS, item ${number + 1} is the database of shard ${head?.shard}: list the shards in their first order`,
      )
    }
    return applied
  } finally {
    await sql.end()
  }
}
