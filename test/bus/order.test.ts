import { describe, expect, onTestFinished, test } from 'vitest'
import type { Bus } from '../../src/bus/bus.ts'
import { ENTRIES, type EntryData, type LedgerEvent } from '../../src/bus/events.ts'
import { startRelay } from '../../src/bus/relay.ts'
import { addShard, moveSlots } from '../../src/relocation/command.ts'
import { openApi } from '../support/api.ts'
import { emptyDatabase, migratedDatabase } from '../support/database.ts'
import { busOf } from './consumer.ts'
import { allEvents, once, until, untilAll } from './stage.ts'

/** A ledger whose wallets have moved from shard to shard between their entries, with a third shard that was added last. */
async function movedLedger() {
  const urls = [await migratedDatabase(), await migratedDatabase()]
  const own = { databases: { urls }, writer: 'mover' }
  const added = await emptyDatabase()
  expect(await addShard(own, added)).toBe(0)
  urls.push(added)
  const api = await openApi({ url: urls[0] ?? '', moreUrls: urls.slice(1) })
  onTestFinished(() => api.close())
  const wallets = await Promise.all(Array.from({ length: 30 }, () => api.alpha.wallet(1_000)))
  const pay = async () => {
    await Promise.all(wallets.map((from, i) => api.alpha.pay(from, wallets[(i * 5 + 1) % 30] ?? '', 1 + i)))
    await Promise.all(wallets.slice(0, 6).map((from, i) => api.alpha.hold(from, wallets[i + 7] ?? '', 2)))
  }
  await pay()
  expect(await moveSlots(own)).toBe(0)
  await pay()
  return { urls, api }
}

/** The numbers of each wallet's entries in the order in which they came. */
function sequences(events: readonly LedgerEvent[]): Map<string, number[]> {
  const found = new Map<string, number[]>()
  for (const { topic, key, data } of events) {
    if (topic === ENTRIES) found.set(key, [...(found.get(key) ?? []), (data as EntryData).sequence])
  }
  return found
}

function expectOrder(received: readonly LedgerEvent[]): void {
  const entries = once(received).filter(({ topic }) => topic === ENTRIES)
  for (const [wallet, numbers] of sequences(entries)) {
    expect(numbers, wallet).toEqual(numbers.toSorted((a, b) => a - b))
  }
  const shardsOf = Map.groupBy(entries, ({ key }) => key)
  const moved = [...shardsOf.values()].filter((mine) => new Set(mine.map(({ place }) => place.shard)).size > 1)
  expect(moved.length).toBeGreaterThan(0)
}

/** A pause where the events of one shard are handled, so that the others are far ahead unless they wait. */
const isSlow = (events: readonly LedgerEvent[]) => events.some(({ place }) => place.shard < 2)

describe('the entries of a wallet that moved come in order', () => {
  test('from the embedded bus', async () => {
    const { urls } = await movedLedger()
    const received: LedgerEvent[] = []
    const bus: Bus = busOf({ urls })
    onTestFinished(() => bus.close())
    bus.subscribe({
      name: 'order',
      topics: [ENTRIES],
      async handle(events) {
        if (isSlow(events)) await new Promise((done) => setTimeout(done, 300))
        received.push(...events)
      },
    })
    await until(async () => received.length > 0)
    await untilAllEntries(urls, received)
    expectOrder(received)
  })

  test('from the relay, also when the one of the shard that they left has trouble', async () => {
    const { urls } = await movedLedger()
    const received: LedgerEvent[] = []
    let failures = 0
    const relay = startRelay({
      shards: () => urls.map((_, shard) => shard),
      urlOf: (shard) => urls[shard],
      onTrouble: () => {},
      openPublisher: () => ({
        async publish(events) {
          if (isSlow(events) && failures++ < 4) throw new Error('no broker')
          received.push(...events)
        },
        close: async () => {},
      }),
    })
    onTestFinished(() => relay.stop())
    await untilAll(urls, received)
    expectOrder(received)
    await until(async () => (await relay.lag()).every(({ blocks, seconds }) => blocks === 0 && seconds === 0))
  })
})

async function untilAllEntries(urls: readonly string[], received: readonly LedgerEvent[]): Promise<void> {
  const due = (await allEvents(urls)).filter(({ topic }) => topic === ENTRIES)
  await until(() => once(received).length >= due.length)
}
