import { expect, it } from 'vitest'
import { BATCH_MAX } from '../../src/bus/bus.ts'
import type { EntryData, LedgerEvent, TransactionData } from '../../src/bus/events.ts'
import { marksOfBlocks } from '../../src/bus/marks.ts'
import { webhooksGroup } from '../../src/consumers/webhooksGroup.ts'
import { formatId } from '../../src/core/ids.ts'
import { formatTime } from '../../src/core/time.ts'
import { BatchTooLarge } from '../../src/webhooks/accept.ts'
import { openStage, type Stage } from '../webhooks/stage.ts'

const HOOK = 'http://127.0.0.1:9/'

const dataOf = (n: number) => ({ id: `ent_${n}`, transactionId: 'txn_1', transferId: null }) as EntryData

/** So many events of the ledger, in order. */
function eventsOf({ tenantId, clock }: Stage, count: number): LedgerEvent[] {
  return Array.from({ length: count }, (_, index) => ({
    ...{ topic: 'zerosum.entries.v1', type: 'zerosum.entry.v1', key: 'a wallet', subject: 'a wallet', source: '/' },
    ...{ id: `0.1.${index}`, place: { shard: 0, block: 1, index }, tenant: formatId('ten', tenantId) },
    ...{ time: formatTime(clock.nowMs * 1000), data: dataOf(index) },
  }))
}

/** Takes a batch as the bus would have it taken: again, until it goes through, in so many tries at most. */
async function take(
  group: ReturnType<typeof webhooksGroup>,
  events: readonly LedgerEvent[],
  triesMax: number,
): Promise<unknown[]> {
  const errors: unknown[] = []
  while (errors.length < triesMax) {
    try {
      await group.handle(events, marksOfBlocks('webhooks', events))
      return errors
    } catch (error) {
      errors.push(error)
    }
  }
  throw new AggregateError(errors, `it does not go through in ${triesMax} tries`)
}

const counted = async ({ sql }: Stage) => {
  const [row] = await sql<{ deliveries: number; pairs: number }[]>`
    SELECT count(*)::int AS deliveries, count(DISTINCT (event_id, endpoint_id))::int AS pairs FROM webhook_deliveries`
  return row
}

it('a whole batch for fifty endpoints goes through', async () => {
  const stage = await openStage()
  for (let i = 0; i < 50; i++) await stage.listen(HOOK)
  const events = eventsOf(stage, BATCH_MAX)
  expect(
    await take(
      // On a busy machine it may take longer than the group gives it.
      webhooksGroup(stage.sql, () => {}, { msMax: 120_000 }),
      events,
      1,
    ),
  ).toEqual([])
  expect(await counted(stage)).toEqual({ deliveries: 50_000, pairs: 50_000 })
})

it('a batch that is too large for one transaction goes through in smaller ones, and nothing is done twice', async () => {
  const stage = await openStage()
  for (let i = 0; i < 5; i++) await stage.listen(HOOK)
  const events = eventsOf(stage, BATCH_MAX)
  // No time at all: what fits into one statement goes through, and nothing else does.
  const group = webhooksGroup(stage.sql, () => {}, { msMax: 0 })
  const errors = await take(group, events, 50)
  expect(errors.map((error) => error instanceof BatchTooLarge)).toEqual([true, true, true])
  expect(await counted(stage)).toEqual({ deliveries: 5_000, pairs: 5_000 })
  expect(await take(group, events, 50)).toEqual([])
  expect(await counted(stage)).toEqual({ deliveries: 5_000, pairs: 5_000 })
})

it('an endpoint that is full is told of, once', async () => {
  const stage = await openStage()
  const { id } = await stage.listen(HOOK)
  const told: (readonly string[])[] = []
  const group = webhooksGroup(stage.sql, (ids) => told.push(ids), { pendingMax: 20 })
  const events = eventsOf(stage, 40)
  await take(group, events.slice(0, 20), 1)
  expect(told).toEqual([])
  await take(group, events.slice(20, 30), 1)
  await take(group, events.slice(30), 1)
  expect(told).toEqual([[id]])
  expect(await counted(stage)).toEqual({ deliveries: 20, pairs: 20 })
})

it.each([
  [{ transferId: 'trf_1' }, '/v1/transfers/trf_1'],
  [{ transferId: null }, '/v1/transactions/txn_1'],
])('what is too large to be sent names where it is: %j, %s', async (ids, href) => {
  const stage = await openStage()
  await stage.listen(HOOK)
  const metadata = Object.fromEntries(Array.from({ length: 600 }, (_, i) => [`${i}`, 'x'.repeat(500)]))
  const data = { id: 'txn_1', status: 'completed', movements: [], metadata, ...ids } as unknown as TransactionData
  const events = eventsOf(stage, 1).map((event) => ({ ...event, type: 'zerosum.transaction.v1' as const, data }))
  await take(
    webhooksGroup(stage.sql, () => {}),
    events,
    1,
  )
  const [row] = await stage.sql<{ body: string }[]>`SELECT body FROM webhook_events`
  const sent = { id: 'txn_1', status: 'completed', ...ids, truncated: true, href }
  expect(JSON.parse(row?.body ?? '')).toMatchObject({ type: 'transaction.posted', data: sent })
})
