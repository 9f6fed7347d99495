import { readFile } from 'node:fs/promises'
import { sealBlock } from '../../src/core/block.ts'
import { post } from '../../src/core/post.ts'
import { requestOf } from '../../src/core/request.ts'
import { appendBlock } from '../../src/ledger/sql/appendBlock.ts'
import { readHead } from '../../src/ledger/sql/chainHead.ts'
import { connect } from '../../src/postgres/connect.ts'
import { newId } from '../../src/shards/newId.ts'
import { MemoryState } from '../core/memory-state.ts'
import { TENANT } from '../support/ledger.ts'

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

/** Opens wallets with 5 in each, in a first block like those that version wrote; their ids. */
export async function openOldWallets(url: string, count: number): Promise<string[]> {
  const ids = Array.from({ length: count }, (_, i) => newId(i * 700))
  const requests = ids.flatMap((id, i) => [
    requestOf(id, TENANT, 'open', {
      ...{ kind: 'wallet-open', holderId: `holder ${i}`, currency: 'USD', overdraftLimit: 0n, limits: {} },
    }),
    requestOf(newId(i * 700), TENANT, 'fund', { kind: 'top-up', walletId: id, amount: 5n, currency: 'USD' }),
  ])
  const sql = connect(url, { max: 1 })
  try {
    const timeUs = Date.now() * 1000
    const { decisions, changes } = post(new MemoryState(), requests, { nowUs: timeUs, shard: 0, shardOf: () => 0 })
    const block = sealBlock(await readHead(sql), decisions, { shard: 0, writer: 'an old version', timeUs })
    await appendBlock(sql, block, changes)
  } finally {
    await sql.end()
  }
  return ids
}
