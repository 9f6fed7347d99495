import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  confirmLease,
  Fenced,
  hasPassed,
  leaveLease,
  readLag,
  recordPosition,
  rewindReader,
  takeLease,
} from '../../src/bus/position.ts'
import { connect, type Sql } from '../../src/postgres/connect.ts'
import { migratedDatabase } from '../support/database.ts'
import { openLedger } from '../support/ledger.ts'

let sql: Sql
let owner: Sql
let times: number[]

beforeAll(async () => {
  const url = await migratedDatabase()
  const ledger = openLedger(url)
  for (let i = 0; i < 3; i++) await ledger.wallet()
  await ledger.close()
  sql = connect(url, { max: 2 })
  owner = connect(url, { max: 1, role: null })
  const rows = await sql<{ time_us: bigint }[]>`SELECT time_us FROM blocks ORDER BY number`
  times = rows.map(({ time_us }) => Number(time_us))
})
afterAll(() => Promise.all([sql.end(), owner.end()]))

describe('the position of a reader', () => {
  test('is moved on by one holder at a time; another takes over when the lease has ended or was left', async () => {
    expect(await takeLease(sql, 'a', 'one', 60_000)).toEqual({ block: 0, epoch: 1 })
    expect(await takeLease(sql, 'a', 'two', 60_000)).toBeUndefined()
    expect(await takeLease(sql, 'a', 'one', 1)).toEqual({ block: 0, epoch: 1 })
    await sql`SELECT pg_sleep(0.01)`
    expect(await takeLease(sql, 'a', 'two', 60_000)).toEqual({ block: 0, epoch: 2 })
    await leaveLease(sql, 'a', 1)
    expect(await takeLease(sql, 'a', 'one', 60_000)).toBeUndefined()
    await leaveLease(sql, 'a', 2)
    expect(await takeLease(sql, 'a', 'one', 60_000)).toEqual({ block: 0, epoch: 3 })
  })

  test('is not moved under an old epoch, nor backwards, nor beyond the chain', async () => {
    await takeLease(sql, 'b', 'one', 60_000)
    await recordPosition(sql, 'b', { block: 2, epoch: 1 })
    await leaveLease(sql, 'b', 1)
    expect(await takeLease(sql, 'b', 'two', 60_000)).toEqual({ block: 2, epoch: 2 })
    await expect(recordPosition(sql, 'b', { block: 3, epoch: 1 })).rejects.toThrow(Fenced)
    await expect(recordPosition(sql, 'b', { block: 1, epoch: 2 })).rejects.toThrow(Fenced)
    await expect(recordPosition(sql, 'b', { block: 4, epoch: 2 })).rejects.toThrow(Fenced)
    await expect(recordPosition(sql, 'nobody', { block: 1, epoch: 1 })).rejects.toThrow(Fenced)
    expect(await takeLease(sql, 'b', 'two', 60_000)).toEqual({ block: 2, epoch: 2 })
  })

  test('has passed a time when the block of that time is done', async () => {
    expect(await hasPassed(sql, 'c', times[0] ?? 0)).toBe(false)
    await takeLease(sql, 'c', 'one', 60_000)
    await recordPosition(sql, 'c', { block: 2, epoch: 1 })
    expect(await Promise.all(times.map((time) => hasPassed(sql, 'c', time)))).toEqual([true, true, false])
  })

  test('goes back to a time, and whoever was at it is fenced', async () => {
    await takeLease(sql, 'd', 'one', 60_000)
    await recordPosition(sql, 'd', { block: 3, epoch: 1 })
    await rewindReader(sql, 'd', times[1] ?? 0)
    await expect(recordPosition(sql, 'd', { block: 3, epoch: 1 })).rejects.toThrow(Fenced)
    const position = await takeLease(sql, 'd', 'one', 60_000)
    expect(position?.block).toBe(1)
    expect(position?.epoch).toBeGreaterThan(1)
    await rewindReader(sql, 'd', times[2] ?? 0)
    expect((await takeLease(sql, 'd', 'one', 60_000))?.block).toBe(1)
    const confirmed = await takeLease(sql, 'd', 'one', 60_000)
    await confirmLease(sql, 'd', confirmed?.epoch ?? 0)
    // It is not so far yet, but may have done what is not recorded.
    await rewindReader(sql, 'd', times[2] ?? 0)
    await expect(confirmLease(sql, 'd', confirmed?.epoch ?? 0)).rejects.toThrow(Fenced)
    expect(await hasPassed(sql, 'd', times[1] ?? 0)).toBe(false)
    await rewindReader(sql, 'd', 0)
    expect((await takeLease(sql, 'd', 'two', 60_000))?.block).toBe(0)
  })

  test('tells how far behind it is', async () => {
    expect(await readLag(sql, 'nobody', 0)).toMatchObject({ shard: 0, blocks: 3, doneUs: 0, isFollowed: false })
    expect((await readLag(sql, 'nobody', 0)).seconds).toBeGreaterThan(0)
    await takeLease(sql, 'e', 'one', 60_000)
    await recordPosition(sql, 'e', { block: 3, epoch: 1 })
    const done = { shard: 0, blocks: 0, seconds: 0, doneUs: times[2] }
    expect(await readLag(sql, 'e', 0)).toEqual({ ...done, isFollowed: true })
    await leaveLease(sql, 'e', 1)
    expect(await readLag(sql, 'e', 0)).toEqual({ ...done, isFollowed: false })
  })

  test.each([
    [`UPDATE block_readers SET block = 0`],
    [`INSERT INTO block_readers (reader, holder, leased_until) VALUES ('x', 'y', now())`],
    [`DELETE FROM block_readers`],
    [`UPDATE consumer_marks SET consumer_group = 'x'`],
  ])('the application may not: %s', async (statement) => {
    await expect(sql.unsafe(statement)).rejects.toThrow(/permission denied/)
  })
})
