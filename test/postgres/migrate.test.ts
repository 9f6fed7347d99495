import { readdir, readFile } from 'node:fs/promises'
import { describe, expect, it } from 'vitest'
import { connect, type Sql } from '../../src/postgres/connect.ts'
import { migrate } from '../../src/postgres/migrate.ts'
import { emptyDatabase, migratedDatabase } from '../support/database.ts'
import { dumpSchema, SCHEMA_FILE } from '../support/dump-schema.ts'

const FILES = (await readdir(new URL('../../migrations/', import.meta.url)))
  .filter((name) => /^\d{4}_/.test(name))
  .sort()

async function withOwner<T>(url: string, work: (sql: Sql) => Promise<T>): Promise<T> {
  const sql = connect(url, { max: 1, role: null })
  try {
    return await work(sql)
  } finally {
    await sql.end()
  }
}

/** Migrates one database from many nodes at once, each with a connection that is open already. */
async function migrateAtOnce(urls: readonly string[]): Promise<string[][]> {
  const nodes = urls.map((url) => connect(url, { max: 1, role: null }))
  try {
    await Promise.all(nodes.map((sql) => sql`SELECT 1`))
    return await Promise.all(nodes.map((sql) => migrate(sql)))
  } finally {
    await Promise.all(nodes.map((sql) => sql.end()))
  }
}

describe('migrate', () => {
  it.each([2, 10])('applies each file once when %i nodes start at once on an empty database', async (count) => {
    const url = await emptyDatabase()
    const applied = await migrateAtOnce(Array.from({ length: count }, () => url))
    expect(applied.filter((files) => files.length > 0)).toEqual([FILES])
    const recorded = await withOwner(url, (sql) => sql`SELECT name FROM schema_migrations ORDER BY name`)
    expect(recorded.map(({ name }) => name)).toEqual(FILES)
  })

  it('brings up ten databases of one server at once, which share a role', async () => {
    const urls = await Promise.all(Array.from({ length: 10 }, () => emptyDatabase()))
    expect(await migrateAtOnce(urls)).toEqual(urls.map(() => FILES))
  })

  it('does nothing the second time', async () => {
    const url = await emptyDatabase()
    await withOwner(url, async (sql) => {
      expect(await migrate(sql)).toEqual(FILES)
      const before = await dumpSchema(sql)
      expect(await migrate(sql)).toEqual([])
      expect(await dumpSchema(sql)).toBe(before)
    })
  })

  it('names the migration of a newer version, and leaves the database alone', async () => {
    await withOwner(await migratedDatabase(), async (sql) => {
      await sql`INSERT INTO schema_migrations (name) VALUES ('9999_from_the_future.sql')`
      await sql`DELETE FROM schema_migrations WHERE name = ${FILES.at(-1) ?? ''}`
      await expect(migrate(sql)).rejects.toThrow(/migration 9999_from_the_future\.sql, which this version lacks/)
      const rows = await sql`SELECT name FROM schema_migrations ORDER BY name`
      expect(rows.map(({ name }) => name)).toEqual([...FILES.slice(0, -1), '9999_from_the_future.sql'])
    })
  })

  it('leaves nothing half done when a file fails', async () => {
    await withOwner(await emptyDatabase(), async (sql) => {
      // The name of a table that the first file wants to make, late in that file.
      await sql`CREATE TABLE holds (mine int)`
      await expect(migrate(sql)).rejects.toThrow(/"holds" already exists/)
      const tables =
        await sql`SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'`
      expect(tables.map(({ relname }) => relname)).toEqual(['holds'])
      await sql`DROP TABLE holds`
      expect(await migrate(sql)).toEqual(FILES)
    })
  })
})

describe('migrations/schema.sql', () => {
  it('is what the migrations come to (npm run schema:dump writes it)', async () => {
    const dump = await withOwner(await migratedDatabase(), dumpSchema)
    expect(dump).toBe(await readFile(SCHEMA_FILE, 'utf8'))
  })

  it.each([
    'DROP TRIGGER append_only ON entries',
    'ALTER TABLE entries DISABLE TRIGGER append_only',
    'ALTER TABLE entries DROP CONSTRAINT entries_amount_check',
    'ALTER TABLE requests ALTER COLUMN leaf DROP NOT NULL',
    'ALTER TABLE accounts ALTER COLUMN sequence SET DEFAULT 1',
    'ALTER TABLE accounts RESET (fillfactor)',
    'DROP INDEX holds_to_expire',
    'GRANT UPDATE (status) ON accounts TO zerosum_app',
    'GRANT EXECUTE ON FUNCTION open_block TO PUBLIC',
    'ALTER FUNCTION lock_head SECURITY INVOKER',
    "ALTER TYPE layer ADD VALUE 'promised'",
    'ALTER DOMAIN currency DROP CONSTRAINT currency_check',
  ])('shows a drift: %s', async (statement) => {
    await withOwner(await migratedDatabase(), async (sql) => {
      const before = await dumpSchema(sql)
      await sql.unsafe(statement)
      expect(await dumpSchema(sql)).not.toBe(before)
    })
  })

  it('is refused rather than written without a materialized view', async () => {
    await withOwner(await migratedDatabase(), async (sql) => {
      await sql`CREATE MATERIALIZED VIEW money AS SELECT 1 AS one`
      await expect(dumpSchema(sql)).rejects.toThrow(/can't describe money/)
    })
  })
})
