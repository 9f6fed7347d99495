import { Admin } from '@platformatic/kafka'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { TOPICS, TRANSACTIONS } from '../../src/bus/events.ts'
import { createKafkaBus } from '../../src/bus/kafkaBus.ts'
import { connect, type Sql } from '../../src/postgres/connect.ts'
import { replayProjections } from '../../src/projections/command.ts'
import { PROJECTIONS, projectionsGroup } from '../../src/projections/group.ts'
import { finishReplay, rebuildProjections } from '../../src/projections/replay.ts'
import type { Total } from '../../src/projections/totals.ts'
import { busOf } from '../bus/consumer.ts'
import { relayOf } from '../bus/relayProcess.ts'
import { until } from '../bus/stage.ts'
import { describeWith } from '../services/available.ts'
import { type KafkaCluster, startKafka } from '../services/kafka.ts'
import { expectedTotals } from './expected.ts'
import { openTown, type Town } from './town.ts'

describeWith('kafka', 'a replay of projections that Kafka feeds', () => {
  let kafka: KafkaCluster
  let town: Town
  let sql: Sql
  const troubles: string[] = []
  beforeAll(async () => {
    kafka = await startKafka({ brokers: 1 })
    town = await openTown()
    sql = connect(town.urls[0] ?? '', { max: 4, name: 'test' })
    await town.live(1, 120)
  }, 240_000)
  afterAll(async () => {
    await sql?.end()
    await town?.close()
    await kafka?.stop()
  }, 60_000)

  /** A node that works for the group, and publishes. */
  function openNode() {
    const node = { urls: town.urls, brokers: kafka.brokers }
    const relay = relayOf(node)
    const bus = busOf(node, (error) => troubles.push(String(error)))
    bus.subscribe(projectionsGroup(sql))
    let isStopped = false
    const stop = async () => {
      if (isStopped) return
      isStopped = true
      await bus.close()
      await relay.stop()
    }
    onTestFinished(stop)
    /** Waits until all that was posted by now has come to the group, and is done. */
    const untilDone = async () => {
      await until(async () => (await relay.lag()).every(({ blocks }) => blocks === 0))
      await untilDelivered()
    }
    return { stop, untilDone }
  }
  const group = { name: PROJECTIONS, topics: [TRANSACTIONS] as const }
  async function untilDelivered(): Promise<void> {
    const watching = createKafkaBus({ brokers: kafka.brokers, partitions: 4, onTrouble: () => {} })
    try {
      await until(async () => (await watching.lag(group)).messages === 0)
    } finally {
      await watching.close()
    }
  }

  async function rows() {
    const activity = await sql`SELECT * FROM wallet_activity ORDER BY wallet_id, time_us, transaction_id, leg`
    const totals = await sql<(Omit<Total, 'amount'> & { amount: string })[]>`
      SELECT tenant_id AS "tenantId", day::text, currency, kind, number, amount::text FROM daily_totals t
      ORDER BY tenant_id, t.day, currency, kind`
    return { activity: [...activity], totals: totals.map((row) => ({ ...row, amount: BigInt(row.amount) })) }
  }
  const untilTold = async () => {
    const expected = await expectedTotals(town.urls)
    const isThere = async () => JSON.stringify((await rows()).totals, text) === JSON.stringify(expected, text)
    await until(isThere, () => troubles.slice(-3).join('\n'), 150)
  }
  const text = (_: string, value: unknown) => (typeof value === 'bigint' ? `${value}` : value)

  test('with nodes stopped makes the rows that the first run made', async () => {
    const node = openNode()
    await untilTold()
    await node.untilDone()
    const first = await rows()
    await node.stop()
    expect(await replayProjections({ urls: town.urls, from: 0 })).toBe(0)
    expect(await rows()).toEqual(first)
    expect(first.totals).toEqual(await expectedTotals(town.urls))
  }, 400_000)

  test('beside nodes that go on, while money moves, leaves out nothing and counts nothing twice', async () => {
    openNode()
    await town.live(2, 24)
    const living = town.live(3, 60)
    for (let i = 0; i < 2; i++) expect(await replayProjections({ urls: town.urls, from: 0 })).toBe(0)
    await living
    await untilTold()
    await town.live(4, 16)
    await untilTold()
  }, 400_000)

  test('does not need what was removed from the topics', async () => {
    const node = openNode()
    await untilTold()
    await node.untilDone()
    const before = await rows()
    await node.stop()
    const admin = new Admin({ clientId: 'test', bootstrapBrokers: [...kafka.brokers] })
    const { topics } = await admin.metadata({ topics: [...TOPICS] })
    await admin.deleteRecords({
      topics: [...topics].map(([name, { partitionsCount }]) => ({
        name,
        // -1: all that there is.
        partitions: Array.from({ length: partitionsCount }, (_, partition) => ({ partition, offset: -1n })),
      })),
    })
    await admin.close()
    expect(await replayProjections({ urls: town.urls, from: 0 })).toBe(0)
    expect(await rows()).toEqual(before)
    openNode()
    await town.live(5, 16)
    await untilTold()
  }, 400_000)

  test('that is broken off leaves what comes from Kafka undone, says so, and is run again', async () => {
    troubles.length = 0
    await rebuildProjections(sql, { rewind: async () => {} })
    openNode()
    await town.live(6, 8)
    await until(() => troubles.some((trouble) => trouble.includes('run zerosum replay projections')))
    expect((await rows()).activity).toEqual([])
    expect(await replayProjections({ urls: town.urls, from: 0 })).toBe(0)
    await untilTold()
    await finishReplay(sql)
  }, 400_000)

  test('the bus tells how far the group is behind, and whether anybody is in it', async () => {
    const bus = createKafkaBus({ brokers: kafka.brokers, partitions: 4, onTrouble: () => {} })
    onTestFinished(() => bus.close())
    const node = openNode()
    await untilTold()
    await node.untilDone()
    await until(async () => (await bus.lag(group)).members > 0)
    await node.stop()
    const relay = relayOf({ urls: town.urls, brokers: kafka.brokers })
    onTestFinished(() => relay.stop())
    await town.live(7, 16)
    await until(async () => (await bus.lag(group)).messages > 5)
    await until(async () => (await bus.lag(group)).members === 0)
    expect((await bus.lag({ name: 'nobody', topics: TOPICS })).messages).toBeGreaterThan(5)
  }, 400_000)
})
