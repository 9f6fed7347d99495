import { setImmediate } from 'node:timers/promises'
import {
  auditBlock,
  auditContents,
  brokenLink,
  brokenSeal,
  type Finding,
  type StoredItem,
  type StoredLine,
} from '../core/audit.ts'
import { type BlockHeader, type ChainHead, GENESIS_HASH } from '../core/block.ts'
import { formatId } from '../core/ids.ts'
import type { Sql, Tx } from '../postgres/connect.ts'
import { countAccounts, findWrongCounters, findWrongSystemAccount } from './sql/auditAccounts.ts'
import { type InBlock, readHeaders, readItems } from './sql/auditBlocks.ts'
import { findWrongCopy } from './sql/auditCopies.ts'
import { readStoredHead } from './sql/auditHead.ts'
import { findWrongHold } from './sql/auditHolds.ts'
import { findWrongLayout } from './sql/auditLayout.ts'
import { createLineReader, type LineReader } from './sql/auditLines.ts'
import { accountName } from './sql/auditNames.ts'
import { findOrphan } from './sql/auditOrphans.ts'
import { findWrongReversal } from './sql/auditReversals.ts'
import { findWrongSaga } from './sql/auditSagas.ts'
import { scanWhole, walkByIndex } from './sql/auditSnapshot.ts'
import { findWrongWallet } from './sql/auditWallets.ts'

/** Where the books of a shard first stop agreeing. `null` is what doesn't apply or can't be known. */
export type Discrepancy = {
  readonly shard: number
  /** The number of the block; of one that is missing, the number that it should have. */
  readonly block: number | null
  /** `txn_` and 32 hex digits: the request, which is also the transaction. */
  readonly transaction: string | null
  /** `wal_` and 32 hex digits, or a system account as `cash USD (<uuid>)`. */
  readonly account: string | null
  /** What is there and what should be, in plain English. */
  readonly problem: string
}

/** What verifying a shard came to. When it is not balanced, the counts are of what was found in order before. */
export type ShardReport = {
  readonly shard: number
  readonly blocks: number
  readonly requests: number
  readonly entries: number
  /** Accounts whose row was checked against its entries; 0 if the chain itself is broken. */
  readonly accounts: number
  /**
   * The last block that was found in order, hash in hex. The whole chain before it hangs on this hash: kept elsewhere, it
   * shows later whether history was rewritten from end to end, which the ledger alone can't show.
   */
  readonly head: { readonly number: number; readonly hash: string; readonly timeUs: number }
  readonly balanced: boolean
  readonly discrepancy: Discrepancy | null
}

/** Rows of requests and entries that are read at a time, if no single block has more. */
const RANGE_ROWS_MAX = 6_000
const HEADERS_MAX = 1_000
/** So many rows beyond those that the headers count are read, to see what doesn't belong there. */
const SURPLUS_ROWS_MAX = 1_000

/** How far the audit has come: the last block in order, and how much was looked at. */
type Progress = { head: ChainHead; requests: number; entries: number; accounts: number }

/**
 * Proves the books of a shard, or finds where they first stop agreeing. Recomputes the chain block by block: numbers, times,
 * hashes, Merkle roots, each request's hash, its entries from what it asked for, each balance from the one before, floors,
 * sums of zero. Then what stands beside the chain: its head, rows outside of blocks, the counters of accounts, wallets,
 * holds, reversals. The first of these that is wrong is reported, in chain order.
 *
 * Works on one snapshot, so it may run while the shard is written to; holds a bounded part of the ledger in memory.
 * @param sql a pool on the shard's database; one connection of it is used
 * @param onProgress told after each range of blocks
 * @param since what an earlier audit found in order: the chain is walked from there on, and what stands beside it is left out
 * @throws what the database throws; a broken ledger is a report, not an error
 */
export async function verifyShard(
  sql: Sql,
  shard: number,
  onProgress?: (blocksDone: number, blocksTotal: number) => void,
  since?: ShardReport,
): Promise<ShardReport> {
  return await sql.begin('ISOLATION LEVEL REPEATABLE READ READ ONLY', async (sql) => {
    const progress = progressOf(since ?? NOTHING)
    const finding =
      (await walkChain(sql, shard, progress, onProgress)) ??
      (await auditHead(sql, shard, progress.head)) ??
      (await findOrphan(sql, progress.head.number)) ??
      (since ? undefined : await auditBeside(sql, shard, progress))
    const { head, requests, entries, accounts } = progress
    return {
      ...{ shard, blocks: head.number, requests, entries, accounts },
      head: { number: head.number, hash: head.hash.toString('hex'), timeUs: head.timeUs },
      balanced: !finding,
      discrepancy: finding ? await discrepancyOf(sql, shard, finding) : null,
    }
  })
}

const NOTHING = {
  head: { number: 0, hash: GENESIS_HASH.toString('hex'), timeUs: 0 },
  ...{ requests: 0, entries: 0, accounts: 0 },
}

function progressOf({ head, requests, entries, accounts }: typeof NOTHING): Progress {
  return { head: { ...head, hash: Buffer.from(head.hash, 'hex') }, requests, entries, accounts }
}

/** Walks the chain from its first block to its last, or to the first that is wrong. */
async function walkChain(
  sql: Tx,
  shard: number,
  progress: Progress,
  onProgress: (blocksDone: number, blocksTotal: number) => void = () => {},
): Promise<Finding | undefined> {
  await walkByIndex(sql)
  const blocksTotal = (await readStoredHead(sql))?.number ?? 0
  const after = progress.head.number === 0 ? null : progress.head.number
  for await (const range of ahead(readRanges(sql, shard, after))) {
    for (const stored of range) {
      const finding = auditStored(stored, progress.head)
      if (finding) return finding
      progress.head = stored.header
      progress.requests += stored.items.length
      progress.entries += stored.lines.length
    }
    onProgress(progress.head.number, Math.max(blocksTotal, progress.head.number))
  }
  return undefined
}

/** A block as it is found in the tables. */
type StoredBlock = { readonly header: BlockHeader; readonly items: StoredItem[]; readonly lines: StoredLine[] }

function auditStored({ header, items, lines }: StoredBlock, head: ChainHead): Finding | undefined {
  const link = brokenLink(header, head)
  if (link) return link
  const seal = brokenSeal(header)
  if (!seal) return auditBlock(header, items, lines)
  // What is wrong inside tells more than that the header is wrong, when it can name a transaction.
  const inside = auditContents(header, items, lines)
  return inside?.transaction ? inside : seal
}

/** Reads the chain in ranges of whole blocks, each RANGE_ROWS_MAX rows or a single block. */
async function* readRanges(sql: Tx, shard: number, begin: number | null): AsyncGenerator<StoredBlock[]> {
  const readLines = createLineReader(sql)
  let after = begin
  for (;;) {
    const headers: BlockHeader[] = await readHeaders(sql, shard, after, HEADERS_MAX)
    const last = headers.at(-1)
    if (!last) return
    after = last.number
    for (const range of rangesOf(headers)) yield await readRange(sql, range, readLines)
  }
}

function* rangesOf(headers: readonly BlockHeader[]): Generator<BlockHeader[]> {
  let range: BlockHeader[] = []
  let rows = 0
  for (const header of headers) {
    const more = header.requestCount + header.entryCount
    if (range.length > 0 && rows + more > RANGE_ROWS_MAX) {
      yield range
      range = []
      rows = 0
    }
    range.push(header)
    rows += more
  }
  if (range.length > 0) yield range
}

async function readRange(sql: Tx, headers: readonly BlockHeader[], readLines: LineReader): Promise<StoredBlock[]> {
  const range = { first: headers[0]?.number ?? 0, last: headers.at(-1)?.number ?? 0 }
  const requestCount = headers.reduce((sum, header) => sum + header.requestCount, 0)
  const entryCount = headers.reduce((sum, header) => sum + header.entryCount, 0)
  const items = await readItems(sql, range, requestCount + SURPLUS_ROWS_MAX)
  const lines = await readLines(range, entryCount + SURPLUS_ROWS_MAX)
  const itemsOf = Map.groupBy(items, ({ block }: InBlock<StoredItem>) => block)
  const linesOf = Map.groupBy(lines, ({ block }: InBlock<StoredLine>) => block)
  return headers.map((header) => ({
    header,
    items: itemsOf.get(header.number) ?? [],
    lines: linesOf.get(header.number) ?? [],
  }))
}

/** Passes values on, while the next one is being fetched already: the database and this program work at the same time. */
async function* ahead<T>(values: AsyncGenerator<T>): AsyncGenerator<T> {
  const fetch = () => {
    const fetched = values.next()
    fetched.catch(() => {}) // whoever awaits it handles its failure; until then nobody does
    return fetched
  }
  let next = fetch()
  try {
    for (;;) {
      const { done, value } = await next
      if (done) return
      next = fetch()
      // The query leaves in the next turn of the event loop; what is done with the value takes all of this one.
      await setImmediate()
      yield value
    }
  } finally {
    // The connection is free for other statements when the query on its way is answered.
    await next.catch(() => {})
  }
}

/** The row that says where the chain ends, against where it ends. */
async function auditHead(sql: Tx, shard: number, last: ChainHead): Promise<Finding | undefined> {
  const head = await readStoredHead(sql)
  const wrong = (block: number | null, problem: string): Finding => ({
    ...{ block, item: null, transaction: null, account: null, problem },
  })
  const end = last.number === 0 ? null : last.number
  if (!head) return wrong(end, 'the head of the chain has no row')
  if (head.shard !== null && head.shard !== shard) {
    return wrong(
      null,
      `the head of the chain says that this is shard ${head.shard}, but it is verified as shard ${shard}`,
    )
  }
  if (head.number > last.number) {
    const due = last.number + 1
    return wrong(
      due,
      `block ${due} is missing: the head of the chain says ${head.number}, but the chain ends with block ${last.number}`,
    )
  }
  if (head.number < last.number) {
    return wrong(end, `the head of the chain says ${head.number}, but the chain ends with block ${last.number}`)
  }
  if (!head.hash.equals(last.hash)) {
    const [said, due] = [head.hash.toString('hex'), last.hash.toString('hex')]
    return wrong(end, `the head of the chain says the hash ${said}, but the last block has ${due}`)
  }
  if (head.timeUs !== last.timeUs) {
    return wrong(end, `the head of the chain says the time ${head.timeUs} µs, but the last block has ${last.timeUs} µs`)
  }
  if (!head.isWhole) return wrong(end, 'the head of the chain says that its block lacks requests or entries')
  return undefined
}

/** What stands beside a chain that is in order: everything that could be worked out from it anew. */
async function auditBeside(sql: Tx, shard: number, progress: Progress): Promise<Finding | undefined> {
  await scanWhole(sql)
  progress.accounts = await countAccounts(sql)
  return (
    (await findWrongCounters(sql)) ??
    (await findWrongSystemAccount(sql, shard)) ??
    (await findWrongWallet(sql)) ??
    (await findWrongHold(sql, shard)) ??
    (await findWrongSaga(sql)) ??
    (await findWrongReversal(sql)) ??
    (await findWrongLayout(sql, shard)) ??
    (await findWrongCopy(sql))
  )
}

async function discrepancyOf(sql: Tx, shard: number, finding: Finding): Promise<Discrepancy> {
  const { block, transaction, account, problem } = finding
  return {
    shard,
    block,
    transaction: transaction === null ? null : formatId('txn', transaction),
    account: account === null ? null : await accountName(sql, account),
    problem,
  }
}
