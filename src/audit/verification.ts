import { type ShardReport, verifyShard } from '../ledger/auditor.ts'
import { connect } from '../postgres/connect.ts'
import { type CopiesReport, reconcileCopies } from './copies.ts'
import { reconcileTransit, type TransitReport } from './transit.ts'

/** What an audit of all shards came to. */
export type Verification = {
  readonly balanced: boolean
  readonly shards: readonly ShardReport[]
  /** What is between the shards. */
  readonly transit: TransitReport
  /** What moved between them with its history; not looked at when only what came since is. */
  readonly copies?: CopiesReport
}

export type VerificationOptions = {
  /** Told after each range of blocks. */
  onProgress?: (shard: number, blocksDone: number, blocksTotal: number) => void
  /** What an earlier one found in order; then only what came since is looked at. */
  since?: Verification | undefined
}

/** A whole table may be read in one statement; a database that is silent for longer is not there. */
const ANSWER_MS_MAX = 30 * 60_000

/** How many of the parts of an audit found a discrepancy; each reports the first that it found. */
export function countDiscrepancies({ shards, transit, copies }: Verification): number {
  return [...shards, transit, ...(copies ? [copies] : [])].filter(({ balanced }) => !balanced).length
}

/** Verifies every shard by itself, then what is between them. Nothing is stopped for it. @param urls by shard number */
export async function verifyAll(
  urls: readonly string[],
  { onProgress, since }: VerificationOptions = {},
): Promise<Verification> {
  const pools = urls.map((url) => connect(url, { max: 2, name: 'zerosum audit', answerMsMax: ANSWER_MS_MAX }))
  try {
    const shards: ShardReport[] = []
    for (const [shard, sql] of pools.entries()) {
      const before = since?.shards[shard]
      shards.push(
        await verifyShard(
          sql,
          shard,
          (done, total) => onProgress?.(shard, done, total),
          before?.balanced ? before : undefined,
        ),
      )
    }
    const transit = await reconcileTransit(pools, since?.balanced ? since.shards.map(({ head }) => head.number) : [])
    const found = { shards, transit, ...(since ? {} : { copies: await reconcileCopies(pools) }) }
    const balanced = transit.balanced && (found.copies?.balanced ?? true) && shards.every((shard) => shard.balanced)
    return { balanced, ...found }
  } finally {
    await Promise.all(pools.map((sql) => sql.end({ timeout: 5 })))
  }
}
