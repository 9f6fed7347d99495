import dns from 'node:dns'
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { arrayLiteral, ConnectionLost, connect, failureOf, type Sql } from '../../src/postgres/connect.ts'
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
