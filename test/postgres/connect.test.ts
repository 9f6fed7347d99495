import dns from 'node:dns'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import {
  arrayLiteral,
  ConnectionLost,
  connect,
  connectOrShare,
  failureOf,
  type PoolOptions,
  type Sql,
} from '../../src/postgres/connect.ts'
import { emptyDatabase } from '../support/database.ts'

let url: string
let sql: Sql

beforeAll(async () => {
  url = await emptyDatabase()
  sql = connect(url, { max: 2, role: null })
  await sql`CREATE TABLE notes (note text PRIMARY KEY)`
})

beforeEach(async () => {
  await sql`DELETE FROM notes`
})

afterAll(async () => {
  await sql.end()
})

const notes = async () => (await sql`SELECT note FROM notes ORDER BY note`).map(({ note }) => note)

async function errorOf(work: Promise<unknown>): Promise<unknown> {
  return await work.then(
    () => undefined,
    (error: unknown) => error,
  )
}

describe('a statement', () => {
  it('is sent once, however often it is awaited', async () => {
    const statement = sql`INSERT INTO notes VALUES ('once')`
    await statement
    await statement
    await Promise.all([statement, statement.then(() => {}), statement.finally(() => {})])
    expect(await notes()).toEqual(['once'])
  })

  it('takes values as values and statements as parts, and reads int8 as bigint', async () => {
    const text = "'; DROP TABLE notes; --"
    const part = sql`${text}::text AS text`
    const rows = await sql`SELECT ${part}, ${9_007_199_254_740_993n}::int8 AS big, ${sql('notes')}.note FROM notes
      RIGHT JOIN (SELECT ${1}::int) AS one ON true`
    expect([...rows]).toEqual([{ text, big: 9_007_199_254_740_993n, note: null }])
  })
})

describe('a transaction', () => {
  it('is committed when its work returns, and rolled back when it throws', async () => {
    await sql.begin(async (sql) => sql`INSERT INTO notes VALUES ('kept')`)
    const failed = sql.begin(async (sql) => {
      await sql`INSERT INTO notes VALUES ('dropped')`
      throw new Error('changed my mind')
    })
    await expect(failed).rejects.toThrow('changed my mind')
    expect(await notes()).toEqual(['kept'])
  })

  it('is no success when one of its statements failed, though its work took no notice', async () => {
    const careless = sql.begin(async (sql) => {
      await sql`INSERT INTO notes VALUES ('lost')`
      await sql`SELECT 1 / 0`.catch(() => {})
    })
    expect(await errorOf(careless)).toBeInstanceOf(Error)
    expect(await notes()).toEqual([])
  })

  it('fails when its connection breaks, and the pool makes another', async () => {
    const broken = sql.begin(async (tx) => {
      const [session] = await tx<{ pid: number }[]>`SELECT pg_backend_pid() AS pid`
      await tx`INSERT INTO notes VALUES ('lost')`
      await sql`SELECT pg_terminate_backend(${session?.pid}, 5000)`
      await tx`INSERT INTO notes VALUES ('lost as well')`
    })
    expect(failureOf(await errorOf(broken))).toBe('unreachable')
    expect(await notes()).toEqual([])
  })
})

describe('a failure', () => {
  const statements = [
    ["DO $$ BEGIN RAISE EXCEPTION 'moved' USING ERRCODE = 'ZS001'; END $$", 'chain_moved'],
    ["DO $$ BEGIN RAISE EXCEPTION 'retry' USING ERRCODE = 'serialization_failure'; END $$", 'chain_moved'],
    ["DO $$ BEGIN RAISE EXCEPTION 'retry' USING ERRCODE = 'deadlock_detected'; END $$", 'chain_moved'],
    ["DO $$ BEGIN RAISE EXCEPTION 'full' USING ERRCODE = 'disk_full'; END $$", 'unreachable'],
    ["DO $$ BEGIN RAISE EXCEPTION 'crowded' USING ERRCODE = 'too_many_connections'; END $$", 'unreachable'],
    ["DO $$ BEGIN RAISE EXCEPTION 'locked' USING ERRCODE = 'lock_not_available'; END $$", 'unreachable'],
    ["DO $$ BEGIN RAISE EXCEPTION 'too long' USING ERRCODE = 'query_canceled'; END $$", 'unreachable'],
    ["DO $$ BEGIN RAISE EXCEPTION 'stopping' USING ERRCODE = 'admin_shutdown'; END $$", 'unreachable'],
    ["DO $$ BEGIN RAISE EXCEPTION 'standby' USING ERRCODE = 'read_only_sql_transaction'; END $$", 'unreachable'],
    ['SELECT pg_terminate_backend(pg_backend_pid())', 'unreachable'],
    ['SELECT 1 / 0', 'refused'],
    ["DO $$ BEGIN RAISE EXCEPTION 'crooked' USING ERRCODE = 'ZS002'; END $$", 'refused'],
    ['SELECT FROM no_such_table', 'refused'],
  ] as const
  it.each(statements)('of %s is %s', async (statement, failure) => {
    expect(failureOf(await errorOf(sql.unsafe(statement)))).toBe(failure)
  })

  it.each([
    ['nobody listens', (at: URL) => Object.assign(at, { port: '9' })],
    ['no such host is known', (at: URL) => Object.assign(at, { hostname: 'db.invalid' })],
  ])('to connect because %s is a lost connection', async (_, lead) => {
    const astray = connect(lead(new URL(url)).href, { max: 1 })
    const errors = [await errorOf(astray`SELECT 1`), await errorOf(astray.begin((sql) => sql`SELECT 1`))]
    for (const error of errors) {
      expect(error).toBeInstanceOf(ConnectionLost)
      expect(failureOf(error)).toBe('unreachable')
    }
    await astray.end()
  })

  it('to look up the name of a host for now is a lost connection', async () => {
    const error = Object.assign(new Error('getaddrinfo EAI_AGAIN db.example'), { code: 'EAI_AGAIN' })
    const lookup = vi
      .spyOn(dns, 'lookup')
      .mockImplementation(((_host: string, _options: object, answer: (e: Error) => void) =>
        answer(error)) as unknown as typeof dns.lookup)
    const astray = connect(Object.assign(new URL(url), { hostname: 'db.example' }).href, { max: 1 })
    expect(failureOf(await errorOf(astray`SELECT 1`))).toBe('unreachable')
    expect(lookup).toHaveBeenCalled()
    lookup.mockRestore()
    await astray.end()
  })

  it('of the program itself is refused, so that the request alone fails', () => {
    expect(failureOf(new TypeError('x is not a function'))).toBe('refused')
  })
})

describe('a pool', () => {
  /** What the server does for an application of that name. */
  const running = async (name: string) =>
    (await sql<{ state: string }[]>`SELECT state FROM pg_stat_activity WHERE application_name = ${name}`).map(
      ({ state }) => state,
    )
  const settingsOf = async (options: Partial<PoolOptions>) => {
    const pool = connect(url, { max: 1, role: null, ...options })
    const [row] = await pool`
      SELECT current_setting('statement_timeout') AS statement, current_setting('lock_timeout') AS lock`
    await pool.end()
    return row
  }

  it('that gave up waiting for an answer has the server end the statement soon after', async () => {
    const impatient = connect(url, { max: 1, role: null, name: 'impatient', answerMsMax: 1_000 })
    const asked = impatient`SELECT pg_sleep(600)`.catch((error: unknown) => error)
    while (!(await running('impatient')).includes('active')) await sleep(10)
    expect(failureOf(await asked)).toBe('unreachable')
    // The client has closed its side; the server looks at that only when the statement is over.
    while ((await running('impatient')).length > 0) await sleep(50)
    await impatient.end()
  })

  it('over which blocks are committed is never cut by the clock, whatever the database says, and gives up locks before the answer', async () => {
    const [database] = await sql<{ name: string }[]>`SELECT current_database() AS name`
    await sql.unsafe(`ALTER DATABASE ${database?.name} SET statement_timeout = '77ms'`)
    await sql.unsafe(`ALTER DATABASE ${database?.name} SET lock_timeout = '66ms'`)
    try {
      expect(await settingsOf({})).toEqual({ statement: '77ms', lock: '66ms' })
      expect(await settingsOf({ answerMsMax: 5_000 })).toEqual({ statement: '6s', lock: '66ms' })
      expect(await settingsOf({ answerMsMax: 10_000, postsBlocks: true })).toEqual({ statement: '0', lock: '8s' })
    } finally {
      await sql.unsafe(`ALTER DATABASE ${database?.name} RESET ALL`)
    }
  })

  it('that is shared is ended by whoever opened it', async () => {
    const shared = connectOrShare(sql, { max: 1 })
    await shared.end()
    expect([...(await shared`SELECT 1 AS one`)]).toEqual([{ one: 1 }])
    expect(
      await shared.begin(async (sql) => [...(await sql`SELECT ${sql('one')} FROM (SELECT 1 AS one) AS s`)]),
    ).toEqual([{ one: 1 }])
  })
})

describe('an array literal', () => {
  it('reads as what was put in', async () => {
    const texts = [
      '',
      'plain',
      '"quoted"',
      'back\\slash',
      '{curly, comma}',
      'NULL',
      "it's",
      'naïve 🙂',
      '{"json":"\\n"}',
    ]
    const [row] =
      await sql`SELECT ${arrayLiteral([...texts, null])}::text[] AS texts, ${arrayLiteral([])}::int[] AS none`
    expect(row).toEqual({ texts: [...texts, null], none: [] })
  })
})
