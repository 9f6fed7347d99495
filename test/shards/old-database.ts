import { readFile } from 'node:fs/promises'
import { connect } from '../../src/postgres/connect.ts'

/** All but the map. */
const MIGRATIONS = ['0001_ledger.sql', '0003_sagas.sql']

/** Brings a database to a schema without a shard map, as the version had it that knew one shard. */
export async function migrateAsBeforeMaps(url: string): Promise<void> {
  const sql = connect(url, { max: 1, role: null })
  try {
    await sql`CREATE TABLE schema_migrations (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())`
    for (const name of MIGRATIONS) {
      await sql.unsafe(await readFile(new URL(`../../migrations/${name}`, import.meta.url), 'utf8'))
      await sql`INSERT INTO schema_migrations (name) VALUES (${name})`
    }
    await sql`UPDATE chain_head SET shard = 0`
  } finally {
    await sql.end()
  }
}
