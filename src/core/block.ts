import { hash } from 'node:crypto'
import { leafHash, merkleRoot } from './merkle.ts'
import type { Decision } from './post.ts'
import type { Refusal } from './refusal.ts'
import type { Kind } from './request.ts'
import type { Entry } from './workspace.ts'

/** What a block says of itself. `hash` covers all the rest, and by `previousHash` every block before. */
export type BlockHeader = {
  readonly shard: number
  readonly number: number
  readonly previousHash: Buffer
  readonly root: Buffer
  readonly timeUs: number
  readonly writer: string
  readonly requestCount: number
  readonly entryCount: number
  readonly hash: Buffer
}

/** A block as it is written: its header, its decided requests in order, their leaf hashes. */
export type Block = BlockHeader & { readonly decisions: readonly Decision[]; readonly leaves: readonly Buffer[] }

/** The last block of a chain, as the next one needs it. */
export type ChainHead = { readonly number: number; readonly hash: Buffer; readonly timeUs: number }

/** The previous hash of block 1. */
export const GENESIS_HASH = Buffer.alloc(32)

/** A request as it was decided, with its entries: what one leaf of a block stands for. */
export type Item = {
  readonly id: string
  readonly tenantId: string
  readonly scope: string
  readonly key: string
  readonly kind: Kind
  readonly payload: string
  readonly refusal: Refusal | null
  readonly result: string | null
  readonly entries: readonly Entry[]
}

/**
 * The canonical bytes of an item, as text: a JSON array of strings, nulls and integers in a fixed order, money as decimal
 * strings, payload and result as the very text that is stored. The leading number is the version of this form.
 */
export function canonicalItem(item: Item): string {
  const { id, tenantId, scope, key, kind, payload, refusal, result, entries } = item
  const lines = entries.map((e) => [
    e.accountId,
    e.sequence,
    e.currency,
    `${e.amount}`,
    e.layer,
    `${e.posted}`,
    `${e.pendingOut}`,
    `${e.pendingIn}`,
  ])
  return JSON.stringify([1, id, tenantId, scope, key, kind, payload, refusal, result, lines])
}

/** The hash of a block: SHA-256 over the canonical form of its header. */
export function headerHash(header: Omit<BlockHeader, 'hash'>): Buffer {
  const { shard, number, previousHash, root, timeUs, writer, requestCount, entryCount } = header
  const text = JSON.stringify([
    1,
    shard,
    number,
    previousHash.toString('hex'),
    root.toString('hex'),
    timeUs,
    writer,
    requestCount,
    entryCount,
  ])
  return hash('sha256', text, 'buffer')
}

/** Makes decided requests into the block that comes after `head`. There must be at least one. */
export function sealBlock(
  head: ChainHead,
  decisions: readonly Decision[],
  { shard, writer, timeUs }: { shard: number; writer: string; timeUs: number },
): Block {
  if (decisions.length === 0) throw new Error('a block without requests')
  if (timeUs <= head.timeUs) throw new Error(`block time ${timeUs} is not after the time of block ${head.number}`)
  const leaves = decisions.map(({ request, record, entries }) =>
    leafHash(canonicalItem({ ...record, scope: request.scope, key: request.key, entries })),
  )
  const header = {
    shard,
    number: head.number + 1,
    previousHash: head.hash,
    root: merkleRoot(leaves),
    timeUs,
    writer,
    requestCount: decisions.length,
    entryCount: decisions.reduce((sum, { entries }) => sum + entries.length, 0),
  }
  return { ...header, hash: headerHash(header), decisions, leaves }
}

/** The time of the next block: the clock's, but always after the block before, even if the clock went back. */
export function blockTimeUs(head: ChainHead, clockUs: number): number {
  return Math.max(clockUs, head.timeUs + 1)
}
