import { randomBytes } from 'node:crypto'
import { beforeAll, describe, expect, inject, test } from 'vitest'
import { systemAccountId } from '../../src/core/account.ts'
import { canonicalItem, GENESIS_HASH, headerHash } from '../../src/core/block.ts'
import { digestUuid, formatId } from '../../src/core/ids.ts'
import { leafHash, merkleRoot } from '../../src/core/merkle.ts'
import type { Refusal } from '../../src/core/refusal.ts'
import type { Kind, Operation } from '../../src/core/request.ts'
import type { Layer } from '../../src/core/workspace.ts'
import { type Discrepancy, type ShardReport, verifyShard } from '../../src/ledger/auditor.ts'
import { connect, type Tx } from '../../src/postgres/connect.ts'
import { migratedDatabase } from '../support/database.ts'
import { holdOf, legsOf, openLedger, TENANT, transferOf } from '../support/ledger.ts'

const SHARD = 0
const NOBODY = digestUuid('nobody')
const CASH = systemAccountId({ tenantId: TENANT, shard: SHARD, kind: 'cash', currency: 'USD' })

/** Where a request stands. */
type Place = { id: string; block: number; item: number }

/** Books of a little of everything, on a database of their own. It is never changed, only copied. */
type Books = {
  url: string
  wallets: Record<'anna' | 'ben' | 'cleo' | 'dan' | 'idle', string>
  /** What was asked, by the names in `keepBooks`. */
  asked: ReadonlyMap<string, Place>
  lastBlock: number
  requestCount: number
}

let books: Books

beforeAll(async () => {
  books = await keepBooks(await migratedDatabase())
})

async function keepBooks(url: string): Promise<Books> {
  const ledger = openLedger(url)
  const ids = new Map<string, string>()
  const say = async (name: string, operation: Operation): Promise<string> => {
    const { record } = await ledger.ask(operation)
    expect(record.refusal === null, `${name}: ${record.refusal}`).toBe(!name.startsWith('refused'))
    ids.set(name, record.id)
    return record.id
  }
  const pay = (from: string, to: string, amount: bigint, memo: string): Operation => ({
    kind: 'transfer',
    legs: [{ from, to, amount, currency: 'USD' }],
    remarks: { memo },
  })

  const [anna, ben, cleo, idle] = [
    await ledger.wallet(),
    await ledger.wallet(),
    await ledger.wallet(),
    await ledger.wallet(),
  ]
  const metadata = { tier: 'gold', branch: 'north' }
  const dan = await say('open dan', {
    ...{ kind: 'wallet-open', holderId: 'dan', currency: 'USD', overdraftLimit: 500n, limits: { balanceMax: 9_000n } },
    ...{ name: 'Dan', metadata },
  })
  await say('fund anna', { kind: 'top-up', walletId: anna, amount: 10_000n, currency: 'USD' })
  await say('paid', transferOf(anna, ben, 100n))
  await say(
    'split',
    legsOf({ from: anna, to: ben, amount: 10n, currency: 'USD' }, { from: ben, to: cleo, amount: 5n, currency: 'USD' }),
  )
  await say('overdrawn', transferOf(dan, anna, 450n))
  await say('repaid', transferOf(anna, dan, 400n))
  await say('rent', pay(anna, ben, 20n, 'rent'))
  await say('refused', transferOf(cleo, anna, 999_999n))
  await say('withdrawn', { kind: 'withdrawal', walletId: anna, amount: 50n, currency: 'USD' })
  await say('reversed', { kind: 'reversal', transferId: ids.get('paid') ?? '', amount: 40n })
  await say('limited', { kind: 'wallet-update', walletId: ben, limits: { transferMax: 400n } })
  await say('frozen', { kind: 'wallet-update', walletId: cleo, status: 'frozen' })
  await say('refused as frozen', transferOf(anna, cleo, 1n))
  await say('thawed', { kind: 'wallet-update', walletId: cleo, status: 'active', name: 'Cleo', metadata })

  const batch = ['batch 0', 'batch 1', 'batch 2', 'batch 3', 'batch 4']
  await Promise.all(batch.map((name, i) => say(name, pay(anna, i % 2 ? ben : cleo, BigInt(i + 1), name))))

  await say('open hold', holdOf(anna, ben, 30n))
  const whole = await say('hold to capture', holdOf(anna, ben, 60n))
  await say('captured', { kind: 'capture', holdId: whole })
  const part = await say('hold to capture in part', holdOf(anna, ben, 60n))
  await say('captured in part', { kind: 'capture', holdId: part, amount: 25n })
  const ended = await say('hold to release', holdOf(anna, cleo, 70n))
  await say('released', { kind: 'release', holdId: ended })
  await say('refused release', { kind: 'release', holdId: ended })
  const lapsed = await say('hold to expire', holdOf(anna, cleo, 80n, 0))
  await say('expired', { kind: 'expiry', holdId: lapsed })
  await say('last', transferOf(anna, ben, 7n))
  await ledger.close()

  for (const [name, id] of Object.entries({ anna, ben, cleo, idle })) ids.set(`open ${name}`, id)
  const sql = connect(url, { max: 1 })
  const rows = await sql<{ id: string; block: bigint; item: number }[]>`SELECT id, block, item FROM requests`
  await sql.end()
  const places = new Map(rows.map(({ id, block, item }) => [id, { id, block: Number(block), item }]))
  const asked = new Map([...ids].map(([name, id]) => [name, places.get(id) ?? { id, block: 0, item: 0 }]))
  expect(new Set(batch.map((name) => asked.get(name)?.block)).size, 'the batch is one block').toBe(1)
  const lastBlock = Math.max(...[...places.values()].map(({ block }) => block))
  return { url, wallets: { anna, ben, cleo, dan, idle }, asked, lastBlock, requestCount: rows.length }
}

function at(name: string): Place {
  const place = books.asked.get(name)
  if (!place) throw new Error(`nobody asked ${name}`)
  return place
}

/** A copy of books, changed as only a superuser can who turns the triggers off. */
async function changedCopy(change: (sql: Tx) => Promise<unknown>, original = books.url): Promise<string> {
  const url = new URL(original)
  const name = `test_${randomBytes(6).toString('hex')}`
  const admin = connect(inject('postgresUrl'), { max: 1, role: null })
  await admin`CREATE DATABASE ${admin(name)} TEMPLATE ${admin(url.pathname.slice(1))}`
  await admin.end()
  url.pathname = `/${name}`
  await tamper(url.href, change)
  return url.href
}

async function tamper(url: string, change: (sql: Tx) => Promise<unknown>): Promise<void> {
  const owner = connect(url, { max: 1, role: null })
  await owner.begin(async (sql) => {
    await sql.unsafe('SET LOCAL session_replication_role = replica')
    await change(sql)
  })
  await owner.end()
}

async function verify(url: string, shard = SHARD): Promise<ShardReport> {
  const sql = connect(url, { max: 1 })
  try {
    return await verifyShard(sql, shard)
  } finally {
    await sql.end()
  }
}

/** What the auditor is to name; `null` is unknowable. */
type Named = { at: Place | { block: number | null; id: null }; account: string | null; problem: RegExp }

async function expectFound(change: (sql: Tx) => Promise<unknown>, named: Named): Promise<void> {
  const report = await verify(await changedCopy(change))
  expect(report.discrepancy?.problem).toMatch(named.problem)
  expect({ balanced: report.balanced, ...report.discrepancy }).toMatchObject({
    balanced: false,
    shard: SHARD,
    block: named.at.block,
    transaction: named.at.id === null ? null : formatId('txn', named.at.id),
    account: named.account,
  } satisfies Partial<Discrepancy> & { balanced: boolean })
}

const onlyBlock = (block: number | null) => ({ block, id: null })
const wal = (name: keyof Books['wallets']) => formatId('wal', books.wallets[name])

// What a forger can do who knows the canonical forms: make the hashes agree with what was changed.

type ItemRow = {
  item: number
  id: string
  tenant_id: string
  scope: string
  key: string
  kind: Kind
  payload: string
  refusal: Refusal | null
  result: string | null
}
type EntryRow = {
  item: number
  account_id: string
  sequence: bigint
  currency: string
  layer: Layer
  amount: bigint
  posted: bigint
  pending_out: bigint
  pending_in: bigint
}

/** Writes the leaf hashes of a block anew; returns them, and how many entries there are. */
async function forgeLeaves(sql: Tx, block: number): Promise<{ leaves: Buffer[]; entryCount: number }> {
  const items = await sql<ItemRow[]>`
    SELECT item, id, tenant_id, scope, key, kind, payload::text, refusal, result::text
    FROM requests WHERE block = ${block} ORDER BY item`
  const lines = await sql<EntryRow[]>`SELECT * FROM entries WHERE block = ${block} ORDER BY item, line`
  const leaves: Buffer[] = []
  for (const { tenant_id, ...item } of items) {
    const entries = lines
      .filter((line) => line.item === item.item)
      .map((line) => ({
        ...line,
        accountId: line.account_id,
        sequence: Number(line.sequence),
        pendingOut: line.pending_out,
        pendingIn: line.pending_in,
      }))
    const leaf = leafHash(canonicalItem({ ...item, tenantId: tenant_id, entries }))
    await sql`UPDATE requests SET leaf = ${leaf} WHERE block = ${block} AND item = ${item.item}`
    leaves.push(leaf)
  }
  return { leaves, entryCount: lines.length }
}

/** Writes all hashes of a block anew, so that it agrees with itself but for what is `said` of it; returns its hash. */
async function forgeBlock(
  sql: Tx,
  block: number,
  said: { previous?: Buffer; entryCount?: number } = {},
): Promise<Buffer> {
  const { leaves, ...counted } = await forgeLeaves(sql, block)
  const entryCount = said.entryCount ?? counted.entryCount
  const [row] = await sql<{ previous_hash: Buffer; time_us: bigint; writer: string }[]>`
    SELECT previous_hash, time_us, writer FROM blocks WHERE number = ${block}`
  if (!row) throw new Error(`no block ${block}`)
  const header = {
    ...{ shard: SHARD, number: block, previousHash: said.previous ?? row.previous_hash, root: merkleRoot(leaves) },
    ...{ timeUs: Number(row.time_us), writer: row.writer, requestCount: leaves.length, entryCount },
  }
  const hash = headerHash(header)
  await sql`
    UPDATE blocks SET previous_hash = ${header.previousHash}, root = ${header.root}, hash = ${hash},
      request_count = ${header.requestCount}, entry_count = ${entryCount} WHERE number = ${block}`
  return hash
}

/** Writes every hash of the chain anew, and the head's. */
async function forgeChain(sql: Tx): Promise<void> {
  let previous: Buffer = GENESIS_HASH
  for (let block = 1; block <= books.lastBlock; block++) previous = await forgeBlock(sql, block, { previous })
  await sql`UPDATE chain_head SET hash = ${previous}`
}

describe('books that nobody tampered with', () => {
  test('are balanced, and everything was looked at', async () => {
    const progress: [number, number][] = []
    const sql = connect(books.url, { max: 1 })
    const [counted] = await sql<{ entries: bigint; accounts: bigint; hash: string }[]>`
      SELECT (SELECT count(*) FROM entries) AS entries, (SELECT count(*) FROM accounts) AS accounts,
             (SELECT encode(hash, 'hex') FROM chain_head) AS hash`
    const report = await verifyShard(sql, SHARD, (done, total) => progress.push([done, total]))
    await sql.end()
    expect(report).toEqual({
      shard: SHARD,
      blocks: books.lastBlock,
      requests: books.requestCount,
      entries: Number(counted?.entries),
      accounts: Number(counted?.accounts),
      head: { number: books.lastBlock, hash: counted?.hash, timeUs: expect.any(Number) },
      balanced: true,
      discrepancy: null,
    })
    expect(progress.at(-1)).toEqual([books.lastBlock, books.lastBlock])
  })

  test('are balanced when there is nothing in them', async () => {
    expect(await verify(await migratedDatabase())).toEqual({
      ...{ shard: SHARD, blocks: 0, requests: 0, entries: 0, accounts: 0 },
      head: { number: 0, hash: '00'.repeat(32), timeUs: 0 },
      balanced: true,
      discrepancy: null,
    })
  })

  test('are balanced at every moment while they are written to, and writing goes on', async () => {
    const url = await migratedDatabase()
    const ledger = openLedger(url)
    const [from, to] = [await ledger.wallet(1_000_000n), await ledger.wallet()]
    let isOver = false
    const writing = (async () => {
      while (!isOver) {
        await Promise.all([
          ...Array.from({ length: 50 }, () => ledger.ask(transferOf(from, to, 1n))),
          ledger.ask(holdOf(from, to, 2n)).then(({ record }) => ledger.ask({ kind: 'capture', holdId: record.id })),
          ledger.ask({ kind: 'wallet-update', walletId: to, limits: { transferMax: 5n } }),
        ])
      }
    })()
    const reports: ShardReport[] = []
    while (reports.length < 10) reports.push(await verify(url))
    isOver = true
    await writing
    await ledger.close()
    expect(reports.map(({ discrepancy }) => discrepancy)).toEqual(reports.map(() => null))
    const blocks = reports.map((report) => report.blocks)
    expect(blocks).toEqual(blocks.toSorted((a, b) => a - b))
    expect(blocks.at(-1)).toBeGreaterThan(blocks[0] ?? 0)
  })

  test('read as the shard that they are', async () => {
    const { discrepancy } = await verify(books.url, 1)
    expect(discrepancy).toMatchObject({ shard: 1, block: 1, transaction: null, account: null })
  })
})

describe('an entry', () => {
  test('whose amount was changed is named', async () => {
    const { block, item } = at('paid')
    await expectFound(
      (sql) => sql`UPDATE entries SET amount = amount + 1 WHERE block = ${block} AND item = ${item} AND line = 1`,
      {
        at: at('paid'),
        account: wal('ben'),
        problem: /is 101 USD .* asked for is 100 USD .*; its entries sum to 1 USD posted, not to zero/,
      },
    )
  })

  test('whose amount and balance were changed together is named', async () => {
    const { block, item } = at('paid')
    await expectFound(
      (sql) => sql`
        UPDATE entries SET amount = amount + 1, posted = posted + 1
        WHERE block = ${block} AND item = ${item} AND line = 1`,
      { at: at('paid'), account: wal('ben'), problem: /entry 1 of the transfer is 101 USD/ },
    )
  })

  test('whose balance alone was changed is named', async () => {
    const { block, item } = at('last')
    await expectFound(
      (sql) => sql`UPDATE entries SET posted = posted - 1 WHERE block = ${block} AND item = ${item} AND line = 0`,
      { at: at('last'), account: wal('anna'), problem: /entry 0 of the transfer leaves posted .* but -7 posted after/ },
    )
  })

  test('that was changed together with its counterpart is named, though the sum is zero', async () => {
    const { block, item } = at('paid')
    await expectFound(
      (sql) => sql`
        UPDATE entries SET amount = amount + sign(amount)::int8, posted = posted + sign(amount)::int8
        WHERE block = ${block} AND item = ${item}`,
      { at: at('paid'), account: wal('anna'), problem: /entry 0 of the transfer is -101 USD (?!.*sum to)/ },
    )
  })

  test('of pending money on the wrong side is named', async () => {
    const { block, item } = at('open hold')
    await expectFound(
      async (sql) => {
        await sql`
          UPDATE entries SET pending_in = pending_out, pending_out = pending_in
          WHERE block = ${block} AND item = ${item} AND line = 0`
        await forgeChain(sql)
      },
      { at: at('open hold'), account: wal('anna'), problem: /leaves .*pending out 0, pending in 30, but -30 pending/ },
    )
  })

  test('of the system is named by what it is for', async () => {
    const { block, item } = at('fund anna')
    await expectFound(
      (sql) => sql`UPDATE entries SET amount = amount - 1 WHERE block = ${block} AND item = ${item} AND line = 0`,
      { at: at('fund anna'), account: `cash USD (${CASH})`, problem: /entry 0 of the top-up is -10001 USD/ },
    )
  })

  test('that was moved to another account is named by the account it is on', async () => {
    const { block, item } = at('last')
    const { idle } = books.wallets
    await expectFound(
      async (sql) => {
        await sql`
          UPDATE entries SET account_id = ${idle}, sequence = 1, posted = 7, pending_in = 0
          WHERE block = ${block} AND item = ${item} AND line = 1`
        await forgeChain(sql)
      },
      { at: at('last'), account: wal('idle'), problem: /entry 1 of the transfer is .* but what is asked for is/ },
    )
  })

  test.each([
    [0, 'anna'],
    [1, 'ben'],
  ] as const)('that was deleted is named (line %i)', async (line, account) => {
    const { block, item } = at('paid')
    await expectFound((sql) => sql`DELETE FROM entries WHERE block = ${block} AND item = ${item} AND line = ${line}`, {
      at: at('paid'),
      account: wal(account),
      problem: new RegExp(`entry ${line} of the transfer is missing`),
    })
  })

  test('that was added to a transaction is named', async () => {
    const { block, item } = at('paid')
    await expectFound(
      (sql) => sql`
        INSERT INTO entries SELECT account_id, sequence + 1, ${block}, ${item}, 2, currency, layer, 5, posted + 5, 0, 0
        FROM entries WHERE account_id = ${books.wallets.cleo} ORDER BY sequence DESC LIMIT 1`,
      { at: at('paid'), account: wal('cleo'), problem: /asks for 2 entries, but there is one more, 5 USD/ },
    )
  })

  test.each([7, -1])('of a request that is not there is named by its account (request %i)', async (item) => {
    const { block } = at('rent')
    await expectFound(
      (sql) => sql`
        INSERT INTO entries VALUES (${books.wallets.idle}, 1, ${block}, ${item}, 0, 'USD', 'posted', 5, 5, 0, 0)`,
      {
        at: onlyBlock(block),
        account: wal('idle'),
        problem: /entry 0 of request -?\d is there, but block \d+ has no such/,
      },
    )
  })

  test('in a block that is not there is named by its account', async () => {
    await expectFound(
      (sql) => sql`
        INSERT INTO entries VALUES (${books.wallets.idle}, 1, ${books.lastBlock + 9}, 0, 0, 'USD', 'posted', 5, 5, 0, 0)`,
      {
        at: onlyBlock(books.lastBlock + 9),
        account: wal('idle'),
        problem: /an entry stands in block \d+, which is not/,
      },
    )
  })

  test('that leaves less than the floor is named, even if every hash was forged', async () => {
    const { dan } = books.wallets
    await expectFound(
      async (sql) => {
        await sql`
          UPDATE requests SET payload = replace(payload::text, '"overdraftLimit":"500"', '"overdraftLimit":"100"')::json
          WHERE id = ${dan}`
        await sql`UPDATE accounts SET overdraft_limit = 100 WHERE id = ${dan}`
        await forgeChain(sql)
      },
      { at: at('overdrawn'), account: wal('dan'), problem: /leaves -450 available, below the floor of -100/ },
    )
  })
})

describe('a request', () => {
  test('that was deleted is missed; its id is gone with it, its entries name an account', async () => {
    const { id, block } = at('split')
    await expectFound((sql) => sql`DELETE FROM requests WHERE id = ${id}`, {
      ...{ at: onlyBlock(block), account: wal('anna'), problem: /request 0 of block \d+ is missing/ },
    })
  })

  test('without entries that was deleted is missed', async () => {
    const { id, block } = at('refused')
    await expectFound((sql) => sql`DELETE FROM requests WHERE id = ${id}`, {
      ...{ at: onlyBlock(block), account: null, problem: /request 0 of block \d+ is missing; its header counts 1/ },
    })
  })

  test('in the middle of a block that was deleted with its entries is missed; nothing is left of what it was', async () => {
    const { block, item } = at('batch 2')
    await expectFound(
      async (sql) => {
        await sql`DELETE FROM requests WHERE block = ${block} AND item = ${item}`
        await sql`DELETE FROM entries WHERE block = ${block} AND item = ${item}`
      },
      { at: onlyBlock(block), account: null, problem: /request 2 of block \d+ is missing; its header counts 5/ },
    )
  })

  test('whose memo was changed is named; no account is wrong', async () => {
    const { id } = at('rent')
    await expectFound(
      (sql) => sql`UPDATE requests SET payload = replace(payload::text, 'rent', 'food')::json WHERE id = ${id}`,
      { at: at('rent'), account: null, problem: /the transfer, its entries or the hash beside it were changed/ },
    )
  })

  test('whose amount was changed is named, with the account that it does not agree with', async () => {
    const { id } = at('rent')
    await expectFound(
      (sql) => sql`UPDATE requests SET payload = replace(payload::text, '"20"', '"2000"')::json WHERE id = ${id}`,
      { at: at('rent'), account: wal('anna'), problem: /is -20 USD .* asked for is -2000 USD/ },
    )
  })

  test('whose payload is something else altogether is named', async () => {
    const { id } = at('rent')
    await expectFound((sql) => sql`UPDATE requests SET payload = '{"legs":[{"amount":"much"}]}' WHERE id = ${id}`, {
      ...{ at: at('rent'), account: wal('anna'), problem: /what is stored is not an accepted transfer/ },
    })
  })

  test('changed with its leaf hash is named if it is alone in its block', async () => {
    const { id, block } = at('rent')
    await expectFound(
      async (sql) => {
        await sql`UPDATE requests SET payload = replace(payload::text, 'rent', 'food')::json WHERE id = ${id}`
        await forgeLeaves(sql, block)
      },
      { at: at('rent'), account: null, problem: /the Merkle root of block \d+ is/ },
    )
  })

  test('changed with its leaf hash is one of its block; the root does not tell which', async () => {
    const { id, block } = at('batch 3')
    await expectFound(
      async (sql) => {
        await sql`UPDATE requests SET payload = replace(payload::text, 'batch 3', 'batch 9')::json WHERE id = ${id}`
        await forgeLeaves(sql, block)
      },
      { at: onlyBlock(block), account: null, problem: /the Merkle root of block \d+ is/ },
    )
  })

  test('in a batch whose memo was changed is told from the others', async () => {
    const { id } = at('batch 3')
    await expectFound(
      (sql) => sql`UPDATE requests SET payload = replace(payload::text, 'batch 3', 'batch 9')::json WHERE id = ${id}`,
      { at: at('batch 3'), account: null, problem: /the transfer, its entries or the hash beside it were changed/ },
    )
  })

  test('that was refused and now is not lacks its entries', async () => {
    const { id } = at('refused')
    await expectFound((sql) => sql`UPDATE requests SET refusal = NULL WHERE id = ${id}`, {
      ...{ at: at('refused'), account: wal('cleo'), problem: /entry 0 of the transfer is missing: -999999 USD posted/ },
    })
  })

  test('that was accepted and now is not has entries', async () => {
    const { id } = at('paid')
    await expectFound((sql) => sql`UPDATE requests SET refusal = 'wallet_frozen' WHERE id = ${id}`, {
      ...{ at: at('paid'), account: wal('anna'), problem: /was refused, wallet_frozen, but it has entries/ },
    })
  })

  test('whose target was changed is named, though no hash covers it', async () => {
    const { id } = at('reversed')
    await expectFound((sql) => sql`UPDATE requests SET target = ${NOBODY} WHERE id = ${id}`, {
      ...{ at: at('reversed'), account: null, problem: /the target of the reversal is .* but it asks for/ },
    })
  })

  test('in a block that is not there is named', async () => {
    const block = books.lastBlock + 9
    await expectFound(
      (sql) => sql`
        INSERT INTO requests SELECT ${block}, 0, ${NOBODY}, tenant_id, scope, 'other', kind, target, payload, refusal,
          result, leaf FROM requests WHERE id = ${at('rent').id}`,
      {
        at: { id: NOBODY, block, item: 0 },
        account: null,
        problem: /a request stands in block \d+, which is not there/,
      },
    )
  })

  test('to update a wallet that is recorded under another is named, even if every hash was forged', async () => {
    const { id } = at('limited')
    await expectFound(
      async (sql) => {
        await sql`UPDATE requests SET scope = ${NOBODY} WHERE id = ${id}`
        await forgeChain(sql)
      },
      { at: at('limited'), account: wal('ben'), problem: /the scope of the wallet-update is .* but it asks for/ },
    )
  })

  test('that reversed something else than it asks for is named, even if every hash was forged', async () => {
    const { id } = at('reversed')
    await expectFound(
      async (sql) => {
        await sql`UPDATE requests SET payload = replace(payload::text, '"40"', '"30"')::json WHERE id = ${id}`
        await forgeChain(sql)
      },
      { at: at('reversed'), account: wal('ben'), problem: /moved 40 USD from .*, but should have moved 30 USD from/ },
    )
  })

  test('that ended a hold which had ended is named, even if every hash was forged', async () => {
    const [hold, other] = [at('hold to capture'), at('hold to capture in part')]
    await expectFound(
      async (sql) => {
        await sql`
          UPDATE requests SET target = ${hold.id}, payload = replace(payload::text, ${other.id}, ${hold.id})::json,
            result = replace(result::text, ${other.id}, ${hold.id})::json
          WHERE id = ${at('captured in part').id}`
        await sql`UPDATE holds SET status = 'held', captured = 0 WHERE id = ${other.id}`
        await forgeChain(sql)
      },
      { at: at('captured in part'), account: wal('anna'), problem: /the capture ends a hold, but it was captured/ },
    )
  })

  test('that recorded another hold than there was is named, even if every hash was forged', async () => {
    await expectFound(
      async (sql) => {
        await sql`
          UPDATE requests SET result = replace(result::text, '"captured":"25"', '"captured":"26"')::json
          WHERE id = ${at('captured in part').id}`
        await forgeChain(sql)
      },
      {
        at: at('captured in part'),
        account: wal('anna'),
        problem: /recorded of the hold, captured is 26, but should be/,
      },
    )
  })

  test('that reverses more than there was is named, even if every hash was forged', async () => {
    const [reversed, rent] = [at('reversed'), at('rent')]
    await expectFound(
      async (sql) => {
        await sql`
          UPDATE requests SET target = ${rent.id}, payload = replace(payload::text, target::text, ${rent.id})::json
          WHERE id = ${reversed.id}`
        await forgeChain(sql)
      },
      { at: reversed, account: wal('ben'), problem: /takes back more than was left of it \(exceeds_reversible\)/ },
    )
  })
})

describe('a fake transaction, with entries that sum to zero', () => {
  const fake = digestUuid('fake')

  /** Moves 5 from Anna to Ben in an old block; their entries come after their last ones, as they must to be unique. */
  async function insertFake(sql: Tx, { block }: Place): Promise<void> {
    const { anna, ben } = books.wallets
    const payload = JSON.stringify({ legs: [{ from: anna, to: ben, amount: '5', currency: 'USD' }] })
    await sql`
      INSERT INTO requests (block, item, id, tenant_id, scope, key, kind, payload, leaf)
      VALUES (${block}, 1, ${fake}, ${TENANT}, ${anna}, 'fake', 'transfer', ${payload}::text::json,
              decode(repeat('00', 32), 'hex'))`
    for (const [line, account, amount] of [[0, anna, -5n] as const, [1, ben, 5n] as const]) {
      await sql`
        INSERT INTO entries
        SELECT id, sequence + 1, ${block}, 1, ${line}, currency, 'posted', ${amount}::int8,
               credits_posted - debits_posted + ${amount}::int8, debits_pending, credits_pending
        FROM accounts WHERE id = ${account}`
      await sql`
        UPDATE accounts SET sequence = sequence + 1, debits_posted = debits_posted + greatest(0, -(${amount}::int8)),
          credits_posted = credits_posted + greatest(0, ${amount}::int8) WHERE id = ${account}`
    }
    await forgeLeaves(sql, block)
  }

  test('is one too many for the header of an old block', async () => {
    const { block } = at('rent')
    await expectFound((sql) => insertFake(sql, at('rent')), {
      at: { id: fake, block, item: 1 },
      ...{ account: wal('anna'), problem: /has a request 1, but its header counts 1, from 0/ },
    })
  })

  test('does not fit between the entries of its accounts, even if every hash was forged', async () => {
    const { block } = at('rent')
    await expectFound(
      async (sql) => {
        await insertFake(sql, at('rent'))
        await forgeChain(sql)
      },
      { at: { id: fake, block, item: 1 }, account: wal('anna'), problem: /is number \d+ .* comes later in the chain/ },
    )
  })

  test('is named rather than the header whose counts were changed to fit', async () => {
    const { block } = at('rent')
    await expectFound(
      async (sql) => {
        await insertFake(sql, at('rent'))
        await sql`UPDATE blocks SET request_count = 2, entry_count = 4 WHERE number = ${block}`
      },
      { at: { id: fake, block, item: 1 }, account: wal('anna'), problem: /comes later in the chain/ },
    )
  })
})

describe('a block', () => {
  test('that was deleted is missed by its number', async () => {
    const { block } = at('rent')
    await expectFound((sql) => sql`DELETE FROM blocks WHERE number = ${block}`, {
      ...{ at: onlyBlock(block), account: null, problem: /block (\d+) is missing: after block \d+ comes block \d+/ },
    })
  })

  test('that was deleted with all that it held is missed by its number', async () => {
    const { block } = at('rent')
    await expectFound((sql) => deleteBlock(sql, block), {
      ...{ at: onlyBlock(block), account: null, problem: /block (\d+) is missing: after block/ },
    })
  })

  test('that was the first and was deleted is missed', async () => {
    await expectFound((sql) => deleteBlock(sql, 1), {
      ...{ at: onlyBlock(1), account: null, problem: /block 1 is missing: the chain begins with block 2/ },
    })
  })

  test('that was the last and was deleted with all that it held is missed by the head of the chain', async () => {
    const { block } = at('last')
    await expectFound((sql) => deleteBlock(sql, block), {
      ...{ at: onlyBlock(block), account: null, problem: /is missing: the head of the chain says/ },
    })
  })

  test('that was the last and was deleted, and the head set back, is missed by the accounts that it moved', async () => {
    await expectFound(
      async (sql) => {
        await deleteBlock(sql, at('last').block)
        await sql`
          UPDATE chain_head SET (number, hash, time_us) =
            (SELECT number, hash, time_us FROM blocks ORDER BY number DESC LIMIT 1)`
        await sql`
          UPDATE accounts SET sequence = sequence - 1, credits_posted = credits_posted - 7
          WHERE id = ${books.wallets.ben}`
      },
      // What is left of Anna's entries ends with the expiry.
      {
        at: at('expired'),
        account: wal('anna'),
        problem: /the row of the account, sequence is \d+, but should be \d+/,
      },
    )
  })

  async function deleteBlock(sql: Tx, block: number): Promise<void> {
    await sql`DELETE FROM entries WHERE block = ${block}`
    await sql`DELETE FROM requests WHERE block = ${block}`
    await sql`DELETE FROM blocks WHERE number = ${block}`
  }

  test.each(['the header alone', 'with all that it held'])(
    'that changed places with another is named: %s',
    async (what) => {
      const [a, b] = [at('paid').block, at('rent').block]
      await expectFound(
        async (sql) => {
          for (const table of what === 'the header alone' ? ['blocks'] : ['blocks', 'requests', 'entries']) {
            const column = sql(table === 'blocks' ? 'number' : 'block')
            for (const [from, to] of [[a, -1] as const, [b, a] as const, [-1, b] as const]) {
              await sql`UPDATE ${sql(table)} SET ${column} = ${to} WHERE ${column} = ${from}`
            }
          }
        },
        { at: onlyBlock(a), account: null, problem: /says that the hash of the block before it is/ },
      )
    },
  )

  test.each([
    ['time_us', 'time_us + 1'],
    ['writer', "'somebody'"],
    ['hash', 'sha256(hash)'],
    ['root', 'sha256(root)'],
    ['request_count', 'request_count + 1'],
    ['entry_count', 'entry_count + 1'],
  ])('whose %s was changed is named', async (column, value) => {
    const { block } = at('rent')
    await expectFound((sql) => sql.unsafe(`UPDATE blocks SET ${column} = ${value} WHERE number = ${block}`), {
      at: onlyBlock(block),
      account: null,
      problem: /the hash of block \d+ stands as/,
    })
  })

  test('whose counts were changed, hash and all, is named', async () => {
    const { block } = at('rent')
    await expectFound((sql) => forgeBlock(sql, block, { entryCount: 3 }), {
      ...{ at: onlyBlock(block), account: null, problem: /has 2 entries, but its header counts 3/ },
    })
  })

  test('whose previous hash was changed is named', async () => {
    const { block } = at('rent')
    await expectFound((sql) => sql`UPDATE blocks SET previous_hash = sha256(hash) WHERE number = ${block}`, {
      ...{ at: onlyBlock(block), account: null, problem: /says that the hash of the block before it is/ },
    })
  })

  test('that is older than the one before is named, even if every hash was forged', async () => {
    const { block } = at('rent')
    await expectFound(
      async (sql) => {
        await sql`UPDATE blocks SET time_us = time_us - 3600000000 WHERE number = ${block}`
        await forgeChain(sql)
      },
      { at: onlyBlock(block), account: null, problem: /the time of block \d+ is \d+ µs, not after/ },
    )
  })

  test('that was written anew, hash and all, does not agree with the block after it', async () => {
    const { id, block } = at('rent')
    await expectFound(
      async (sql) => {
        await sql`UPDATE requests SET payload = replace(payload::text, 'rent', 'food')::json WHERE id = ${id}`
        await forgeBlock(sql, block)
      },
      { at: onlyBlock(block + 1), account: null, problem: /says that the hash of the block before it is/ },
    )
  })

  test('that was written anew with every block after it does not agree with the next entry of its accounts', async () => {
    const { id, block, item } = at('paid')
    await expectFound(
      async (sql) => {
        await sql`UPDATE requests SET payload = replace(payload::text, '"100"', '"60"')::json WHERE id = ${id}`
        await sql`
          UPDATE entries SET amount = amount * 6 / 10, posted = posted - amount + amount * 6 / 10
          WHERE block = ${block} AND item = ${item}`
        await forgeChain(sql)
      },
      {
        at: at('split'),
        account: wal('anna'),
        problem: /entry 0 of the transfer leaves posted 9890.* makes posted 9930/,
      },
    )
  })
})

describe('the row of an account', () => {
  test.each([
    ['credits_posted', 'cleo', 'expired'],
    ['debits_posted', 'anna', 'last'],
    ['debits_pending', 'anna', 'last'],
    ['credits_pending', 'ben', 'last'],
    ['sequence', 'dan', 'repaid'],
  ] as const)('whose %s was changed is named, with its last entry', async (column, name, lastAsked) => {
    await expectFound(
      (sql) => sql`UPDATE accounts SET ${sql(column)} = ${sql(column)} + 1 WHERE id = ${books.wallets[name]}`,
      {
        at: at(lastAsked),
        account: wal(name),
        problem: new RegExp(`in the row of the account, ${column} is \\d+, but`),
      },
    )
  })

  test('that holds something without entries is named, with its opening', async () => {
    await expectFound((sql) => sql`UPDATE accounts SET credits_posted = 1000000 WHERE id = ${books.wallets.idle}`, {
      at: at('open idle'),
      account: wal('idle'),
      problem: /credits_posted is 1000000, but should be 0/,
    })
  })

  test.each([
    ['overdraft_limit', '100000', 'ben', 'open ben'],
    ['overdraft_limit', '60', 'dan', 'open dan'],
    ['tenant_id', `'${NOBODY}'`, 'ben', 'open ben'],
    ['currency', "'EUR'", 'idle', 'open idle'],
    ['status', "'closed'", 'anna', 'open anna'],
    ['status', "'frozen'", 'cleo', 'thawed'],
    ['transfer_max', 'NULL', 'ben', 'limited'],
    ['balance_max', '1', 'dan', 'open dan'],
  ] as const)('whose %s was changed to %s is named, with the request that set it', async (column, value, name, set) => {
    await expectFound(
      (sql) => sql.unsafe(`UPDATE accounts SET ${column} = ${value} WHERE id = '${books.wallets[name]}'`),
      {
        at: at(set),
        account: wal(name),
        problem: new RegExp(`${column.replace('_id', '')}(_id)? is .*, but should be`),
      },
    )
  })

  test('of a wallet that was made one of the system is named as the wallet that it is', async () => {
    await expectFound(
      (sql) => sql`UPDATE accounts SET kind = 'cash', overdraft_limit = NULL WHERE id = ${books.wallets.ben}`,
      { at: at('open ben'), account: wal('ben'), problem: /kind is cash, but should be wallet/ },
    )
  })

  test('that was deleted is missed by the opening of the wallet', async () => {
    await expectFound((sql) => sql`DELETE FROM accounts WHERE id = ${books.wallets.ben}`, {
      ...{ at: at('open ben'), account: wal('ben'), problem: /a wallet was opened, but its account is not there/ },
    })
  })

  test('of the system that was restricted is named, with its last entry', async () => {
    await expectFound((sql) => sql`UPDATE accounts SET status = 'frozen' WHERE id = ${CASH}`, {
      ...{ at: at('withdrawn'), account: `cash USD (${CASH})`, problem: /status is frozen, but should be active/ },
    })
  })

  test('that no request opened is named', async () => {
    await expectFound(
      (sql) => sql`
        INSERT INTO accounts (id, tenant_id, kind, currency, overdraft_limit)
        VALUES (${NOBODY}, ${TENANT}, 'wallet', 'USD', 0)`,
      { at: onlyBlock(null), account: formatId('wal', NOBODY), problem: /a wallet that no accepted request opened/ },
    )
  })
})

describe('the row of a wallet', () => {
  test.each([
    ['holder_id', "'thief'", 'dan', 'open dan'],
    ['name', "'Dora'", 'cleo', 'thawed'],
    ['metadata', "'{}'", 'dan', 'open dan'],
    ['opened_us', '1', 'dan', 'open dan'],
  ] as const)('whose %s was changed is named, with the request that set it', async (column, value, name, set) => {
    await expectFound(
      (sql) => sql.unsafe(`UPDATE wallets SET ${column} = ${value} WHERE id = '${books.wallets[name]}'`),
      { at: at(set), account: wal(name), problem: new RegExp(`in the row of the wallet, ${column} is`) },
    )
  })

  test('that was deleted is missed', async () => {
    await expectFound((sql) => sql`DELETE FROM wallets WHERE id = ${books.wallets.dan}`, {
      ...{ at: at('open dan'), account: wal('dan'), problem: /the wallet was opened, but has no row/ },
    })
  })
})

describe('the row of a hold', () => {
  test.each([
    ['status', "'released'", 'open hold', 'open hold'],
    ['status', "'held'", 'hold to capture', 'captured'],
    ['captured', '26', 'hold to capture in part', 'captured in part'],
    ['status', "'held'", 'hold to release', 'released'],
    ['status', "'released'", 'hold to expire', 'expired'],
    ['amount', '31', 'open hold', 'open hold'],
    ['expires_at_us', '1', 'open hold', 'open hold'],
    ['to_account', `'${NOBODY}'`, 'open hold', 'open hold'],
  ])(
    'whose %s was changed to %s is named, with the request that set it and the payer',
    async (column, value, hold, set) => {
      await expectFound((sql) => sql.unsafe(`UPDATE holds SET ${column} = ${value} WHERE id = '${at(hold).id}'`), {
        at: at(set),
        account: wal('anna'),
        problem: /in the row of the hold, .* but should be/,
      })
    },
  )

  test('that was deleted is missed', async () => {
    await expectFound((sql) => sql`DELETE FROM holds WHERE id = ${at('open hold').id}`, {
      ...{ at: at('open hold'), account: wal('anna'), problem: /the hold was placed, but has no row/ },
    })
  })

  test('that no request placed is named by its payer', async () => {
    await expectFound(
      (sql) => sql`
        INSERT INTO holds SELECT ${NOBODY}, tenant_id, from_account, to_account, amount, currency, expires_at_us
        FROM holds WHERE id = ${at('open hold').id}`,
      { at: onlyBlock(null), account: wal('anna'), problem: /a hold that no accepted request placed/ },
    )
  })
})

describe('the head of the chain', () => {
  test.each([
    ['number', 'number + 1', 1, /block \d+ is missing: the head of the chain says/],
    ['number', 'number - 1', 0, /the head of the chain says \d+, but the chain ends with block/],
    ['hash', 'sha256(hash)', 0, /the head of the chain says the hash/],
    ['time_us', 'time_us + 1', 0, /the head of the chain says the time/],
  ] as const)(
    'whose %s was changed to %s does not agree with the last block',
    async (column, value, beyond, problem) => {
      await expectFound((sql) => sql.unsafe(`UPDATE chain_head SET ${column} = ${value}`), {
        ...{ at: onlyBlock(books.lastBlock + beyond), account: null, problem },
      })
    },
  )

  test('that was deleted is missed', async () => {
    await expectFound((sql) => sql`DELETE FROM chain_head`, {
      ...{ at: onlyBlock(books.lastBlock), account: null, problem: /the head of the chain has no row/ },
    })
  })
})

describe('anywhere', () => {
  /** A row of each table of the ledger; of an account, one of a wallet unless it must be one of the system. */
  const rowOf = (table: string, column: string): string => {
    const { id, block } = at('rent')
    const { anna, dan } = books.wallets
    const wheres: Record<string, string> = {
      blocks: `number = ${block}`,
      requests: `id = '${id}'`,
      entries: `block = ${block} AND line = 0`,
      accounts: `id = '${column === 'kind' ? CASH : anna}'`,
      wallets: `id = '${dan}'`,
      holds: `id = '${at('open hold').id}'`,
      chain_head: 'true',
    }
    return wheres[table] ?? 'false'
  }

  /** Another value that the constraints of the column accept. */
  const otherValue = (column: string, type: string): string => {
    const byColumn: Record<string, string> = {
      currency: "'EUR'",
      layer: "'pending'",
      status: "'released'",
      kind: "'fees'",
    }
    if (column === 'status' && type === 'account_status') return "'frozen'"
    if (['number', 'block', 'item', 'line', 'sequence'].includes(column)) return `${column} + 1000`
    const byType: Record<string, string> = {
      ...{
        int4: `coalesce(${column}, 0) + 1`,
        int8: `coalesce(${column}, 0) + 1`,
        text: `coalesce(${column}, '') || 'x'`,
      },
      ...{ uuid: `'${NOBODY}'`, bytea: `sha256(${column})`, json: `'{"hold":{}}'` },
    }
    return byColumn[column] ?? byType[type] ?? `no other value for ${column} ${type}`
  }

  test('no column of the ledger can be changed unnoticed', async () => {
    const url = await changedCopy(async () => {})
    const sql = connect(url, { max: 1, role: null })
    const columns = await sql<{ table_name: string; column_name: string; udt_name: string }[]>`
      SELECT table_name, column_name, coalesce(domain_name, udt_name) AS udt_name FROM information_schema.columns
      WHERE table_name IN ('blocks', 'requests', 'entries', 'accounts', 'wallets', 'holds', 'chain_head')
        AND column_name NOT IN ('only_row', 'peer')` // there is no transit account here
    expect(columns.length).toBeGreaterThan(50)
    const unnoticed: string[] = []
    for (const { table_name: table, column_name: column, udt_name: type } of columns) {
      await tamper(url, async (sql) => {
        await sql.unsafe(`CREATE TABLE before AS SELECT * FROM ${table}`)
        const changed = await sql.unsafe(
          `UPDATE ${table} SET ${column} = ${otherValue(column, type)} WHERE ${rowOf(table, column)}`,
        )
        expect(changed.count, `${table}.${column}`).toBe(1)
      })
      const { balanced, discrepancy } = await verify(url)
      if (balanced || !discrepancy) unnoticed.push(`${table}.${column}`)
      await tamper(url, async (sql) => {
        await sql.unsafe(`DELETE FROM ${table}`)
        await sql.unsafe(`INSERT INTO ${table} SELECT * FROM before`)
        await sql.unsafe('DROP TABLE before')
      })
    }
    await sql.end()
    expect(unnoticed).toEqual([])
    expect((await verify(url)).discrepancy).toBeNull()
  })

  test('in books that are longer than what is read at a time, an entry is told from thousands', async () => {
    const url = await migratedDatabase()
    const ledger = openLedger(url)
    const wallets = await Promise.all(Array.from({ length: 20 }, () => ledger.wallet(1_000_000n)))
    const walletAt = (i: number) => wallets[i % wallets.length] ?? ''
    for (let round = 0; round < 10; round++) {
      await Promise.all(
        Array.from({ length: 1_000 }, (_, i) => ledger.ask(transferOf(walletAt(i), walletAt(i + 1 + round), 1n))),
      )
    }
    await ledger.close()
    const report = await verify(url)
    expect(report).toMatchObject({ balanced: true, requests: 10_040, entries: 20_040 })

    const [row] = await (async () => {
      const sql = connect(url, { max: 1 })
      const rows = await sql<{ id: string; block: bigint; item: number; account_id: string }[]>`
        SELECT r.id, r.block, r.item, e.account_id FROM requests r JOIN entries e USING (block, item)
        WHERE e.line = 1 ORDER BY r.block DESC, r.item DESC OFFSET 1234 LIMIT 1`
      await sql.end()
      return rows
    })()
    if (!row) throw new Error('no entry')
    const { discrepancy } = await verify(
      await changedCopy(
        (sql) => sql`
          UPDATE entries SET amount = amount + 1, posted = posted + 1
          WHERE block = ${row.block} AND item = ${row.item} AND line = 1`,
        url,
      ),
    )
    expect(discrepancy).toMatchObject({
      block: Number(row.block),
      transaction: formatId('txn', row.id),
      account: formatId('wal', row.account_id),
    })
  })
})

test('of several rows that are wrong, the one that was set first is named', async () => {
  await expectFound(
    async (sql) => {
      await sql`UPDATE accounts SET status = 'frozen' WHERE id = ${books.wallets.cleo}`
      await sql`UPDATE accounts SET balance_max = 1 WHERE id = ${books.wallets.dan}`
    },
    // Cleo's wallet is the older one, but her status was set last.
    { at: at('open dan'), account: wal('dan'), problem: /balance_max is 1, but should be 9000/ },
  )
})

test('of several things that are wrong, the first in the chain is named', async () => {
  const [first, second] = [at('split'), at('rent')]
  await expectFound(
    async (sql) => {
      await sql`UPDATE accounts SET credits_posted = credits_posted + 1 WHERE id = ${books.wallets.idle}`
      await sql`UPDATE entries SET amount = amount + 1 WHERE block = ${second.block} AND line = 1`
      await sql`UPDATE entries SET amount = amount + 1 WHERE block = ${first.block} AND line = 3`
      await sql`UPDATE blocks SET writer = 'somebody' WHERE number > ${first.block}`
    },
    { at: first, account: wal('cleo'), problem: /entry 3 of the transfer is 6 USD/ },
  )
})
