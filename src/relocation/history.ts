import { readHead } from '../ledger/sql/chainHead.ts'
import {
  HISTORY_START,
  lastOfBlocks,
  readCopied,
  readMovedHistory,
  readOwnHistory,
  writeHistory,
} from '../ledger/sql/movedHistory.ts'
import type { Sql } from '../postgres/connect.ts'

/** Slots on their way, and the databases that they leave and come to. */
export type Passage = {
  readonly slots: readonly number[]
  readonly from: number
  readonly to: number
  readonly source: Sql
  readonly target: Sql
  /** What had come to the first shard from others is copied already. */
  readonly isAhead: boolean
}

/** Told of each page: how many blocks have been looked through, of how many. */
export type CopyProgress = (block: number, blocks: number) => void

/** Requests that are looked through at a time. */
const PAGE = 5_000

/**
 * Copies what one shard knows of slots to another that does not have them yet: what had come to it from others, then its own chain, up to the
 * block that is the last when it begins. Blocks that were looked through before are not again; it may be broken off anywhere.
 * @returns the number of that block
 */
export async function copyHistory(
  { slots, from, to, source, target, isAhead }: Passage,
  onProgress: CopyProgress = () => {},
): Promise<number> {
  const upTo = (await readHead(source)).number
  let place = isAhead ? undefined : HISTORY_START
  while (place) {
    const { page, last } = await readMovedHistory(source, { slots, to, after: place, limit: PAGE })
    if (page.requests.length > 0) await writeHistory(target, { shard: from, slots, upTo: null, page })
    place = last
  }
  for (let after = await readCopied(target, from, slots); after < upTo; ) {
    const last = (await lastOfBlocks(source, { after, upTo, requests: PAGE })) ?? upTo
    const page = await readOwnHistory(source, { slots, after, last })
    await writeHistory(target, { shard: from, slots, upTo: last, page })
    onProgress(last, upTo)
    after = last
  }
  return upTo
}
