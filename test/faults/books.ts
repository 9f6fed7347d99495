import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import { type LedgerEvent, TOPICS } from '../../src/bus/events.ts'
import { createKafkaBus } from '../../src/bus/kafkaBus.ts'
import { formatId } from '../../src/core/ids.ts'
import { connect } from '../../src/postgres/connect.ts'
import { allEvents, byKey, once, until, untilAll } from '../bus/stage.ts'
import type { Answer, Problem, Transfer } from '../support/api.ts'
import { verifyBooks } from '../support/node.ts'
import { type Asked, FUNDS } from './load.ts'
import type { Stage } from './stage.ts'

const SECONDS = 90
const AT_ONCE = 8

/** Done, or refused for good. */
const isFinal = ({ status }: Answer<unknown>) => status === 201 || status === 422

/** An answer without what differs from call to call. */
const gist = ({ status, text, body }: Answer<Transfer & Problem>) =>
  status === 422 ? `422 ${body.code}` : `${status} ${text}`

/**
 * Repeats every key: what was answered for good is answered again, what was not is done once. Then balances are what independent sums say, the
 * ledger has one record for each that went through, `zerosum verify` finds nothing, and every event has been published, in order.
 */
export async function expectBooks(stage: Stage): Promise<void> {
  const { load, client, urls, settings } = stage
  const payments = load.asked.filter(({ flow }) => !flow.startsWith('read'))
  const paid: (Asked & { id: string })[] = []
  await forAll(payments, async (asked) => {
    const id = asked.flow.startsWith('later') ? await postedLater(stage, asked) : await answeredForGood(stage, asked)
    if (id !== undefined) paid.push({ ...asked, id })
  })

  const expected = new Map(load.wallets.flat().map((wallet) => [wallet, BigInt(FUNDS)]))
  for (const { from, to, amount } of paid) {
    expected.set(from, (expected.get(from) ?? 0n) - BigInt(amount))
    expected.set(to, (expected.get(to) ?? 0n) + BigInt(amount))
  }
  for (const [wallet, amount] of expected) {
    const strong = await client.get<{ posted: string; pendingIn: string; pendingOut: string }>(
      `/v1/wallets/${wallet}/balance?consistency=strong`,
    )
    expect(strong.body).toMatchObject({ posted: `${amount}`, pendingIn: '0', pendingOut: '0' })
    // What is shown from the cache comes to the same.
    await until(
      async () => (await client.balance(wallet)).posted === `${amount}`,
      () => 'the cache is stale',
      SECONDS,
    )
  }

  const records: string[] = []
  for (const url of urls) {
    const sql = connect(url, { max: 1, name: 'test' })
    const rows = await sql<{ id: string }[]>`SELECT id FROM requests WHERE kind = 'transfer' AND refusal IS NULL`
    records.push(...rows.map(({ id }) => formatId('trf', id)))
    await sql.end()
  }
  const ids = paid.map(({ id }) => id)
  expect(new Set(ids).size).toBe(ids.length)
  // Between shards a payment that came to nothing was accepted at first: its record stays, its money came back.
  expect(new Set(records).size).toBe(records.length)
  expect(new Set(records).isSupersetOf(new Set(ids))).toBe(true)
  expect(records.length - ids.length).toBeLessThanOrEqual(payments.length - ids.length)

  const { code, output } = await verifyBooks(settings)
  expect(code, output).toBe(0)
  await expectEvents(stage)
  console.log(`${paid.length} of ${payments.length} payments went through`)
}

/** @returns the id, if it went through */
async function answeredForGood({ load }: Stage, asked: Asked): Promise<string | undefined> {
  const first = asked.answer
  for (let tries = 0; ; tries++) {
    const again = await load.repeat(asked)
    if (first && isFinal(first)) expect(gist(again), asked.key).toBe(gist(first))
    if (isFinal(again)) return again.status === 201 ? again.body.id : undefined
    if (tries > SECONDS * 2) throw new Error(`${asked.key} has no final answer: ${again.status} ${again.text}`)
    await sleep(500)
  }
}

async function postedLater({ load, client }: Stage, asked: Asked): Promise<string> {
  const again = await load.repeat(asked)
  expect(again.status, again.text).toBe(202)
  const { id } = again.body
  if (asked.answer?.status === 202) expect(asked.answer.body.id).toBe(id)
  let transfer: Answer<Transfer> | undefined
  await until(
    async () => {
      transfer = await client.get<Transfer>(`/v1/transfers/${id}`)
      return transfer.body.status === 'completed'
    },
    () => `${asked.key} was not posted: ${transfer?.text}`,
    SECONDS,
  )
  return id
}

/** Another reader of the topics gets every event of the ledger, each key's in the order of the ledger. */
async function expectEvents({ urls, settings }: Stage): Promise<void> {
  const received: LedgerEvent[] = []
  const bus = createKafkaBus({
    brokers: [settings.kafkaBrokers ?? ''],
    partitions: 4,
    sessionMs: 6_000,
    onTrouble() {},
  })
  try {
    bus.subscribe({
      name: 'faults',
      topics: TOPICS,
      handle: async (events) => {
        received.push(...events)
      },
    })
    await untilAll(urls, received, SECONDS)
    expect(byKey(once(received))).toEqual(byKey(await allEvents(urls)))
  } finally {
    await bus.close()
  }
}

async function forAll<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const left = [...items]
  const worker = async () => {
    for (let item = left.pop(); item !== undefined; item = left.pop()) await work(item)
  }
  await Promise.all(Array.from({ length: AT_ONCE }, worker))
}
