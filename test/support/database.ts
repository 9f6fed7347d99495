import { randomBytes } from 'node:crypto'
import { inject } from 'vitest'
import { connect } from '../../src/postgres/connect.ts'
import { writeStored } from '../../src/shards/storedMap.ts'

/** An empty database of its own on the tests' server; its URL logs in as a superuser. */
export async function emptyDatabase(): Promise<string> {
  return await copyOf('template1')
}

/** A database with the schema of a shard, and nothing in it. */
export async function migratedDatabase(): Promise<string> {
  return await copyOf(inject('migratedTemplate'))
}

async function copyOf(template: string): Promise<string> {
  const admin = inject('postgresUrl')
  const name = `test_${randomBytes(6).toString('hex')}`
  const sql = connect(admin, { max: 1, role: null })
  await sql`CREATE DATABASE ${sql(name)} TEMPLATE ${sql(template)}`
  await sql.end()
  const url = new URL(admin)
  url.pathname = `/${name}`
  return url.href
}

/** Makes a database shard 0 of an installation with this map. @param shards the shard of each slot */
export async function storeMap(url: string, shards: readonly number[]): Promise<void> {
  const sql = connect(url, { max: 1, role: null })
  await writeStored(sql, 0, { epoch: 1, shardCount: Math.max(...shards) + 1, shards, drained: [], createdUs: 1n })
  await sql.end()
}
