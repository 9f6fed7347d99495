import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { uuidv7 } from '../../src/core/ids.ts'
import { arrayLiteral, connect, type Sql, type Tx } from '../../src/postgres/connect.ts'
import { migratedDatabase } from '../support/database.ts'
import { openLedger, TENANT } from '../support/ledger.ts'

/**
 * What the database refuses by itself, whoever asks. A right block is drafted by hand, made wrong in one place, and written
 * past everything that the program would check: row by row as the owner, and through `append_block` as the application.
 */

let owner: Sql
let app: Sql
/** Wallets with 100.00 USD, nothing, and 50.00 EUR in them. */
let rich: string
let poor: string
let euro: string

beforeAll(async () => {
  const url = await migratedDatabase()
  const ledger = openLedger(url)
  rich = await ledger.wallet(10_000n)
  poor = await ledger.wallet()
  euro = await ledger.wallet(5_000n, 'EUR')
  await ledger.close()
  owner = connect(url, { max: 1, role: null })
  app = connect(url, { max: 1 })
})

afterAll(async () => {
  await Promise.all([owner.end(), app.end()])
})

type BlockRow = {
  number: bigint
  previousHash: Buffer
  root: Buffer
  hash: Buffer
  timeUs: bigint
  requestCount: number
  entryCount: number
}
type RequestRow = { block: bigint; item: number; id: string; scope: string; key: string; refusal: string | null }
type EntryRow = {
  block: bigint
  item: number
  line: number
  account: string
  sequence: bigint
  currency: string
  layer: 'posted' | 'pending'
  amount: bigint
  posted: bigint
  pendingOut: bigint
  pendingIn: bigint
}
type Draft = { block: BlockRow; requests: [RequestRow, ...RequestRow[]]; entries: [EntryRow, EntryRow, ...EntryRow[]] }

type AccountRow = { id: string; sequence: bigint; posted: bigint }
type HeadRow = { number: bigint; hash: Buffer; time_us: bigint }

const freshId = () => uuidv7(Date.now(), randomBytes(8).toString('hex'), 0)

/** The block that would be right now: 0.05 USD from the rich to the poor. */
async function draftBlock(sql: Tx): Promise<Draft> {
  const [head] = await sql<HeadRow[]>`SELECT number, hash, time_us FROM chain_head`
  const accounts = await sql<AccountRow[]>`SELECT id, sequence, credits_posted - debits_posted AS posted FROM accounts`
  const [from, to] = [rich, poor].map((id) => accounts.find((account) => account.id === id))
  if (!head || !from || !to) throw new Error('the ledger of this test is not there')
  const number = head.number + 1n
  const id = freshId()
  const line = (place: number, account: AccountRow, amount: bigint): EntryRow => ({
    block: number,
    item: 0,
    line: place,
    account: account.id,
    sequence: account.sequence + 1n,
    currency: 'USD',
    layer: 'posted',
    amount,
    posted: account.posted + amount,
    pendingOut: 0n,
    pendingIn: 0n,
  })
  return {
    block: {
      number,
      previousHash: head.hash,
      root: randomBytes(32),
      hash: randomBytes(32),
      timeUs: head.time_us + 1n,
      requestCount: 1,
      entryCount: 2,
    },
    requests: [{ block: number, item: 0, id, scope: rich, key: id, refusal: null }],
    entries: [line(0, from, -5n), line(1, to, 5n)],
  }
}

async function insertBlock(sql: Tx, block: BlockRow): Promise<void> {
  await sql`
    INSERT INTO blocks (number, previous_hash, root, hash, time_us, writer, request_count, entry_count)
    VALUES (${block.number}, ${block.previousHash}, ${block.root}, ${block.hash}, ${block.timeUs}, 'by hand',
            ${block.requestCount}, ${block.entryCount})`
}

async function insertRequests(sql: Tx, requests: readonly RequestRow[]): Promise<void> {
  for (const { block, item, id, scope, key, refusal } of requests) {
    await sql`
      INSERT INTO requests (block, item, id, tenant_id, scope, key, kind, payload, refusal, leaf)
      VALUES (${block}, ${item}, ${id}, ${TENANT}, ${scope}, ${key}, 'transfer', '{}'::json, ${refusal},
              ${randomBytes(32)})`
  }
}

async function insertEntries(sql: Tx, entries: readonly EntryRow[]): Promise<void> {
  const column = (value: (row: EntryRow) => string | number) => arrayLiteral(entries.map(value))
  await sql`
    INSERT INTO entries (block, item, line, account_id, sequence, currency, layer, amount, posted, pending_out, pending_in)
    SELECT * FROM unnest(
      ${column((row) => `${row.block}`)}::int8[], ${column((row) => row.item)}::int[], ${column((row) => row.line)}::int[],
      ${column((row) => row.account)}::uuid[], ${column((row) => `${row.sequence}`)}::int8[],
      ${column((row) => row.currency)}::text[], ${column((row) => row.layer)}::layer[],
      ${column((row) => `${row.amount}`)}::int8[], ${column((row) => `${row.posted}`)}::int8[],
      ${column((row) => `${row.pendingOut}`)}::int8[], ${column((row) => `${row.pendingIn}`)}::int8[])`
}

/** Row by row; only the database is in the way. */
async function insertDraft(sql: Tx, { block, requests, entries }: Draft): Promise<void> {
  await insertBlock(sql, block)
  await insertRequests(sql, requests)
  await insertEntries(sql, entries)
}

/** Through the application's door. */
async function appendDraft(sql: Tx, { block, requests, entries }: Draft): Promise<void> {
  const r = (value: (row: RequestRow) => string | number | null) => arrayLiteral(requests.map(value))
  const e = (value: (row: EntryRow) => string | number) => arrayLiteral(entries.map(value))
  await sql`SELECT append_block(
    ${block.number}::int8, ${block.previousHash}::bytea, ${block.root}::bytea, ${block.hash}::bytea,
    ${block.timeUs}::int8, 'by hand',
    ${r(({ id }) => id)}::uuid[], ${r(() => TENANT)}::uuid[], ${r(({ scope }) => scope)}::uuid[],
    ${r(({ key }) => key)}::text[], ${r(() => 'transfer')}::text[], ${r(() => null)}::uuid[], ${r(() => '{}')}::text[],
    ${r(({ refusal }) => refusal)}::text[], ${r(() => null)}::text[], ${randomBytes(32 * requests.length)}::bytea,
    ${e((row) => row.item)}::int[], ${e((row) => row.line)}::int[], ${e((row) => row.account)}::uuid[],
    ${e((row) => `${row.sequence}`)}::int8[], ${e((row) => row.currency)}::text[], ${e((row) => row.layer)}::layer[],
    ${e((row) => `${row.amount}`)}::int8[], ${e((row) => `${row.posted}`)}::int8[],
    ${e((row) => `${row.pendingOut}`)}::int8[], ${e((row) => `${row.pendingIn}`)}::int8[], '{}', '{}', NULL)`
}

/** What the database says to it, up to the end of the transaction: `accepted`, or the code and whose rule was broken. */
async function answerTo(work: Promise<unknown>): Promise<string> {
  try {
    await work
    return 'accepted'
  } catch (error) {
    if (error instanceof pg.DatabaseError) return `${error.code} ${error.constraint ?? error.message}`
    throw error
  }
}

type Flaw = {
  /** What is wrong with the block. */
  readonly name: string
  readonly make: (draft: Draft) => void
  readonly answer: RegExp
  /** What `append_block` has no way of saying. */
  readonly byRowsOnly?: boolean
}

const CROOKED = /^ZS002 .*do not sum to zero/
const UNCONNECTED = /^ZS002 .*do not follow the accounts/
const MISPLACED = /^ZS002 .*outside of a block/
const UNASKED = /^ZS002 .*that no accepted request asked for/
const HEADLESS = /^ZS001 block \d+ does not follow the head/
const MISCOUNTED = /^ZS002 block \d+ does not hold what its header says/

/** Turns the draft into two transactions with these amounts: rich → poor, then rich → poor once more. */
function twice(draft: Draft, first: bigint, second: bigint): void {
  const { requests, entries, block } = draft
  requests.push({ ...requests[0], item: 1, id: freshId(), key: `${requests[0].key} again` })
  const before = entries.map(({ posted, amount }) => posted - amount)
  entries.push(...entries.map((entry) => ({ ...entry, item: 1, sequence: entry.sequence + 1n })))
  const amounts = [-first, first, -second, second]
  entries.forEach((entry, i) => {
    entry.amount = amounts[i] ?? 0n
    const moved = i < 2 ? entry.amount : entry.amount + (amounts[i - 2] ?? 0n)
    entry.posted = (before[i % 2] ?? 0n) + moved
  })
  block.requestCount = 2
  block.entryCount = 4
}

const FLAWS: readonly Flaw[] = [
  {
    name: 'entries that do not sum to zero',
    make: ({ entries: [, to] }) => {
      to.amount += 1n
      to.posted += 1n
    },
    answer: CROOKED,
  },
  {
    name: 'entries that sum to zero only across currencies',
    make: ({ entries: [, to] }) => Object.assign(to, { account: euro, currency: 'EUR', sequence: 2n, posted: 5_005n }),
    answer: CROOKED,
  },
  {
    name: 'entries that sum to zero only across layers',
    make: ({ entries: [, to] }) => Object.assign(to, { layer: 'pending', posted: to.posted - 5n, pendingIn: 5n }),
    answer: CROOKED,
  },
  {
    name: 'entries that sum to zero only across transactions',
    make: (draft) => {
      draft.entries[1].item = 1
      draft.requests.push({ ...draft.requests[0], item: 1, id: freshId(), key: 'another' })
      draft.block.requestCount = 2
    },
    answer: CROOKED,
  },
  {
    name: 'entries in an earlier block',
    make: ({ entries }) => {
      for (const entry of entries) Object.assign(entry, { block: entry.block - 1n, line: entry.line + 9 })
    },
    answer: MISPLACED,
    byRowsOnly: true,
  },
  {
    name: 'a request in an earlier block',
    make: ({ requests: [request] }) => Object.assign(request, { block: request.block - 1n, item: 9 }),
    answer: MISPLACED,
    byRowsOnly: true,
  },
  {
    name: 'a request in a later block',
    make: ({ requests: [request] }) => Object.assign(request, { block: request.block + 1n }),
    answer: MISPLACED,
    byRowsOnly: true,
  },
  {
    name: 'an entry number that was there before',
    make: ({ entries: [from] }) => Object.assign(from, { sequence: 1n }),
    answer: /^23505 entries_pkey/,
  },
  {
    name: 'an entry number too high',
    make: ({ entries: [from] }) => Object.assign(from, { sequence: from.sequence + 1n }),
    answer: UNCONNECTED,
  },
  {
    name: 'a gap between two entries of one account',
    make: (draft) => {
      twice(draft, 5n, 6n)
      for (const entry of draft.entries.slice(2)) entry.sequence += 1n
    },
    answer: UNCONNECTED,
  },
  {
    name: 'a balance after the last entry that is not so',
    make: ({ entries: [from] }) => Object.assign(from, { posted: from.posted + 1n }),
    answer: UNCONNECTED,
  },
  {
    name: 'a balance after the first of two entries that is not so',
    make: (draft) => {
      twice(draft, 5n, 6n)
      draft.entries[0].posted += 1n
    },
    answer: UNCONNECTED,
  },
  {
    name: 'a balance after the second of two entries that is not so',
    make: (draft) => {
      twice(draft, 5n, 6n)
      for (const entry of draft.entries.slice(2, 3)) entry.posted += 1n
    },
    answer: UNCONNECTED,
  },
  {
    name: 'a reservation in both directions that the second of two entries did not make',
    make: (draft) => {
      twice(draft, 5n, 6n)
      for (const entry of draft.entries.slice(2, 3)) Object.assign(entry, { pendingIn: 7n, pendingOut: 7n })
    },
    answer: UNCONNECTED,
  },
  {
    name: 'entries on the pending layer that move what is posted instead',
    make: ({ entries }) => {
      for (const entry of entries) entry.layer = 'pending'
    },
    answer: UNCONNECTED,
  },
  {
    name: 'entries on the pending layer that move what is posted as well',
    make: ({ entries: [from, to] }) => {
      Object.assign(from, { layer: 'pending', pendingOut: 5n })
      Object.assign(to, { layer: 'pending', pendingIn: 5n })
    },
    answer: UNCONNECTED,
  },
  {
    name: 'a reservation that counts in both directions',
    make: ({ entries: [from, to] }) => {
      Object.assign(from, { layer: 'pending', posted: from.posted + 5n, pendingOut: 5n, pendingIn: 5n })
      Object.assign(to, { layer: 'pending', posted: to.posted - 5n, pendingIn: 5n, pendingOut: 5n })
    },
    answer: UNCONNECTED,
  },
  {
    name: 'a pending balance out of thin air',
    make: ({ entries: [from] }) => Object.assign(from, { pendingIn: 7n }),
    answer: UNCONNECTED,
  },
  {
    name: 'a reservation in both directions that no entry made',
    make: ({ entries: [from] }) => Object.assign(from, { pendingIn: 7n, pendingOut: 7n }),
    answer: UNCONNECTED,
  },
  {
    name: 'another currency than the accounts have',
    make: ({ entries }) => {
      for (const entry of entries) entry.currency = 'EUR'
    },
    answer: UNCONNECTED,
  },
  {
    name: 'an account that is not there',
    make: ({ entries: [, to] }) => Object.assign(to, { account: freshId(), sequence: 1n, posted: 5n }),
    answer: UNCONNECTED,
  },
  {
    name: 'more than a wallet has',
    make: ({ entries: [from, to] }) => {
      const amount = from.posted + 5n + 1n
      Object.assign(from, { amount: -amount, posted: -1n })
      Object.assign(to, { amount, posted: to.posted - 5n + amount })
    },
    answer: /^23514 accounts_floor/,
  },
  {
    name: 'more reserved than a wallet has',
    make: ({ entries: [from, to] }) => {
      const posted = from.posted + 5n
      const amount = posted + 1n
      Object.assign(from, { layer: 'pending', amount: -amount, posted, pendingOut: amount })
      Object.assign(to, { layer: 'pending', amount, posted: to.posted - 5n, pendingIn: amount })
    },
    answer: /^23514 accounts_floor/,
  },
  {
    name: 'a reservation to pay that falls below zero',
    make: ({ entries: [from, to] }) => {
      Object.assign(from, { layer: 'pending', amount: 5n, posted: from.posted + 5n, pendingOut: -5n })
      Object.assign(to, { layer: 'pending', amount: -5n, posted: to.posted - 5n, pendingOut: 5n })
    },
    answer: /^23514 entries_pending_out_check/,
  },
  {
    name: 'a reservation to receive that falls below zero',
    make: ({ entries: [from, to] }) => {
      Object.assign(from, { layer: 'pending', amount: 5n, posted: from.posted + 5n, pendingIn: 5n })
      Object.assign(to, { layer: 'pending', amount: -5n, posted: to.posted - 5n, pendingIn: -5n })
    },
    answer: /^23514 entries_pending_in_check/,
  },
  {
    name: 'entries of nothing',
    make: ({ entries: [from, to] }) => {
      Object.assign(from, { amount: 0n, posted: from.posted + 5n })
      Object.assign(to, { amount: 0n, posted: to.posted - 5n })
    },
    answer: /^23514 entries_amount_check/,
  },
  {
    name: 'entries of a request that is not there',
    make: ({ entries }) => {
      for (const entry of entries) entry.item = 7
    },
    answer: UNASKED,
  },
  {
    name: 'entries of a request that was refused',
    make: ({ requests: [request] }) => Object.assign(request, { refusal: 'insufficient_funds' }),
    answer: UNASKED,
  },
  {
    name: 'a number too high',
    make: ({ block, requests, entries }) => {
      for (const row of [...requests, ...entries]) row.block += 1n
      block.number += 1n
    },
    answer: HEADLESS,
  },
  {
    name: 'the number of the block before',
    make: ({ block, requests, entries }) => {
      for (const row of [...requests, ...entries]) row.block -= 1n
      block.number -= 1n
    },
    answer: HEADLESS,
  },
  {
    name: 'another previous hash than the hash of the block before',
    make: ({ block }) => Object.assign(block, { previousHash: randomBytes(32) }),
    answer: HEADLESS,
  },
  {
    name: 'the time of the block before',
    make: ({ block }) => Object.assign(block, { timeUs: block.timeUs - 1n }),
    answer: HEADLESS,
  },
  {
    name: 'a hash that is too short',
    make: ({ block }) => Object.assign(block, { hash: randomBytes(31) }),
    answer: /^23514 blocks_hash_check/,
  },
  {
    name: 'a root that is too short',
    make: ({ block }) => Object.assign(block, { root: randomBytes(31) }),
    answer: /^23514 blocks_root_check/,
  },
  {
    name: 'fewer requests than its header says',
    make: ({ block }) => Object.assign(block, { requestCount: 2 }),
    answer: MISCOUNTED,
    byRowsOnly: true,
  },
  {
    name: 'more requests than its header says',
    make: (draft) => {
      draft.requests.push({ ...draft.requests[0], item: 1, id: freshId(), key: 'another', refusal: 'same_wallet' })
    },
    answer: MISPLACED,
    byRowsOnly: true,
  },
  {
    name: 'fewer entries than its header says',
    make: ({ block }) => Object.assign(block, { entryCount: 4 }),
    answer: MISCOUNTED,
    byRowsOnly: true,
  },
  {
    name: 'more entries than its header says',
    make: ({ block }) => Object.assign(block, { entryCount: 0 }),
    answer: MISCOUNTED,
    byRowsOnly: true,
  },
  {
    name: 'requests that are not numbered from 0',
    make: (draft) => {
      draft.requests[0].item = 1
      for (const entry of draft.entries) entry.item = 1
    },
    answer: MISPLACED,
    byRowsOnly: true,
  },
  {
    name: 'a request that is numbered below 0',
    make: (draft) => {
      draft.requests[0].item = -1
      for (const entry of draft.entries) entry.item = -1
    },
    answer: /^23514 requests_item_check/,
    byRowsOnly: true,
  },
  {
    name: 'no requests',
    make: ({ block }) => Object.assign(block, { requestCount: 0 }),
    answer: /^23514 blocks_request_count_check/,
    byRowsOnly: true,
  },
  {
    name: 'two requests under one idempotency key',
    make: (draft) => {
      draft.requests.push({ ...draft.requests[0], item: 1, id: freshId(), refusal: 'same_wallet' })
      draft.block.requestCount = 2
    },
    answer: /^23505 requests_idempotency/,
  },
  {
    name: 'a request under the idempotency key of an earlier block',
    make: ({ requests: [request] }) => Object.assign(request, { key: 'remembered' }),
    answer: /^23505 requests_idempotency/,
  },
  {
    name: 'two requests of one id',
    make: (draft) => {
      draft.requests.push({ ...draft.requests[0], item: 1, key: 'another', refusal: 'same_wallet' })
      draft.block.requestCount = 2
    },
    answer: /^23505 requests_id/,
  },
  {
    name: 'an idempotency key of 256 characters',
    make: ({ requests: [request] }) => Object.assign(request, { key: 'k'.repeat(256) }),
    answer: /^23514 requests_key_check/,
  },
  {
    name: 'an empty idempotency key',
    make: ({ requests: [request] }) => Object.assign(request, { key: '' }),
    answer: /^23514 requests_key_check/,
  },
]

describe('a block that is right but for one thing', () => {
  beforeAll(async () => {
    await owner.begin(async (sql) => {
      const draft = await draftBlock(sql)
      draft.requests[0].key = 'remembered'
      await insertDraft(sql, draft)
    })
  })

  async function offerBlock(pool: Sql, write: typeof insertDraft, make: (draft: Draft) => void): Promise<string> {
    return await answerTo(
      pool.begin(async (sql) => {
        const draft = await draftBlock(sql)
        make(draft)
        await write(sql, draft)
      }),
    )
  }

  it('is accepted without that thing, row by row and through append_block', async () => {
    for (const make of [() => {}, (draft: Draft) => twice(draft, 5n, 6n)]) {
      expect(await offerBlock(owner, insertDraft, make)).toBe('accepted')
      expect(await offerBlock(app, appendDraft, make)).toBe('accepted')
    }
  })

  it('is accepted with a reservation, and with its end', async () => {
    const reserve = ({ entries: [from, to] }: Draft) => {
      Object.assign(from, { layer: 'pending', posted: from.posted + 5n, pendingOut: 5n })
      Object.assign(to, { layer: 'pending', posted: to.posted - 5n, pendingIn: 5n })
    }
    const release = ({ entries: [from, to] }: Draft) => {
      Object.assign(from, { layer: 'pending', amount: 5n, posted: from.posted + 5n, pendingOut: 0n })
      Object.assign(to, { layer: 'pending', amount: -5n, posted: to.posted - 5n, pendingIn: 0n })
    }
    expect(await offerBlock(owner, insertDraft, reserve)).toBe('accepted')
    expect(await offerBlock(app, appendDraft, release)).toBe('accepted')
  })

  it('is accepted under a key that was used in another scope', async () => {
    const otherScope = ({ requests: [request] }: Draft) => Object.assign(request, { key: 'remembered', scope: poor })
    expect(await offerBlock(app, appendDraft, otherScope)).toBe('accepted')
  })

  const named = (flaws: readonly Flaw[]) => flaws.map((flaw) => [flaw.name, flaw] as const)

  it.each(named(FLAWS))('with %s is refused row by row', async (_, { make, answer }) => {
    expect(await offerBlock(owner, insertDraft, make)).toMatch(answer)
  })

  const bothWays = FLAWS.filter(({ byRowsOnly }) => !byRowsOnly)
  it.each(named(bothWays))('with %s is refused through append_block', async (_, { make, answer }) => {
    expect(await offerBlock(app, appendDraft, make)).toMatch(answer)
  })

  it('leaves nothing behind when it is refused', async () => {
    const count = async () => {
      const [row] = await owner`
        SELECT (SELECT number FROM chain_head) AS head, (SELECT count(*) FROM blocks) AS blocks,
               (SELECT count(*) FROM requests) AS requests, (SELECT count(*) FROM entries) AS entries,
               (SELECT sum(sequence) FROM accounts)::int8 AS sequences`
      return row
    }
    const before = await count()
    for (const { make } of FLAWS) await offerBlock(owner, insertDraft, make)
    expect(await count()).toEqual(before)
  })
})

describe('outside of a block', () => {
  it('a request is refused', async () => {
    const answer = answerTo(owner.begin(async (sql) => insertRequests(sql, (await draftBlock(sql)).requests)))
    expect(await answer).toMatch(MISPLACED)
  })

  it('entries are refused', async () => {
    const answer = answerTo(owner.begin(async (sql) => insertEntries(sql, (await draftBlock(sql)).entries)))
    expect(await answer).toMatch(MISPLACED)
  })

  it('rows for the last block are refused, once it is committed', async () => {
    const late = async (sql: Tx) => {
      const { requests, entries } = await draftBlock(sql)
      const place = { block: requests[0].block - 1n, item: 50 }
      return { requests: [{ ...requests[0], ...place }], entries: entries.map((entry) => ({ ...entry, ...place })) }
    }
    expect(await answerTo(owner.begin(async (sql) => insertRequests(sql, (await late(sql)).requests)))).toMatch(
      MISPLACED,
    )
    expect(await answerTo(owner.begin(async (sql) => insertEntries(sql, (await late(sql)).entries)))).toMatch(MISPLACED)
  })

  it('rows that come after the check of their block are refused', async () => {
    const answer = answerTo(
      owner.begin(async (sql) => {
        const draft = await draftBlock(sql)
        await insertDraft(sql, draft)
        await sql`SET CONSTRAINTS ALL IMMEDIATE`
        await insertRequests(sql, [{ ...draft.requests[0], item: 1, id: freshId(), key: 'afterwards' }])
      }),
    )
    expect(await answer).toMatch(/^ZS002 /)
  })
})

describe('the owner of the tables', () => {
  const appendOnly = ['blocks', 'requests', 'entries'].flatMap((table) => [
    `UPDATE ${table} SET ${table === 'blocks' ? "writer = 'me'" : 'item = item'}`,
    `UPDATE ${table} SET ${table === 'blocks' ? "writer = 'me'" : 'item = item'} WHERE false`,
    `DELETE FROM ${table}`,
    `TRUNCATE ${table}`,
  ])
  it.each(appendOnly)('is refused: %s', async (statement) => {
    expect(await answerTo(owner.unsafe(statement))).toMatch(/^ZS003 (blocks|requests|entries) is append-only/)
  })

  it.each(['UPDATE shard_map SET slots = slots', 'DELETE FROM shard_map', 'TRUNCATE shard_map'])(
    'is refused: %s',
    async (statement) => {
      expect(await answerTo(owner.unsafe(statement))).toMatch(/^ZS003 shard_map is append-only/)
    },
  )

  const SLOTS = 'array_fill(1::int2, ARRAY[4096])'
  it.each([
    ['an epoch of 0', 0, 2, SLOTS],
    ['no shards', 1, 0, SLOTS],
    ['a slot too few', 1, 2, 'array_fill(1::int2, ARRAY[4095])'],
    ['a slot too many', 1, 2, 'array_fill(1::int2, ARRAY[4097])'],
    ['a slot on a shard that there is not', 1, 1, SLOTS],
    ['a slot below shard 0', 1, 2, `ARRAY[-1]::int2[] || (${SLOTS})[2:]`],
    ['a slot on no shard', 1, 2, `ARRAY[NULL]::int2[] || (${SLOTS})[2:]`],
    ['slots in rows', 1, 2, 'array_fill(1::int2, ARRAY[64, 64])'],
    ['slots that begin elsewhere', 1, 2, 'array_fill(1::int2, ARRAY[4096], ARRAY[0])'],
  ])('is refused a shard map with %s', async (_, epoch, count, slots) => {
    const insert = (n: number, shards: number, text: string) =>
      owner.begin(async (sql) => {
        await sql.unsafe(`INSERT INTO shard_map VALUES (${n}, ${shards}, ${text}, 1)`)
        throw new Error('rolled back')
      })
    expect(await answerTo(insert(epoch, count, slots))).toMatch(/^23514 shard_map_/)
    await expect(insert(1, 2, SLOTS)).rejects.toThrow('rolled back')
  })

  const kept = ['accounts', 'wallets', 'holds', 'chain_head'].flatMap((t) => [`DELETE FROM ${t}`, `TRUNCATE ${t}`])
  it.each(kept)('is refused: %s', async (statement) => {
    expect(await answerTo(owner.unsafe(statement))).toMatch(/^ZS003 (accounts|wallets|holds|chain_head) is append-only/)
  })

  const counters = ['sequence', 'debits_posted', 'credits_posted', 'debits_pending', 'credits_pending']
  const direct = [
    ...counters.map((column) => `UPDATE accounts SET ${column} = ${column} + 1`),
    "UPDATE accounts SET currency = 'EUR'",
    'UPDATE chain_head SET number = number - 1',
    "UPDATE chain_head SET hash = decode(repeat('00', 32), 'hex')",
    'UPDATE chain_head SET time_us = 0',
  ]
  it.each(direct)('is refused: %s', async (statement) => {
    expect(await answerTo(owner.unsafe(statement))).toMatch(/^ZS003 .*direct UPDATE refused/)
  })

  it('can still freeze a wallet, which is no matter of money', async () => {
    const freeze = owner.begin(async (sql) => {
      await sql`UPDATE accounts SET status = 'frozen' WHERE id = ${rich}`
      await sql`UPDATE accounts SET status = 'active' WHERE id = ${rich}`
    })
    expect(await answerTo(freeze)).toBe('accepted')
  })

  it.each(counters)('is refused an account that opens with %s', async (column) => {
    const open = (value: number) => owner`
      INSERT INTO accounts (id, tenant_id, kind, currency, ${owner(column)})
      VALUES (${freshId()}, ${TENANT}, 'suspense', 'USD', ${value})`
    expect(await answerTo(open(1))).toMatch(/^ZS002 an account is opened empty/)
    expect(await answerTo(open(-1))).toBe('23514 accounts_counters')
  })

  it('is refused a wallet without a floor, and a system account with one', async () => {
    const open = (kind: string, limit: number | null) => owner`
      INSERT INTO accounts (id, tenant_id, kind, currency, overdraft_limit)
      VALUES (${freshId()}, ${TENANT}, ${kind}, 'USD', ${limit})`
    expect(await answerTo(open('wallet', null))).toBe('23514 accounts_only_system_accounts_lack_a_floor')
    expect(await answerTo(open('fees', 0))).toBe('23514 accounts_only_system_accounts_lack_a_floor')
    expect(await answerTo(open('wallet', -1))).toMatch(/^23514 accounts_(floor|limits)/)
  })

  it('is refused kinds, states, currencies and limits that there are not', async () => {
    const open = ({ kind = 'wallet', currency = 'USD', status = 'active', transferMax = 1, balanceMax = 1 }) => owner`
      INSERT INTO accounts (id, tenant_id, kind, currency, status, overdraft_limit, transfer_max, balance_max)
      VALUES (${freshId()}, ${TENANT}, ${kind}, ${currency}, ${status}, 0, ${transferMax}, ${balanceMax})`
    expect(await answerTo(open({ kind: 'piggy bank' }))).toMatch(/^22P02 /)
    expect(await answerTo(open({ status: 'asleep' }))).toMatch(/^22P02 /)
    expect(await answerTo(open({ currency: 'usd' }))).toBe('23514 currency_check')
    expect(await answerTo(open({ transferMax: 0 }))).toBe('23514 accounts_limits')
    expect(await answerTo(open({ balanceMax: 0 }))).toBe('23514 accounts_limits')
    expect(await answerTo(open({}))).toBe('accepted')
  })

  it('is refused a second head of the chain', async () => {
    const second = (row: boolean) => owner`
      INSERT INTO chain_head (only_row, number, hash, time_us) VALUES (${row}, 0, decode(repeat('00', 32), 'hex'), 0)`
    expect(await answerTo(second(true))).toBe('23505 chain_head_pkey')
    expect(await answerTo(second(false))).toBe('23514 chain_head_only_row_check')
  })
})

describe('the role of the application', () => {
  it('is what connect() works as', async () => {
    expect([...(await app`SELECT current_user::text AS name`)]).toEqual([{ name: 'zerosum_app' }])
  })

  it('may read everything, add tenants and keys, revoke keys, and no more', async () => {
    const rows = await owner<{ name: string; privileges: string }[]>`
      SELECT relname AS name, string_agg(privilege, ' ' ORDER BY privilege) AS privileges
      FROM pg_class, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS privilege
      WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S')
        AND has_table_privilege('zerosum_app', oid, privilege)
      GROUP BY relname`
    const writable = rows.filter(({ privileges }) => privileges !== 'SELECT')
    expect(Object.fromEntries(writable.map(({ name, privileges }) => [name, privileges]))).toEqual({
      tenants: 'INSERT SELECT',
      verifications: 'DELETE INSERT SELECT',
      async_ends: 'DELETE INSERT SELECT',
      consumer_marks: 'DELETE INSERT SELECT',
      queued_requests: 'DELETE INSERT SELECT',
      request_traces: 'DELETE INSERT SELECT',
      webhook_attempts: 'DELETE INSERT SELECT',
      webhook_backlogs: 'INSERT SELECT',
      webhook_deliveries: 'DELETE INSERT SELECT',
      webhook_endpoints: 'DELETE INSERT SELECT',
      webhook_events: 'DELETE INSERT SELECT',
      webhook_requests: 'DELETE INSERT SELECT',
      api_keys: 'INSERT SELECT',
      daily_totals: 'INSERT SELECT TRUNCATE',
      wallet_activity: 'INSERT SELECT TRUNCATE',
    })
    const columns = await owner`
      SELECT relname || '.' || attname AS name FROM pg_class c JOIN pg_attribute ON attrelid = c.oid AND attnum > 0
      WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
        AND has_column_privilege('zerosum_app', c.oid, attnum, 'UPDATE')`
    // Of webhooks, nothing that says whose something is.
    const ofEndpoints = ['url', 'description', 'event_types', 'secret', 'secret_since_us', 'previous_secrets']
    const stateOfEndpoints = [
      ...['disabled_us', 'disabled_reason', 'failing_since_us', 'resting_until_us', 'slow_until_us', 'deleted_us'],
    ]
    const ofBacklogs = ['room', 'counted_us', 'is_full', 'missed', 'missed_from_us', 'missed_until_us']
    const ofDeliveries = ['status', 'attempts', 'tries', 'due_us', 'is_taken', 'touched_us', 'delivered_us']
    expect(columns.map(({ name }) => name).sort()).toEqual(
      [
        'api_keys.revoked_at',
        'consumer_marks.block',
        'consumer_marks.index',
        'consumer_marks.partitions',
        'daily_totals.amount',
        'daily_totals.number',
        ...[...ofEndpoints, ...stateOfEndpoints].map((name) => `webhook_endpoints.${name}`),
        ...['due_us', 'attempts', 'first_ms', 'reason', 'dead_us', 'traceparent'].map(
          (name) => `queued_requests.${name}`,
        ),
        ...ofDeliveries.map((name) => `webhook_deliveries.${name}`),
        ...ofBacklogs.map((name) => `webhook_backlogs.${name}`),
      ].sort(),
    )
  })

  it('may call the doors to the ledger, and to where its readers are, and no other function', async () => {
    const rows = await owner`
      SELECT proname AS name FROM pg_proc
      WHERE pronamespace = 'public'::regnamespace AND has_function_privilege('zerosum_app', oid, 'EXECUTE') ORDER BY 1`
    expect(rows.map(({ name }) => name)).toEqual([
      ...[
        'append_block',
        'copy_history',
        'leave_lease',
        'lock_head',
        'queue_requests',
        'record_position',
        'rewind_reader',
      ],
      ...['slot_of', 'take_lease'],
    ])
  })

  it.each([
    ...['blocks', 'requests', 'entries', 'accounts', 'wallets', 'holds', 'chain_head', 'shard_map'].flatMap((table) => [
      `INSERT INTO ${table} SELECT * FROM ${table}`,
      `DELETE FROM ${table}`,
      `TRUNCATE ${table}`,
      `ALTER TABLE ${table} DISABLE TRIGGER ALL`,
    ]),
    'UPDATE accounts SET credits_posted = credits_posted + 1',
    "UPDATE accounts SET status = 'active'",
    "UPDATE blocks SET writer = 'me'",
    'UPDATE requests SET refusal = NULL',
    'UPDATE entries SET amount = amount + 1',
    "UPDATE holds SET status = 'held'",
    "UPDATE wallets SET name = 'mine'",
    'UPDATE chain_head SET shard = 1',
    'DELETE FROM schema_migrations',
    'UPDATE api_keys SET scopes = scopes',
    'SELECT open_block()',
    "CREATE FUNCTION open_block_2() RETURNS int8 LANGUAGE sql AS 'SELECT 1::int8'",
    'CREATE TABLE mine (id int)',
    'DROP TRIGGER append_only ON blocks',
    'SET session_replication_role = replica',
  ])('is denied: %s', async (statement) => {
    expect(await answerTo(app.unsafe(statement))).toMatch(/^42501 /)
  })
})
