import { EventEmitter } from 'node:events'
import { expect, test } from 'vitest'
import { createOrder, type OrderedConsumer } from '../../src/bus/kafkaOrder.ts'

const TOPIC = 'topic'

/** A member of a group that has some partitions, and what Kafka knows of them. */
function memberWith({
  partitions,
  committed,
  earliest,
}: {
  partitions: number[]
  committed: bigint[]
  earliest?: bigint[]
}) {
  const events = new EventEmitter()
  const state = { partitions, committed }
  const consumer = {
    get assignments() {
      return [{ topic: TOPIC, partitions: state.partitions }]
    },
    listOffsets: async () => new Map([[TOPIC, earliest ?? [0n, 0n]]]),
    listCommittedOffsets: async () => new Map([[TOPIC, state.committed]]),
    on: (name: string, listener: () => void) => events.on(name, listener),
  } as unknown as OrderedConsumer
  const lost: string[] = []
  const inOrder = createOrder(consumer, [TOPIC], (text) => lost.push(text))
  return {
    lost,
    async take(...places: [partition: number, offset: number][]) {
      const messages = places.map(([partition, offset]) => ({ topic: TOPIC, partition, offset: BigInt(offset) }))
      return (await inOrder(messages)).map(({ partition, offset }) => [partition, Number(offset)])
    },
    /** A rebalance. */
    join(partitions: number[], committed: bigint[]) {
      Object.assign(state, { partitions, committed })
      events.emit('consumer:group:join')
    },
  }
}

test('a partition begins after what was committed, or where it begins; nothing may be missing before that', async () => {
  const begun = { partitions: [0, 1], committed: [5n, -1n] }
  expect(await memberWith(begun).take([0, 5], [1, 0], [0, 6])).toEqual([
    [0, 5],
    [1, 0],
    [0, 6],
  ])
  await expect(memberWith(begun).take([0, 6])).rejects.toThrow('topic:0 went on at 6, though 5 comes next')
  await expect(memberWith(begun).take([1, 1])).rejects.toThrow('topic:1 went on at 1')
  // What was removed by retention is not missed.
  expect(await memberWith({ ...begun, earliest: [9n, 9n] }).take([0, 9], [1, 9])).toHaveLength(2)
})

test('what comes twice is left out, and a gap is noticed', async () => {
  const member = memberWith({ partitions: [0], committed: [0n] })
  expect(await member.take([0, 0], [0, 1], [0, 0], [0, 1], [0, 2])).toEqual([
    [0, 0],
    [0, 1],
    [0, 2],
  ])
  await expect(member.take([0, 4])).rejects.toThrow('went on at 4, though 3 comes next')
})

test('what belongs to another member is left out; a partition that comes back goes on from what was committed meanwhile', async () => {
  const member = memberWith({ partitions: [0, 1], committed: [0n, 0n] })
  await member.take([0, 0], [1, 0])
  member.join([1], [-1n, 0n])
  expect(await member.take([0, 1], [1, 1])).toEqual([[1, 1]])
  member.join([0, 1], [7n, 1n])
  // Partition 1 was never lost: what was committed of it late does not bring anything back.
  expect(await member.take([0, 1], [0, 7], [1, 1], [1, 2])).toEqual([
    [0, 7],
    [1, 2],
  ])
  member.join([], [])
  member.join([0], [8n, 0n])
  await expect(member.take([0, 12])).rejects.toThrow('went on at 12, though 8 comes next')
})

test('what was removed before the group had it is told', async () => {
  const member = memberWith({ partitions: [0, 1], committed: [4n, -1n], earliest: [4n, 0n] })
  await member.take([0, 4], [1, 0])
  expect(member.lost).toEqual([])
  const late = memberWith({ partitions: [0, 1], committed: [4n, -1n], earliest: [9n, 3n] })
  expect(await late.take([0, 9], [1, 3])).toEqual([
    [0, 9],
    [1, 3],
  ])
  expect(late.lost).toEqual([`messages 4 to 8 of ${TOPIC}:0`, `messages 0 to 2 of ${TOPIC}:1`])
})
