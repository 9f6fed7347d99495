import { readdir, readFile } from 'node:fs/promises'
import type { Sql, Tx } from './connect.ts'
import type { Tag } from './sql.ts'

const DIRECTORY = new URL('../../migrations/', import.meta.url)
/** Any number will do, as long as every node takes the same. */
const LOCK_KEY = 8_203_716

/** Versions of PostgreSQL that this is tested on. */
export const SERVER_VERSION_MIN = 15

/**
 * Brings a database to the newest schema: the numbered files of `migrations/` that it lacks, in order, in one transaction
 * under a lock, so that nodes starting together take turns and a failure leaves nothing half done.
 * @param sql a pool as the owner of the schema
 * @returns the names of the files that were applied now
 * @throws if the server is too old, or the database has migrations that this program doesn't know
 */
export async function migrate(sql: Sql): Promise<string[]> {
  const files = await migrationFiles()
  return await sql.begin(async (sql) => {
    const [server] = await sql<{ version: number }[]>`
      SELECT current_setting('server_version_num')::int / 10000 AS version`
    if (server && server.version < SERVER_VERSION_MIN) {
      throw new Error(`PostgreSQL ${server.version} is too old: Zerosum needs ${SERVER_VERSION_MIN} or newer`)
    }
    await sql`SELECT pg_advisory_xact_lock(${LOCK_KEY})`
    await sql`
      CREATE TABLE IF NOT EXISTS schema_migrations (
        name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())`
    const done = (await sql<{ name: string }[]>`SELECT name FROM schema_migrations`).map(({ name }) => name)
    const unknown = done.find((name) => !files.includes(name))
    if (unknown) throw new Error(`the database has migration ${unknown}, which this version lacks: run a newer Zerosum`)
    const missing = files.filter((file) => !done.includes(file))
    for (const file of missing) {
      await sql.unsafe(await readFile(new URL(file, DIRECTORY), 'utf8'))
      await sql`INSERT INTO schema_migrations (name) VALUES (${file})`
    }
    return missing
  })
}

/** Whether a database has a schema, and that is not the newest. Nothing is changed. */
export async function isBehind(sql: Tx): Promise<boolean> {
  const schema = await schemaOf(sql)
  return schema !== undefined && schema.missing.length > 0
}

/** The migrations that a database has, those that it lacks, and those that are of a newer version; `undefined` if it has no schema. */
export async function schemaOf(
  sql: Tag,
): Promise<{ done: string[]; missing: string[]; unknown: string[] } | undefined> {
  const [table] = await sql<{ name: string | null }[]>`SELECT to_regclass('schema_migrations') AS name`
  if (!table?.name) return undefined
  const done = (await sql<{ name: string }[]>`SELECT name FROM schema_migrations ORDER BY name`).map(({ name }) => name)
  const files = await migrationFiles()
  const missing = files.filter((file) => !done.includes(file))
  return { done, missing, unknown: done.filter((name) => !files.includes(name)) }
}

async function migrationFiles(): Promise<string[]> {
  return (await readdir(DIRECTORY)).filter((name) => /^\d{4}_.*\.sql$/.test(name)).sort()
}
