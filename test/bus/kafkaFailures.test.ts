import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, beforeEach, expect, onTestFinished, test } from 'vitest'
import type { Bus } from '../../src/bus/bus.ts'
import { type LedgerEvent, TOPICS } from '../../src/bus/events.ts'
import type { Relay } from '../../src/bus/relay.ts'
import { describeWith } from '../services/available.ts'
import { type KafkaCluster, startKafka } from '../services/kafka.ts'
import { busOf, consumeOnce, EFFECTS, effectsOf } from './consumer.ts'
import { relayOf, startRelayProcess } from './relayProcess.ts'
import { allEvents, byKey, once, openLedgerStage, until } from './stage.ts'

/** All brokers are away for so long. */
const OUTAGE_MS = 60_000
const OUTAGE_PARTS = 4

describeWith('kafka', 'the ledger’s events, when three real brokers fail', () => {
  let kafka: KafkaCluster
  let ledger: Awaited<ReturnType<typeof openLedgerStage>>
  let node: { urls: readonly string[]; brokers: readonly string[] }
  let bus: Bus
  let relay: Relay | undefined
  let consumer: { stop(): Promise<void> }
  let testCount = 0
  const received: LedgerEvent[] = []
  let group = ''

  beforeAll(async () => {
    kafka = await startKafka({ brokers: 3 })
    ledger = await openLedgerStage()
    node = { urls: ledger.urls, brokers: kafka.brokers }
    await ledger.api.query(EFFECTS)
  }, 240_000)
  afterAll(async () => {
    await ledger?.close()
    await kafka?.stop()
  }, 60_000)

  beforeEach(async () => {
    group = `failures-${++testCount}`
    received.length = 0
    bus = busOf(node)
    consumer = consumeOnce(bus, node.urls[0] ?? '', group)
    bus.subscribe({
      name: `${group}-raw`,
      topics: TOPICS,
      handle: async (events) => {
        received.push(...events)
      },
    })
  })
  afterEach(async () => {
    await relay?.stop()
    relay = undefined
    await consumer.stop()
    await bus.close()
  }, 60_000)

  /** Money moves all the while, and no answer takes notice of Kafka. */
  function liveOn(): { stop(): Promise<number> } {
    let isOver = false
    const living = (async () => {
      let rounds = 0
      for (; !isOver; rounds++) {
        await ledger.live(15)
        await sleep(200)
      }
      return rounds
    })()
    return {
      async stop() {
        isOver = true
        return await living
      },
    }
  }

  async function expectAll(): Promise<void> {
    const all = await allEvents(node.urls)
    const effects = async () => (await effectsOf(node.urls[0] ?? '', group)) as LedgerEvent[]
    const isAll = async () => once(received).length >= all.length && (await effects()).length >= all.length
    await until(isAll, () => `${once(received).length} of ${all.length} came`, 150)
    expect(byKey(await effects())).toEqual(byKey(all))
    expect(byKey(once(received))).toEqual(byKey(all))
  }

  test('a broker is killed, and later comes back', async () => {
    relay = relayOf(node)
    const life = liveOn()
    await until(() => received.length > 100)
    await kafka.broker(0).kill()
    const before = (await allEvents(node.urls)).length
    await until(
      () => once(received).length > before + 50,
      () => `${once(received).length} after ${before}`,
      90,
    )
    await kafka.broker(0).restart()
    await life.stop()
    await expectAll()
  }, 400_000)

  test('a broker hangs: it keeps its connections and answers nothing, and later goes on', async () => {
    relay = relayOf(node)
    const life = liveOn()
    await until(() => received.length > 100)
    kafka.broker(1).pause()
    const before = (await allEvents(node.urls)).length
    await until(
      () => once(received).length > before + 50,
      () => `${once(received).length} after ${before}`,
      120,
    )
    kafka.broker(1).resume()
    await life.stop()
    await expectAll()
  }, 400_000)

  test(
    'all brokers are killed for some time: posting goes on, the lag grows, and nothing is lost',
    async () => {
      relay = relayOf(node)
      const life = liveOn()
      await until(() => received.length > 100)
      await Promise.all([0, 1, 2].map((i) => kafka.broker(i).kill()))
      let lag = 0
      for (let part = 0; part < OUTAGE_PARTS; part++) {
        const before = (await allEvents(node.urls)).length
        await sleep(OUTAGE_MS / OUTAGE_PARTS)
        expect((await allEvents(node.urls)).length).toBeGreaterThan(before)
        const blocks = Math.max(...(await relay.lag()).map((shard) => shard.blocks))
        expect(blocks).toBeGreaterThan(lag)
        lag = blocks
      }
      expect(Math.max(...(await relay.lag()).map(({ seconds }) => seconds))).toBeGreaterThan(OUTAGE_MS / 2_000)
      await Promise.all([0, 1, 2].map((i) => kafka.broker(i).restart()))
      await life.stop()
      await expectAll()
    },
    OUTAGE_MS + 400_000,
  )

  test('a relay is killed between the brokers’ acknowledgement and its record: what is sent twice has effect once', async () => {
    const life = liveOn()
    for (let round = 0; round < 3; round++) {
      const { child, died } = await startRelayProcess({ ...node, dieAfter: 3 })
      onTestFinished(() => {
        child.kill('SIGKILL')
      })
      await died
    }
    relay = relayOf(node)
    await life.stop()
    await expectAll()
    expect(received.length).toBeGreaterThan(once(received).length)
  }, 400_000)
})
