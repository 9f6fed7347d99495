import { once } from 'node:events'
import { type AddressInfo, createConnection, createServer, type Socket } from 'node:net'
import { afterEach, describe, expect, it } from 'vitest'
import { seededRandom } from '../../bench/load.ts'
import type { Outcome } from '../../src/core/post.ts'
import type { Operation, Request } from '../../src/core/request.ts'
import {
  createPoster,
  LedgerUnavailable,
  type Poster,
  type PosterOptions,
  type Result,
} from '../../src/ledger/poster.ts'
import { connect, type Sql, type Tx } from '../../src/postgres/connect.ts'
import { migratedDatabase } from '../support/database.ts'
import { ask, holdOf, type Ledger, openLedger, transferOf } from '../support/ledger.ts'
import { balanceOf, faultsOf } from './books.ts'
import { seedFor } from './seed.ts'

/** What a test opened; closed after it, whatever became of it. */
const opened: { close(): Promise<unknown> }[] = []

afterEach(async () => {
  await Promise.all(opened.splice(0).map((thing) => thing.close()))
})

function ledgerOn(url: string, writer?: string): Ledger {
  const ledger = openLedger(url, writer)
  opened.push(ledger)
  return ledger
}

function ownerOf(url: string): Sql {
  const sql = connect(url, { max: 2, role: null })
  opened.push({ close: () => sql.end() })
  return sql
}

const clockUs = () => Math.round((performance.timeOrigin + performance.now()) * 1000)

function posterOn(url: string, options: Partial<PosterOptions> = {}): Poster {
  const poster = createPoster({ url, shard: 0, writer: 'test', clockUs, ...options })
  opened.push(poster)
  return poster
}

function outcomeOf(result: Result | undefined): Outcome {
  if (result === undefined || result instanceof Error) throw new Error('not an outcome', { cause: result })
  return result
}

/** `accepted`, the refusal, or what else became of it. */
function summaryOf(result: Result | undefined): string {
  if (result instanceof Error) return result instanceof LedgerUnavailable ? 'unavailable' : 'error'
  const { status, record } = outcomeOf(result)
  return `${status}: ${record.refusal ?? 'accepted'}`
}

const one = async (poster: Poster, operation: Operation, key?: string) =>
  summaryOf((await poster.post([ask(operation, key)]))[0])

/** Posts until a poster that nobody disturbs has taken the chain for its own. */
async function becomeLeader(poster: Poster, wallet: string): Promise<void> {
  for (let i = 0; i < 8; i++) await one(poster, { kind: 'top-up', walletId: wallet, amount: 1n, currency: 'USD' })
}

/** Keeps everybody from writing blocks until `release`. */
async function holdChain(owner: Sql): Promise<{ release(): Promise<void> }> {
  let release = () => {}
  const released = new Promise<void>((done) => {
    release = done
  })
  let held: Promise<void> = Promise.resolve()
  await new Promise<void>((isHeld, fail) => {
    held = owner.begin(async (sql: Tx) => {
      await sql`SET LOCAL idle_in_transaction_session_timeout = 0`
      await sql`SELECT FROM chain_head FOR UPDATE`
      isHeld()
      await released
    })
    held.catch(fail)
  })
  return {
    async release() {
      release()
      await held
    },
  }
}

/** A way to the database that can fall silent: what is connected then stays connected, and hears nothing any more. */
async function proxyTo(url: string): Promise<{ url: string; silence(): void }> {
  const target = new URL(url)
  let pairs: [Socket, Socket][] = []
  const server = createServer((near) => {
    const far = createConnection(Number(target.port), target.hostname)
    pairs.push([near, far])
    for (const [a, b] of [[near, far] as const, [far, near] as const]) {
      a.pipe(b)
      a.on('error', () => {})
      a.on('close', () => b.destroy())
    }
  })
  const all: Socket[] = []
  server.on('connection', (socket) => all.push(socket))
  await once(server.listen(0, '127.0.0.1'), 'listening')
  opened.push({
    async close() {
      for (const socket of all) socket.destroy()
      server.close()
    },
  })
  const through = new URL(url)
  through.port = `${(server.address() as AddressInfo).port}`
  through.hostname = '127.0.0.1'
  return {
    url: through.href,
    silence() {
      for (const [near, far] of pairs) {
        near.unpipe(far)
        far.unpipe(near)
      }
      pairs = []
    },
  }
}

/** The poster's connection that waits for the chain; it is there as soon as a block, or a turn, is on its way. */
async function waitingWriter(owner: Sql, except?: number): Promise<number> {
  for (;;) {
    const [row] = await owner<{ pid: number }[]>`
      SELECT pid FROM pg_stat_activity
      WHERE datname = current_database() AND application_name = 'zerosum poster 0' AND wait_event_type = 'Lock'
        AND pid IS DISTINCT FROM ${except ?? null}::int`
    if (row) return row.pid
    await pause(5)
  }
}

async function terminate(owner: Sql, pid: number): Promise<void> {
  await owner`SELECT pg_terminate_backend(${pid}, 5000)`
}

/** Each costs a batch one try at most, so that no batch is given up, however slow the machine. */
const KILLS_IN_A_ROW = 3

const pause = (ms: number) => new Promise((done) => setTimeout(done, ms))

/** Whether a promise is settled by now, after a chance to become so. */
async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  return await Promise.race([promise.then(() => true), pause(200).then(() => false)])
}

type Recorded = { id: string; key: string; refusal: string | null; block: bigint }

describe('what the poster answers', () => {
  it('is in the database: the request, its entries, its effect, its refusal', async () => {
    const url = await migratedDatabase()
    const ledger = ledgerOn(url)
    const owner = ownerOf(url)
    const [from, to] = [await ledger.wallet(100n), await ledger.wallet()]
    const [paid, refused, held] = [
      await ledger.ask(transferOf(from, to, 60n)),
      await ledger.ask(transferOf(from, to, 60n)),
      await ledger.ask(holdOf(from, to, 15n)),
    ]
    expect([paid, refused, held].map(({ record }) => record.refusal)).toEqual([null, 'insufficient_funds', null])
    for (const { record } of [paid, refused, held]) {
      const rows = await owner`
        SELECT r.id, r.tenant_id AS "tenantId", r.kind, r.payload::text, r.refusal, r.result::text, b.time_us AS "timeUs"
        FROM requests r JOIN blocks b ON b.number = r.block WHERE r.id = ${record.id}`
      expect(rows.map((row) => ({ ...row, timeUs: Number(row['timeUs']) }))).toEqual([record])
    }
    const accounts = await owner`
      SELECT credits_posted - debits_posted AS posted, debits_pending AS out, credits_pending AS in
      FROM accounts WHERE id IN (${from}, ${to}) ORDER BY id = ${to}`
    expect([...accounts]).toEqual([
      { posted: 40n, out: 15n, in: 0n },
      { posted: 60n, out: 0n, in: 15n },
    ])
    expect(await faultsOf(url)).toEqual([])
  })

  it('is the same once more for the same key, to this ledger and another, and moves nothing twice', async () => {
    const url = await migratedDatabase()
    const ledger = ledgerOn(url)
    const [from, to] = [await ledger.wallet(100n), await ledger.wallet()]
    const first = await ledger.ask(transferOf(from, to, 60n), 'once')
    expect(await ledger.ask(transferOf(from, to, 60n), 'once')).toEqual({ status: 'replayed', record: first.record })
    const other = ledgerOn(url, 'other')
    expect(await other.ask(transferOf(from, to, 60n), 'once')).toEqual({ status: 'replayed', record: first.record })
    expect(await other.ask(transferOf(from, to, 61n), 'once')).toEqual({ status: 'key_reused', record: first.record })
    expect(await balanceOf(ownerOf(url), to)).toBe(60n)
  })

  it.each(['following', 'leading'])('calls a second copy in the same batch a replay, when %s', async (mode) => {
    const url = await migratedDatabase()
    const [from, to] = await twoWallets(url)
    const poster = posterOn(url)
    if (mode === 'leading') await becomeLeader(poster, from)
    const copies = [ask(transferOf(from, to, 10n), 'once'), ask(transferOf(from, to, 10n), 'once')]
    const results = await poster.post(copies)
    expect(results.map(summaryOf)).toEqual(['decided: accepted', 'replayed: accepted'])
    expect(outcomeOf(results[1]).record).toEqual(outcomeOf(results[0]).record)
  })

  it('is a block later than the one before, even if the clock went back', async () => {
    const url = await migratedDatabase()
    const [from, to] = await twoWallets(url)
    const poster = posterOn(url, { clockUs: () => 1_000 })
    for (let i = 0; i < 8; i++) expect(await one(poster, transferOf(from, to, 1n))).toBe('decided: accepted')
    expect(await faultsOf(url)).toEqual([])
  })

  it('is told to onBlock as well, once a block, in order', async () => {
    const url = await migratedDatabase()
    const [from, to] = await twoWallets(url)
    const seen: { number: number; ids: string[] }[] = []
    const poster = posterOn(url, {
      onBlock: (block, { decisions }) =>
        seen.push({ number: block.number, ids: decisions.map(({ record }) => record.id) }),
    })
    const owner = ownerOf(url)
    const [last] = await owner<{ number: bigint }[]>`SELECT number FROM chain_head`
    for (let i = 0; i < 5; i++) await one(poster, transferOf(from, to, 1n))
    await Promise.all(Array.from({ length: 10 }, () => poster.post([1n, 2n].map((n) => ask(transferOf(from, to, n))))))
    const rows = await owner<{ number: bigint; ids: string[] }[]>`
      SELECT block AS number, array_agg(id::text ORDER BY item) AS ids FROM requests
      WHERE block > ${last?.number ?? 0n} GROUP BY block ORDER BY block`
    expect(seen).toEqual(rows.map(({ number, ids }) => ({ number: Number(number), ids })))
    expect(seen).toHaveLength(15)
  })

  it('is the same though onBlock throws, leading or not; that is told', async () => {
    const url = await migratedDatabase()
    const [from, to] = await twoWallets(url)
    const troubles: unknown[] = []
    const poster = posterOn(url, {
      onBlock: () => {
        throw new Error('a listener failed')
      },
      onTrouble: (error) => troubles.push(error),
    })
    for (let i = 0; i < 6; i++) expect(await one(poster, transferOf(from, to, 1n))).toBe('decided: accepted')
    expect(troubles.map((error) => (error as Error).message)).toEqual(Array(6).fill('a listener failed'))
  })

  it('is made over connections that the server never ends by the clock, whatever the database says', async () => {
    const url = await migratedDatabase()
    const [from, to] = await twoWallets(url)
    const owner = ownerOf(url)
    await owner.unsafe(`ALTER DATABASE ${new URL(url).pathname.slice(1)} SET statement_timeout = '200ms'`)
    const poster = posterOn(url)
    const troubles: unknown[] = []
    const leading = posterOn(url, { onTrouble: (error) => troubles.push(error) })
    for (let i = 0; i < 4; i++) expect(await one(leading, transferOf(from, to, 1n))).toBe('decided: accepted')
    for (const each of [leading, poster]) {
      let posted: Promise<string> | undefined
      await owner.begin(async (sql) => {
        await sql`SELECT FROM chain_head FOR UPDATE`
        posted = one(each, transferOf(from, to, 1n))
        await sql`SELECT pg_sleep(1) FROM set_config('statement_timeout', '0', true)`
      })
      expect(await posted).toBe('decided: accepted')
    }
    expect(troubles).toEqual([])
  })

  it('is LedgerUnavailable for each request, after some tries, when the database is not there', async () => {
    const url = new URL(await migratedDatabase())
    url.port = '9' // discard: nobody listens there
    let tries = 0
    const poster = posterOn(url.href, {
      onTrouble: () => {
        tries += 1
      },
    })
    const results = await poster.post([
      ask(transferOf(url.href, url.href, 1n)),
      ask(transferOf(url.href, url.href, 1n)),
    ])
    expect(results.map(summaryOf)).toEqual(['unavailable', 'unavailable'])
    expect(tries).toBeGreaterThan(1)
  })
})

async function twoWallets(url: string, balance = 1_000n): Promise<[string, string]> {
  const ledger = openLedger(url, 'setup')
  const wallets: [string, string] = [await ledger.wallet(balance), await ledger.wallet()]
  await ledger.close()
  return wallets
}

describe('batches that overlap', () => {
  it.each(['following', 'leading'])('are decided in the order of the calls, when %s', async (mode) => {
    const url = await migratedDatabase()
    const ledger = ledgerOn(url)
    const wallets = [await ledger.wallet(100n)]
    for (let i = 0; i < 6; i++) wallets.push(await ledger.wallet())
    const poster = posterOn(url)
    if (mode === 'leading') await becomeLeader(poster, await ledger.wallet())
    // The same 1.00 travels from wallet to wallet: only in this order can each pay the next.
    const journey = wallets.slice(1).map((to, i) => transferOf(wallets[i] ?? '', to, 100n))
    const results = await Promise.all(journey.map((operation) => one(poster, operation)))
    expect(results).toEqual(journey.map(() => 'decided: accepted'))
    expect(await balanceOf(ownerOf(url), wallets.at(-1) ?? '')).toBe(100n)
    expect(await faultsOf(url)).toEqual([])
  })

  it('wait for the block in flight that decided what they only replay', async () => {
    const url = await migratedDatabase()
    const owner = ownerOf(url)
    const [from, to] = await twoWallets(url)
    const poster = posterOn(url)
    await becomeLeader(poster, from)
    const chain = await holdChain(owner)
    const first = poster.post([ask(transferOf(from, to, 10n), 'once')])
    await waitingWriter(owner)
    const replay = poster.post([ask(transferOf(from, to, 10n), 'once')])
    expect(await isSettled(replay)).toBe(false)
    await chain.release()
    expect((await first).map(summaryOf)).toEqual(['decided: accepted'])
    expect((await replay).map(summaryOf)).toEqual(['replayed: accepted'])
    expect(outcomeOf((await replay)[0]).record).toEqual(outcomeOf((await first)[0]).record)
  })

  it('replay what became of that block in the end, when its first try fails', async () => {
    const url = await migratedDatabase()
    const owner = ownerOf(url)
    const [from, to] = await twoWallets(url)
    const poster = posterOn(url)
    await becomeLeader(poster, from)
    const chain = await holdChain(owner)
    const first = poster.post([ask(transferOf(from, to, 10n), 'once')])
    const writer = await waitingWriter(owner)
    const replay = poster.post([ask(transferOf(from, to, 10n), 'once')])
    await terminate(owner, writer)
    expect(await isSettled(replay)).toBe(false)
    await chain.release()
    // Either of the two may be the one that is decided now.
    const results = [...(await first), ...(await replay)]
    expect(results.map(summaryOf).toSorted()).toEqual(['decided: accepted', 'replayed: accepted'])
    expect(outcomeOf(results[0]).record).toEqual(outcomeOf(results[1]).record)
    expect(await faultsOf(url)).toEqual([])
  })
})

describe('a request that the database refuses', () => {
  it.each(['following', 'leading'])('fails alone, the rest of its batch goes through, when %s', async (mode) => {
    const url = await migratedDatabase()
    const owner = ownerOf(url)
    const [from, to] = await twoWallets(url)
    const poster = posterOn(url)
    if (mode === 'leading') await becomeLeader(poster, from)
    const before = await balanceOf(owner, from)
    const batch = Array.from({ length: 40 }, (_, i) =>
      ask(transferOf(from, to, 1n), i === 17 ? 'k'.repeat(300) : undefined),
    )
    const next = Array.from({ length: 40 }, () => ask(transferOf(from, to, 1n)))
    const [results, nextResults] = await Promise.all([poster.post(batch), poster.post(next)])
    expect(results.map(summaryOf)).toEqual(batch.map((_, i) => (i === 17 ? 'error' : 'decided: accepted')))
    expect(results[17]).toMatchObject({ message: 'posting failed', cause: { constraint: 'requests_key_check' } })
    expect(nextResults.map(summaryOf)).toEqual(next.map(() => 'decided: accepted'))
    expect(before - (await balanceOf(owner, from))).toBe(79n)
    expect([...(await owner`SELECT FROM requests WHERE id = ${batch[17]?.id}`)]).toEqual([])
    expect(await faultsOf(url)).toEqual([])
  })

  it('is one of several, and each of them fails alone', async () => {
    const url = await migratedDatabase()
    const [from, to] = await twoWallets(url)
    const poster = posterOn(url)
    const isPoison = (i: number) => [0, 1, 30, 63].includes(i)
    const batch = Array.from({ length: 64 }, (_, i) =>
      ask(transferOf(from, to, 1n), isPoison(i) ? `${'k'.repeat(300)}${i}` : undefined),
    )
    const results = await poster.post(batch)
    expect(results.map(summaryOf)).toEqual(batch.map((_, i) => (isPoison(i) ? 'error' : 'decided: accepted')))
    expect(await one(poster, transferOf(from, to, 1n))).toBe('decided: accepted')
    expect(await faultsOf(url)).toEqual([])
  })
})

describe('a poster whose connection breaks', () => {
  it('finds what its block did after all, instead of doing it again', async () => {
    const url = await migratedDatabase()
    const owner = ownerOf(url)
    const [from, to] = await twoWallets(url)
    const poster = posterOn(url)
    for (let round = 0; round < 20; round++) {
      await becomeLeader(poster, from)
      const before = await balanceOf(owner, to)
      const posted = poster.post(Array.from({ length: 20 }, () => ask(transferOf(from, to, 1n))))
      // Now and then this comes before the commit, now and then after it, now and then between it and its answer.
      await owner`
        SELECT pg_sleep(${round / 5_000}), pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'zerosum poster 0'`
      expect((await posted).map(summaryOf)).toEqual(Array.from({ length: 20 }, () => 'decided: accepted'))
      expect((await balanceOf(owner, to)) - before).toBe(20n)
    }
    expect(await faultsOf(url)).toEqual([])
  })

  it('decides two batches that were under way in the order in which they came', async () => {
    const url = await migratedDatabase()
    const owner = ownerOf(url)
    const [from, to] = await twoWallets(url)
    const middle = await ledgerOn(url, 'other').wallet()
    const poster = posterOn(url)
    for (let round = 0; round < 5; round++) {
      await becomeLeader(poster, from)
      const chain = await holdChain(owner)
      // The second spends what the first brings.
      const both = [one(poster, transferOf(from, middle, 1n)), one(poster, transferOf(middle, to, 1n))]
      const writer = await waitingWriter(owner)
      await terminate(owner, writer)
      // The first of them tries again, in vain, and rests for a moment.
      await terminate(owner, await waitingWriter(owner, writer))
      await chain.release()
      expect(await Promise.all(both)).toEqual(['decided: accepted', 'decided: accepted'])
    }
    expect(await faultsOf(url)).toEqual([])
  })

  it('answers everything under load, loses nothing, doubles nothing', async () => {
    const random = seededRandom(seedFor('terminated connections'))
    const url = await migratedDatabase()
    const owner = ownerOf(url)
    const ledger = ledgerOn(url)
    const wallets = await Promise.all(Array.from({ length: 20 }, () => ledger.wallet(1_000_000n)))
    const load = runLoad(ledger, wallets, random, 8_000)
    let terminated = 0
    for (let kills = 1; !load.isDone(); kills++) {
      const rows = await owner`
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name LIKE 'zerosum poster%'`
      terminated += rows.length
      await pause(50 + random() * 300)
      // A poster gives a batch up after eight tries, and is right: where a turn takes longer than this pause, it would be killed in each.
      if (kills % KILLS_IN_A_ROW === 0) await load.settled()
    }
    const answers = await load.answers
    expect(terminated).toBeGreaterThan(2)
    await expectEachOnce(owner, answers)
    expect(await faultsOf(url)).toEqual([])
  })

  it('goes on over another connection when the one it has falls silent', async () => {
    const url = await migratedDatabase()
    const [from, to] = await twoWallets(url)
    const proxy = await proxyTo(url)
    const poster = posterOn(proxy.url)
    await becomeLeader(poster, from)
    // As when the machine of the database is gone, or a firewall forgot: no answer, and no end of the connection either.
    proxy.silence()
    const results = await Promise.all([1, 2, 3].map(() => one(poster, transferOf(from, to, 1n), 'once')))
    expect(results.toSorted()).toEqual(['decided: accepted', 'replayed: accepted', 'replayed: accepted'])
    expect(await faultsOf(url)).toEqual([])
  })

  it('goes on to lead when nothing but replays comes afterwards', async () => {
    const url = await migratedDatabase()
    const owner = ownerOf(url)
    const [from, to] = await twoWallets(url)
    const troubles: unknown[] = []
    const poster = posterOn(url, { onTrouble: (error) => troubles.push(error) })
    await becomeLeader(poster, from)
    const chain = await holdChain(owner)
    const first = poster.post([ask(transferOf(from, to, 10n), 'once')])
    await terminate(owner, await waitingWriter(owner))
    await chain.release()
    expect((await first).map(summaryOf)).toEqual(['decided: accepted'])
    troubles.length = 0
    for (let i = 0; i < 10; i++) expect(await one(poster, transferOf(from, to, 10n), 'once')).toBe('replayed: accepted')
    expect(troubles).toEqual([])
  })
})

describe('two posters on one chain', () => {
  it('both get everything done under load, and the chain has no gap', async () => {
    const random = seededRandom(seedFor('two posters'))
    const url = await migratedDatabase()
    const owner = ownerOf(url)
    const ledgers = [ledgerOn(url, 'left'), ledgerOn(url, 'right')]
    const [left] = ledgers
    const wallets = await Promise.all(Array.from({ length: 20 }, () => left?.wallet(1_000_000n) ?? ''))
    const answers = await Promise.all(ledgers.map((ledger) => runLoad(ledger, wallets, random, 3_000).answers))
    await expectEachOnce(owner, answers.flat())
    const rows =
      await owner`SELECT writer, sum(request_count)::int AS count FROM blocks GROUP BY writer ORDER BY writer`
    expect(rows.map(({ writer }) => writer)).toEqual(['left', 'right'])
    for (const { count } of rows) expect(count).toBeGreaterThanOrEqual(3_000)
    expect(await faultsOf(url)).toEqual([])
  })

  it('are not held up for good by a third that stalls with the chain', async () => {
    const url = await migratedDatabase()
    const [from, to] = await twoWallets(url)
    const poster = posterOn(url)
    await becomeLeader(poster, from)
    const stalled = connect(url, { max: 1 })
    let isOver = () => {}
    const over = new Promise<void>((done) => {
      isOver = done
    })
    const stall = new Promise<void>((hasChain) => {
      const turn = stalled.begin(async (sql) => {
        await sql`SELECT FROM lock_head()`
        hasChain()
        await over
      })
      turn.catch(() => {})
    })
    await stall
    const results = await Promise.all([1n, 2n, 3n].map((amount) => one(poster, transferOf(from, to, amount))))
    expect(results).toEqual(results.map(() => 'decided: accepted'))
    isOver()
    await stalled.end()
  })

  it('see each other: one that leads notices what the other changed', async () => {
    const url = await migratedDatabase()
    const [from, to] = await twoWallets(url)
    const poster = posterOn(url)
    const other = posterOn(url, { writer: 'other' })
    for (const status of ['frozen', 'active', 'frozen'] as const) {
      await becomeLeader(poster, to)
      await one(poster, transferOf(from, to, 1n))
      expect(await one(other, { kind: 'wallet-update', walletId: from, status })).toBe('decided: accepted')
      const expected = status === 'frozen' ? 'wallet_frozen' : 'accepted'
      expect(await one(poster, transferOf(from, to, 1n))).toBe(`decided: ${expected}`)
    }
    expect(await faultsOf(url)).toEqual([])
  })
})

type Load = {
  answers: Promise<{ request: Request; outcome: Outcome }[]>
  isDone(): boolean
  /** Ends when all that is under way now has been answered, somehow. */
  settled(): Promise<unknown>
}

/** Random transfers between wallets, 500 in the air at a time. */
function runLoad({ batcher }: Ledger, wallets: readonly string[], random: () => number, count: number): Load {
  const draw = () => wallets[Math.floor(random() * wallets.length)] ?? ''
  let left = count
  let isDone = false
  const underway = new Set<Promise<Outcome>>()
  const client = async () => {
    const answers: { request: Request; outcome: Outcome }[] = []
    while (left > 0) {
      left -= 1
      const request = ask(transferOf(draw(), draw(), 1n + BigInt(Math.floor(random() * 100))))
      const { submitted } = await queued(batcher, request)
      underway.add(submitted)
      answers.push({ request, outcome: await submitted })
      underway.delete(submitted)
    }
    return answers
  }
  const answers = Promise.all(Array.from({ length: 500 }, client)).then((lists) => lists.flat())
  const done = () => {
    isDone = true
  }
  answers.then(done, done)
  return { answers, isDone: () => isDone, settled: () => Promise.allSettled(underway) }
}

/** Has a request queued. A block that takes five seconds, as on a slow machine, has the batcher refuse it at once: then it is sent later. */
async function queued({ submit }: Ledger['batcher'], request: Request): Promise<{ submitted: Promise<Outcome> }> {
  for (;;) {
    try {
      return { submitted: submit(request) }
    } catch (error) {
      if (!(error instanceof LedgerUnavailable)) throw error
    }
    await pause(50)
  }
}

/** Each request was decided now, for itself, and stands in the ledger once, as it was answered. */
async function expectEachOnce(owner: Sql, answers: readonly { request: Request; outcome: Outcome }[]): Promise<void> {
  const rows = await owner<Recorded[]>`SELECT id, key, refusal, block FROM requests WHERE kind = 'transfer'`
  const recorded = new Map(rows.map((row) => [row.key, row]))
  expect(rows).toHaveLength(answers.length)
  for (const { request, outcome } of answers) {
    expect(outcome.status).toBe('decided')
    expect(outcome.record.id).toBe(request.id)
    expect(recorded.get(request.key)).toMatchObject({ id: request.id, refusal: outcome.record.refusal })
  }
}
