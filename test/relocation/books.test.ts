import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Verification, verifyAll } from '../../src/audit/verification.ts'
import { connect, type Sql, type Tx } from '../../src/postgres/connect.ts'
import { addShard, drainShard } from '../../src/relocation/command.ts'
import { type Hold, openApi } from '../support/api.ts'
import { emptyDatabase, migratedDatabase } from '../support/database.ts'

/** One shard, all of whose wallets have moved to a second one, with open holds and such as are over. */
let urls: [string, string]
let owners: [Sql, Sql]
let app: Sql

beforeAll(async () => {
  const url = await migratedDatabase()
  const before = await openApi({ url })
  const wallets: string[] = []
  for (let i = 0; i < 4; i++) wallets.push(await before.alpha.wallet(1_000))
  const [anna = '', ben = '', cleo = '', dan = ''] = wallets
  await before.alpha.pay(anna, ben, 10)
  await before.alpha.pay(ben, anna, 100_000)
  await before.alpha.hold(anna, cleo, 20)
  const { body } = await before.alpha.hold(cleo, dan, 30)
  await before.alpha.call<Hold>('POST', `/v1/holds/${body.id}/capture`, {})
  await before.close()
  const added = await emptyDatabase()
  const writer = 'mover'
  await addShard({ databases: { urls: [url] }, writer }, added)
  urls = [url, added]
  await drainShard({ databases: { urls }, writer }, 0, true)
  owners = [connect(url, { max: 1, role: null }), connect(added, { max: 1, role: null })]
  app = connect(added, { max: 1 })
})
afterAll(async () => {
  await Promise.all([...(owners ?? []), app].map((sql) => sql?.end()))
})

async function answerTo(work: Promise<unknown>): Promise<string> {
  try {
    await work
    return 'accepted'
  } catch (error) {
    if (error instanceof pg.DatabaseError) return `${error.code} ${error.message}`
    throw error
  }
}

/** What the audit says when books were changed behind the program's back; they are as before afterwards. */
async function verdictOn(shard: 0 | 1, change: (sql: Tx) => Promise<unknown>): Promise<string> {
  const sql = owners[shard]
  const tables = [
    'moved_requests',
    'moved_entries',
    'arrivals',
    'shard_map',
    'map_change',
    'chain_head',
    'accounts',
    'wallets',
    'holds',
  ]
  const unguarded = (work: (sql: Tx) => Promise<unknown>) =>
    sql.begin(async (sql) => {
      await sql`SET LOCAL session_replication_role = replica`
      await work(sql)
    })
  await unguarded(async (sql) => {
    for (const table of tables) await sql.unsafe(`CREATE TABLE kept_${table} AS SELECT * FROM ${table}`)
    await change(sql)
  })
  const verification = await verifyAll(urls)
  await unguarded(async (sql) => {
    for (const table of tables.toReversed()) await sql.unsafe(`DELETE FROM ${table}`)
    for (const table of tables) {
      await sql.unsafe(`INSERT INTO ${table} SELECT * FROM kept_${table}`)
      await sql.unsafe(`DROP TABLE kept_${table}`)
    }
  })
  return problemOf(verification)
}

function problemOf({ shards, transit, copies }: Verification): string {
  const first = shards.find(({ discrepancy }) => discrepancy)?.discrepancy
  return (first ?? transit.discrepancy ?? copies?.discrepancy)?.problem ?? 'in order'
}

describe('the audit', () => {
  test('finds books in order that have moved', async () => {
    expect(problemOf(await verifyAll(urls))).toBe('in order')
    expect(await verdictOn(1, async () => {})).toBe('in order')
  })

  test.each<[string, 0 | 1, string, RegExp]>([
    [
      'a copied payload',
      1,
      `UPDATE moved_requests SET payload = '{"legs":[]}' WHERE kind = 'transfer' AND refusal IS NULL`,
      /copy of request/,
    ],
    ['a copied refusal', 1, `UPDATE moved_requests SET refusal = NULL WHERE refusal IS NOT NULL`, /copy of request/],
    ['a copied entry', 1, "UPDATE moved_entries SET amount = amount + 1 WHERE layer = 'posted'", /copy of request/],
    ['a copied entry that is gone', 1, `DELETE FROM moved_entries WHERE account_name = 'wallet'`, /copy of request/],
    [
      'copied requests that are gone with their entries',
      1,
      `WITH gone AS (DELETE FROM moved_requests WHERE kind = 'top-up' RETURNING shard, block, item)
       DELETE FROM moved_entries e USING gone g WHERE (e.shard, e.block, e.item) = (g.shard, g.block, g.item)`,
      /copies of those that it came with are missing/,
    ],
    ['the number of an arrival', 1, 'UPDATE arrivals SET sequence = sequence + 1', /noted of the arrival/],
    ['an arrival that is gone', 1, 'DELETE FROM arrivals', /noted of the arrival/],
    ['the sequence of a wallet', 1, `UPDATE accounts SET sequence = sequence + 1 WHERE kind = 'wallet'`, /sequence is/],
    [
      'a map',
      1,
      'UPDATE shard_map SET slots = array_fill(0, ARRAY[4096])::int2[] WHERE epoch = (SELECT max(epoch) FROM shard_map)',
      /shard map of epoch/,
    ],
    [
      'a map that nobody asked for',
      0,
      'INSERT INTO shard_map SELECT epoch + 1, shard_count, slots, created_us, drained FROM shard_map ORDER BY epoch DESC LIMIT 1',
      /shard map of epoch/,
    ],
    ['the block that changed the layout', 0, 'UPDATE chain_head SET layout_block = layout_block - 1', /layout_block/],
    [
      'a change that is not under way',
      0,
      `INSERT INTO map_change (id, phase, change, since_us) VALUES (gen_random_uuid(), 'closed', '{"slots":[]}', 0)`,
      /of the change of the map/,
    ],
    ['a hold that came', 1, `UPDATE holds SET amount = amount + 1 WHERE status = 'held'`, /row of the hold/],
    [
      'a hold that came when it was over',
      1,
      `UPDATE holds SET captured = captured - 1 WHERE status = 'captured'`,
      /row of the hold/,
    ],
    ['a hold that went', 0, `UPDATE holds SET status = 'held' WHERE status = 'moved'`, /row of the hold/],
    ['the name of a wallet that came', 1, `UPDATE wallets SET holder_id = 'me'`, /row of the wallet/],
  ])('finds %s', async (_, shard, statement, problem) => {
    expect(await verdictOn(shard, (sql) => sql.unsafe(statement))).toMatch(problem)
  })
})

describe('the database refuses, whoever asks,', () => {
  const anyWallet = "SELECT id FROM accounts WHERE kind = 'wallet' LIMIT 1"

  test.each([
    [`INSERT INTO map_change (id, phase, change, since_us) VALUES (gen_random_uuid(), 'closed', '{}', 0)`, /^ZS003 /],
    [`INSERT INTO arrivals (block, item, account_id, sequence) SELECT 1, 0, (${anyWallet}), 9`, /^ZS002 /],
    ['UPDATE arrivals SET sequence = sequence + 1', /^ZS003 /],
    ['DELETE FROM moved_requests', /^(ZS003|23503) /],
    ['UPDATE moved_entries SET amount = 1', /^ZS003 /],
    ['UPDATE chain_head SET layout_block = 0', /^ZS003 /],
    [`UPDATE accounts SET sequence = 99 WHERE id = (${anyWallet})`, /^ZS003 /],
  ])('%s', async (statement, answer) => {
    expect(await answerTo(owners[1].unsafe(statement))).toMatch(answer)
  })

  test('copies for slots that are here already', async () => {
    const copy = (slot: number) => app`SELECT copy_history(0, ARRAY[${slot}]::int[], NULL, '[]', '[]')`
    const [map] = await app<{ here: number[] }[]>`
      SELECT ARRAY(SELECT (n - 1)::int FROM unnest(slots) WITH ORDINALITY AS s (shard, n) WHERE shard = 1) AS here
      FROM shard_map ORDER BY epoch DESC LIMIT 1`
    expect(map?.here).toHaveLength(4096)
    expect(await answerTo(copy(map?.here[0] ?? 0))).toMatch(/^ZS003 /)
  })

  test('the application to write any of it past its doors', async () => {
    for (const table of ['map_change', 'arrivals', 'moved_requests', 'moved_entries', 'moved_history']) {
      expect(await answerTo(app.unsafe(`DELETE FROM ${table}`)), table).toMatch(/^42501 /)
      expect(await answerTo(app.unsafe(`INSERT INTO ${table} SELECT * FROM ${table}`)), table).toMatch(/^42501 /)
    }
    expect(await answerTo(app`SELECT apply_map_steps(1, 1)`)).toMatch(/^42501 /)
  })
})
