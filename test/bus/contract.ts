import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import type { Bus } from '../../src/bus/bus.ts'
import { ENTRIES, type LedgerEvent, TOPICS, type Topic } from '../../src/bus/events.ts'
import { connect } from '../../src/postgres/connect.ts'
import { faultsOf } from './asyncapi.ts'
import { consumeOnce, EFFECTS, effectsOf, startConsumer } from './consumer.ts'
import { allEvents, byKey, once, type Stage, until, untilAll } from './stage.ts'

/** What holds for every bus. */
export function busContract(openStage: () => Promise<Stage>): void {
  let stage: Stage
  beforeAll(async () => {
    stage = await openStage()
    await stage.api.query(EFFECTS)
    await stage.live(40)
  }, 180_000)
  afterAll(() => stage?.close(), 60_000)

  const open = (): Bus => {
    const bus = stage.openBus()
    onTestFinished(() => bus.close())
    return bus
  }
  /** Collects what a group gets. */
  const collect = (bus: Bus, name: string, topics: readonly Topic[] = TOPICS) => {
    const received: LedgerEvent[] = []
    const subscription = bus.subscribe({
      ...{ name, topics },
      handle: async (events) => {
        received.push(...events)
      },
    })
    return { received, stop: () => subscription.stop() }
  }

  test('a new group gets all events from the first on, in order for each key, and then what comes', async () => {
    const { received } = collect(open(), 'all')
    const { received: others } = collect(open(), 'others')
    await untilAll(stage.urls, received)
    await stage.live(20)
    const all = await untilAll(stage.urls, received)
    expect(byKey(once(received))).toEqual(byKey(all))
    expect(new Map(received.map((event) => [event.id, event]))).toEqual(new Map(all.map((event) => [event.id, event])))
    await untilAll(stage.urls, others)
    expect(received.flatMap(faultsOf)).toEqual([])
  })

  test('a group gets the topics that it asked for', async () => {
    const { received } = collect(open(), 'entries', [ENTRIES])
    const wanted = (await allEvents(stage.urls)).filter(({ topic }) => topic === ENTRIES)
    await until(() => once(received).length >= wanted.length)
    expect(byKey(once(received))).toEqual(byKey(wanted))
  })

  test('a group goes on where it stopped', async () => {
    const first = open()
    const before = collect(first, 'restarted')
    const old = await untilAll(stage.urls, before.received)
    await first.close()
    await stage.live(10)
    const { received } = collect(open(), 'restarted')
    const fresh = (await allEvents(stage.urls)).filter(({ id }) => old.every((one) => one.id !== id))
    expect(fresh.length).toBeGreaterThan(10)
    await until(
      () => once(received).length >= fresh.length,
      () => `${received.length} of ${fresh.length}`,
    )
    expect(byKey(once(received))).toEqual(byKey(fresh))
  })

  test('what a handler fails at comes again, and nothing is skipped', async () => {
    const handled: LedgerEvent[] = []
    const failed = new Map<string, number>()
    let calls = 0
    open().subscribe({
      name: 'failing',
      topics: TOPICS,
      async handle(events) {
        const first = events[0]?.id ?? ''
        const failures = failed.get(first) ?? 0
        if (calls++ < 6 && failures < 3) {
          failed.set(first, failures + 1)
          throw new Error('not today')
        }
        handled.push(...events)
      },
    })
    const all = await untilAll(stage.urls, handled)
    expect(byKey(once(handled))).toEqual(byKey(all))
    expect([...failed.values()].reduce((sum, count) => sum + count)).toBeGreaterThan(2)
    for (const id of failed.keys()) expect(handled.map((event) => event.id)).toContain(id)
  })

  test('effects are made once, also when what follows them fails', async () => {
    const sql = connect(stage.urls[0] ?? '', { max: 2, name: 'effects' })
    onTestFinished(() => sql.end())
    let failures = 0
    const seen: LedgerEvent[] = []
    open().subscribe({
      name: 'exactly',
      topics: TOPICS,
      async handle(events, marks) {
        await sql.begin(async (tx) => {
          for (const { id, key, topic } of await marks.fresh(tx)) {
            await tx`INSERT INTO effects (consumer, event, key, topic) VALUES ('exactly', ${id}, ${key}, ${topic})`
          }
        })
        if (failures++ < 3) throw new Error('after the effect')
        seen.push(...events)
      },
    })
    const all = await untilAll(stage.urls, seen)
    const effects = await effectsOf(stage.urls[0] ?? '', 'exactly')
    expect(byKey(effects as LedgerEvent[])).toEqual(byKey(all))
  })

  test('nodes share a group, and when one stops the others go on', async () => {
    const [one, two] = [open(), open()]
    const [first, second] = [collect(one, 'shared'), collect(two, 'shared')]
    const both = () => [...first.received, ...second.received]
    const isAll = async () => {
      const ids = new Set(both().map(({ id }) => id))
      return (await allEvents(stage.urls)).every(({ id }) => ids.has(id))
    }
    await until(isAll)
    // Sharing is not doing everything twice; while they join, or where a lease is lost on a busy machine, something is done again.
    const begun = { all: both().length, once: once(both()).length }
    let rounds = 0
    await until(
      async () => {
        await stage.live(10)
        await until(isAll)
        return ++rounds >= 4 && both().length - begun.all < (once(both()).length - begun.once) * 1.7
      },
      () => `${both().length - begun.all} came, of ${once(both()).length - begun.once}`,
    )
    await one.close()
    await stage.live(10)
    await until(isAll)
    const all = await allEvents(stage.urls)
    expect(once(both())).toHaveLength(all.length)
  })

  test('nodes come and go while money moves; no effect is missing, made twice or out of order', async () => {
    const url = stage.urls[0] ?? ''
    const name = 'restless'
    const nodes: { stop(): Promise<void> }[] = []
    const join = () => {
      const bus = stage.openBus()
      const consumer = consumeOnce(bus, url, name)
      nodes.push({
        async stop() {
          await bus.close()
          await consumer.stop()
        },
      })
    }
    onTestFinished(async () => {
      await Promise.all(nodes.map((node) => node.stop()))
    })
    join()
    for (let round = 0; round < 8; round++) {
      join()
      await stage.live(15)
      if (round % 2 === 1) await nodes.shift()?.stop()
      if (round % 3 === 2) await nodes.pop()?.stop()
    }
    if (nodes.length === 0) join()
    const all = await allEvents(stage.urls)
    await until(async () => (await effectsOf(url, name)).length >= all.length)
    expect(byKey((await effectsOf(url, name)) as LedgerEvent[])).toEqual(byKey(all))
  })

  test('when a node is killed in the middle of things, another goes on; no effect is missing or made twice', async () => {
    const url = stage.urls[0] ?? ''
    const name = 'killed'
    const { died } = await startConsumer({ ...stage.node, url, name, dieAfter: 30 })
    await died
    const left = (await effectsOf(url, name)).length
    expect(left).toBeGreaterThanOrEqual(30)
    const consumer = consumeOnce(open(), url, name)
    await stage.live(10)
    const all = await allEvents(stage.urls)
    await until(
      async () => (await effectsOf(url, name)).length >= all.length,
      () => `of ${all.length}, ${left} before`,
    )
    await consumer.stop()
    expect(byKey((await effectsOf(url, name)) as LedgerEvent[])).toEqual(byKey(all))
  })
}
