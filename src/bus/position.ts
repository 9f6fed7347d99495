import pg from 'pg'
import type { Sql } from '../postgres/connect.ts'

/**
 * How far a reader of a shard's blocks has come, and the lease by which one node at a time moves it on: a row in that shard's
 * database. Each new holder gets a higher epoch, and the database refuses what comes under an older one (migrations/0007_bus.sql).
 */
export type Position = {
  /** The last block that is done; 0 before the first. */
  readonly block: number
  /** The fencing token. */
  readonly epoch: number
}

/** The lease was taken by another node: what was done since is done again by that one. */
export class Fenced extends Error {}

/** Takes the lease, or keeps it. @returns `undefined` if another holder has it */
export async function takeLease(sql: Sql, reader: string, holder: string, ms: number): Promise<Position | undefined> {
  const [row] = await sql<{ block: bigint; epoch: bigint }[]>`
    SELECT block, epoch FROM take_lease(${reader}, ${holder}, ${ms})`
  return row && { block: Number(row.block), epoch: Number(row.epoch) }
}

/** Lets go of the lease, if it is still ours. */
export async function leaveLease(sql: Sql, reader: string, epoch: number): Promise<void> {
  await sql`SELECT leave_lease(${reader}, ${epoch})`
}

/** Records that a block, and all before it, is done. @throws Fenced */
export async function recordPosition(sql: Sql, reader: string, { block, epoch }: Position): Promise<void> {
  try {
    await sql`SELECT record_position(${reader}, ${epoch}, ${block})`
  } catch (error) {
    if (error instanceof pg.DatabaseError && error.code === 'ZS004') throw new Fenced(error.message, { cause: error })
    throw error
  }
}

/** @throws Fenced if the lease was taken by another node since, or the reader was sent back */
export async function confirmLease(sql: Sql, reader: string, epoch: number): Promise<void> {
  const [row] = await sql<{ epoch: bigint }[]>`SELECT epoch FROM block_readers WHERE reader = ${reader}`
  if (Number(row?.epoch) !== epoch) throw new Fenced(`${reader} is not at epoch ${epoch} any more`)
}

/** Sends a reader back: blocks from this time on (microseconds since 1970) are read again. Whoever is at it is fenced; a reader that is not so far stays where it is. */
export async function rewindReader(sql: Sql, reader: string, sinceUs: number): Promise<void> {
  await sql`SELECT rewind_reader(${reader}, ${sinceUs})`
}

/** Whether a reader has passed the block of that time. */
export async function hasPassed(sql: Sql, reader: string, timeUs: number): Promise<boolean> {
  const [row] = await sql<{ passed: boolean }[]>`
    SELECT time_us >= ${timeUs} AS passed FROM block_readers WHERE reader = ${reader}`
  return row?.passed ?? false
}

/** How far behind a reader is. */
export type Lag = {
  readonly shard: number
  readonly blocks: number
  /** The age of the oldest block that it has not done, by the database's clock; 0 if there is none. */
  readonly seconds: number
  /** The time of the last block that it has done, microseconds since 1970; 0 before the first. */
  readonly doneUs: number
  /** Whether somebody is at it, or was within the last seconds. */
  readonly isFollowed: boolean
}

/** How long after the end of a lease another node may need to take it up. */
const TAKEOVER_SECONDS = 10

export async function readLag(sql: Sql, reader: string, shard: number): Promise<Lag> {
  const [row] = await sql<{ blocks: bigint; seconds: number; done_us: bigint; is_followed: boolean }[]>`
    SELECT h.number - p.block AS blocks, coalesce(greatest(0, extract(epoch FROM clock_timestamp())
             - (SELECT time_us FROM blocks WHERE number = p.block + 1) / 1e6), 0)::float8 AS seconds, p.done_us,
           p.is_followed
    FROM chain_head h, (
      SELECT coalesce(max(block), 0) AS block, coalesce(max(time_us), 0) AS done_us,
             coalesce(bool_or(leased_until > clock_timestamp() - make_interval(secs => ${TAKEOVER_SECONDS})), false) AS is_followed
      FROM block_readers WHERE reader = ${reader}) AS p`
  const { blocks = 0n, seconds = 0, done_us = 0n, is_followed: isFollowed = false } = row ?? {}
  return { shard, blocks: Number(blocks), seconds, doneUs: Number(done_us), isFollowed }
}
