import { setTimeout as sleep } from 'node:timers/promises'
import { readBlocks } from '../../src/bus/blocks.ts'
import type { Bus } from '../../src/bus/bus.ts'
import { eventsOf, type LedgerEvent } from '../../src/bus/events.ts'
import { connect } from '../../src/postgres/connect.ts'
import { inFlight, withShards } from '../saga/books.ts'
import { type Api, openApi } from '../support/api.ts'
import { migratedDatabase } from '../support/database.ts'

/** A ledger of two shards with some life on it, and whatever carries its events. */
export type Stage = {
  readonly api: Api
  readonly urls: readonly string[]
  /** Another node's bus. */
  openBus(): Bus
  /** What a process of its own needs to be such a node. */
  readonly node: NodeSettings
  /** Moves some money, within shards and between them; ends when nothing of it is under way any more. */
  live(count: number): Promise<void>
  close(): Promise<void>
}

const WAIT_SECONDS = 90

export type NodeSettings = { readonly urls: readonly string[]; readonly brokers?: readonly string[] }

/** Opens a ledger of two shards. */
export async function openLedgerStage(): Promise<Pick<Stage, 'api' | 'urls' | 'live' | 'close'>> {
  const urls = [await migratedDatabase(), await migratedDatabase()]
  const api = await openApi({ url: urls[0] ?? '', moreUrls: urls.slice(1) })
  const wallets: string[] = []
  const some = (i: number) => wallets[i % wallets.length] ?? ''
  return {
    api,
    urls,
    async live(count) {
      while (wallets.length < 8) wallets.push(await api.alpha.wallet(100_000))
      await Promise.all(
        Array.from({ length: count }, async (_, i) => {
          const [from, to] = [some(i), some(i + 1 + (i % 7))]
          if (from === to) return
          if (i % 5 === 4) await api.alpha.hold(from, to, 3)
          else await api.alpha.pay(from, to, 1 + i)
        }),
      )
      await untilSagasOver(urls)
    },
    close: () => api.close(),
  }
}

/** Waits until no saga is under way: as long as one is, there are events to come, also of what was answered as pending. */
export async function untilSagasOver(urls: readonly string[]): Promise<void> {
  await withShards(urls, (shards) =>
    until(
      async () => (await Promise.all(shards.map(inFlight))).every((count) => count === 0),
      () => 'sagas are under way',
    ),
  )
}

/** All events that there are, shard by shard, in order. */
export async function allEvents(urls: readonly string[]): Promise<LedgerEvent[]> {
  const events: LedgerEvent[] = []
  for (const [shard, url] of urls.entries()) {
    const sql = connect(url, { max: 1, name: 'test' })
    for (let after = 0; ; ) {
      const blocks = await readBlocks(sql, shard, after)
      if (blocks.length === 0) break
      events.push(...blocks.flatMap(eventsOf))
      after = blocks.at(-1)?.number ?? after
    }
    await sql.end()
  }
  return events
}

/** Every event of a list once, where it stands first. */
export function once(events: readonly LedgerEvent[]): LedgerEvent[] {
  return [...new Map(events.map((event) => [event.id, event])).values()]
}

/** Events by key, in the order in which they came. */
export function byKey(events: readonly LedgerEvent[]): Record<string, string[]> {
  const keys: Record<string, string[]> = {}
  for (const { topic, key, id } of events) {
    const ids = keys[`${topic} ${key}`] ?? []
    ids.push(id)
    keys[`${topic} ${key}`] = ids
  }
  return keys
}

/** Waits until something is so. @throws after so many seconds, which are many: machines are busy. It says what `tell` says */
export async function until(
  isSo: () => boolean | Promise<boolean>,
  tell: () => unknown = () => '',
  seconds = WAIT_SECONDS,
): Promise<void> {
  const deadlineMs = Date.now() + seconds * 1000
  while (!(await isSo())) {
    if (Date.now() > deadlineMs) throw new Error(`waited in vain: ${await tell()}`)
    await sleep(20)
  }
}

/** Waits until all events of the ledger are among these. @returns those */
export async function untilAll(urls: readonly string[], received: readonly LedgerEvent[], seconds = WAIT_SECONDS) {
  const all = await allEvents(urls)
  const isThere = () => {
    const ids = new Set(received.map(({ id }) => id))
    return all.every(({ id }) => ids.has(id))
  }
  await until(isThere, () => `${once(received).length} of ${all.length} events came`, seconds)
  return all
}
