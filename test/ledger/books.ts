import { headerHash } from '../../src/core/block.ts'
import { connect, type Sql } from '../../src/postgres/connect.ts'

/**
 * What is wrong with the books of a shard, in words; nothing if they are right. Statements of its own, which share no code
 * with what writes or audits the ledger.
 */
export async function faultsOf(url: string, shard = 0): Promise<string[]> {
  const sql = connect(url, { max: 1, role: null })
  try {
    return [...(await chainFaults(sql, shard)), ...(await moneyFaults(sql))]
  } finally {
    await sql.end()
  }
}

type BlockRow = {
  number: bigint
  previous_hash: Buffer
  root: Buffer
  hash: Buffer
  time_us: bigint
  writer: string
  request_count: number
  entry_count: number
}

/** Blocks are numbered without a gap, each hangs on the one before, and the head is the last one. */
async function chainFaults(sql: Sql, shard: number): Promise<string[]> {
  const blocks = await sql<BlockRow[]>`SELECT * FROM blocks ORDER BY number`
  const faults: string[] = []
  let before: Pick<BlockRow, 'number' | 'hash' | 'time_us'> = { number: 0n, hash: Buffer.alloc(32), time_us: 0n }
  for (const block of blocks) {
    const { number, previous_hash: previousHash, root, hash, time_us, writer } = block
    if (number !== before.number + 1n) faults.push(`block ${number} comes after block ${before.number}`)
    if (!previousHash.equals(before.hash)) faults.push(`block ${number} does not hang on block ${before.number}`)
    if (time_us <= before.time_us) faults.push(`block ${number} is not later than block ${before.number}`)
    const header = { shard, number: Number(number), previousHash, root, timeUs: Number(time_us), writer }
    const counts = { requestCount: block.request_count, entryCount: block.entry_count }
    if (!hash.equals(headerHash({ ...header, ...counts })))
      faults.push(`the hash of block ${number} is not its header's`)
    before = block
  }
  const [head] = await sql<{ number: bigint; hash: Buffer }[]>`SELECT number, hash FROM chain_head`
  if (head?.number !== before.number || !head.hash.equals(before.hash)) faults.push('the head is not the last block')
  return faults
}

/** Money neither comes nor goes, and each balance is the sum of what moved it. */
async function moneyFaults(sql: Sql): Promise<string[]> {
  const rows = await sql<{ fault: string }[]>`
    SELECT format('%s %s of all accounts is %s, not 0', currency, layer, total) AS fault FROM (
      SELECT currency, 'posted' AS layer, sum(credits_posted::numeric - debits_posted) AS total FROM accounts GROUP BY 1
      UNION ALL
      SELECT currency, 'pending', sum(credits_pending::numeric - debits_pending) FROM accounts GROUP BY 1) AS totals
    WHERE total <> 0
    UNION ALL
    SELECT format('request %s of block %s moves %s %s (%s) out of nothing', item, block, sum(amount), currency, layer)
    FROM entries GROUP BY block, item, currency, layer HAVING sum(amount) <> 0
    UNION ALL
    SELECT format('entry %s of account %s: %s', sequence, account_id, fault) FROM (
      SELECT account_id, sequence, CASE
        WHEN sequence <> row_number() OVER walk THEN 'entries are missing before it'
        WHEN posted <> coalesce(sum(amount) FILTER (WHERE layer = 'posted') OVER walk, 0) THEN 'posted is not the sum so far'
        WHEN pending_in - pending_out <> coalesce(sum(amount) FILTER (WHERE layer = 'pending') OVER walk, 0)
          THEN 'pending is not the sum so far'
        WHEN (block, item, line) < lag((block, item, line)) OVER walk THEN 'it stands in an earlier block than the one before'
      END AS fault
      FROM entries WINDOW walk AS (PARTITION BY account_id ORDER BY sequence)) AS walked
    WHERE fault IS NOT NULL
    UNION ALL
    SELECT format('account %s has %s, its %s entries come to %s', a.id, a.counters, e.count, e.counters) FROM (
      SELECT id, sequence, ARRAY[debits_posted, credits_posted, credits_pending - debits_pending] AS counters FROM accounts
    ) AS a LEFT JOIN LATERAL (
      SELECT count(*), ARRAY[coalesce(sum(-amount) FILTER (WHERE layer = 'posted' AND amount < 0), 0)::int8,
                             coalesce(sum(amount) FILTER (WHERE layer = 'posted' AND amount > 0), 0)::int8,
                             coalesce(sum(amount) FILTER (WHERE layer = 'pending'), 0)::int8] AS counters
      FROM entries WHERE account_id = a.id) AS e ON true
    WHERE a.counters <> e.counters OR a.sequence <> e.count
    UNION ALL
    SELECT format('block %s has %s requests and %s entries, its header says otherwise', number, requests, entries) FROM (
      SELECT number, request_count, entry_count, (SELECT count(*) FROM requests WHERE block = number) AS requests,
             (SELECT count(*) FROM entries WHERE block = number) AS entries FROM blocks) AS counted
    WHERE (requests, entries) <> (request_count, entry_count)
    UNION ALL
    SELECT format('request %s (%s) was %s and has %s entries', id, kind, coalesce(refusal, 'accepted'), count(line))
    FROM requests LEFT JOIN entries USING (block, item)
    GROUP BY id, kind, refusal HAVING CASE
      WHEN refusal IS NOT NULL OR kind IN ('wallet-open', 'wallet-update') THEN count(line) > 0
      ELSE count(line) = 0 END`
  return rows.map(({ fault }) => fault)
}

/** What a wallet holds: posted, minor units. */
export async function balanceOf(sql: Sql, walletId: string): Promise<bigint> {
  const [row] = await sql<{ posted: bigint }[]>`
    SELECT credits_posted - debits_posted AS posted FROM accounts WHERE id = ${walletId}`
  if (!row) throw new Error(`no account ${walletId}`)
  return row.posted
}
