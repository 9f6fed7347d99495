import { readFile } from 'node:fs/promises'
import { connect } from '../../src/postgres/connect.ts'

const FIRST = '0001_ledger.sql'

/** Brings a database to the schema of the version that had one shard and no shard map, as that version did. */
export async function migrateAsBeforeMaps(url: string): Promise<void> {
  const sql = connect(url, { max: 1, role: null })
  try {
    await sql`CREATE TABLE schema_migrations (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())`
    await sql.unsafe(await readFile(new URL(`../../migrations/${FIRST}`, import.meta.url), 'utf8'))
    await sql`INSERT INTO schema_migrations (name) VALUES (${FIRST})`
    await sql`UPDATE chain_head SET shard = 0`
  } finally {
    await sql.end()
  }
}
