import { hash } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { SLOT_COUNT, slotOf } from '../../src/core/ids.ts'
import { firstShardMap, layOutSlots, lengthFault, shardOfSlot } from '../../src/core/shardMap.ts'

const fingerprint = (shards: readonly number[]) => hash('sha256', shards.join(' '))

function sharesOf(shards: readonly number[], shardCount: number): number[] {
  const shares = Array.from({ length: shardCount }, () => 0)
  for (const shard of shards) shares[shard] = (shares[shard] ?? 0) + 1
  return shares
}

describe('the layout', () => {
  test.each([1, 2, 3, 4, 5, 6, 7, 8])('of %i shards gives each about as many slots', (count) => {
    const shares = sharesOf(layOutSlots(count), count)
    expect(shares).toHaveLength(count)
    expect(shares.reduce((sum, share) => sum + share)).toBe(SLOT_COUNT)
    const even = SLOT_COUNT / count
    for (const share of shares) expect(Math.abs(share / even - 1)).toBeLessThan(0.07)
  })

  test.each([
    [1, 2],
    [2, 3],
    [4, 5],
    [7, 8],
  ])('of %i shards becomes that of %i by moving about the share of the new one, and to it alone', (before, after) => {
    const [old, now] = [layOutSlots(before), layOutSlots(after)]
    const moved = now.filter((shard, slot) => shard !== old[slot])
    expect(new Set(moved)).toEqual(new Set([after - 1]))
    expect(Math.abs(moved.length / (SLOT_COUNT / after) - 1)).toBeLessThan(0.07)
  })

  test('never moves a slot between old shards, whatever the number of shards', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 24 }), fc.integer({ min: 1, max: 8 }), (before, added) => {
        const [old, now] = [layOutSlots(before), layOutSlots(before + added)]
        return now.every((shard, slot) => shard === old[slot] || shard >= before)
      }),
      { numRuns: 25 },
    )
  })

  test('gives every slot a shard that there is, and every shard a slot', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 40 }), (count) => {
        const shards = layOutSlots(count)
        expect(shards).toHaveLength(SLOT_COUNT)
        expect([...new Set(shards)].sort((a, b) => a - b)).toEqual(Array.from({ length: count }, (_, i) => i))
      }),
      { numRuns: 15 },
    )
  })

  // A layout that differs from that of the last version would send accounts elsewhere when shards are added.
  test.each([
    [1, '0d711a0f928e19927c415afa719f1a33'],
    [2, 'f65445d0c51403fade889ff04caa21dd'],
    [5, '8e386f2c42d3e3653700f24dc5417ad0'],
  ])('of %i shards is what it always was', (count, expected) => {
    expect(fingerprint(layOutSlots(count)).slice(0, 32)).toBe(expected)
    expect(layOutSlots(count)).toEqual(layOutSlots(count))
  })

  test.each([0, -1, 1.5, 4097, Number.NaN])('of %d shards there is none', (count) => {
    expect(() => layOutSlots(count)).toThrow(RangeError)
  })
})

describe('a map', () => {
  test('begins at epoch 1', () => {
    expect(firstShardMap(3)).toEqual({ epoch: 1, shardCount: 3, shards: layOutSlots(3), drained: [] })
  })

  test('names the shard of every holder', () => {
    const map = firstShardMap(5)
    fc.assert(
      fc.property(fc.uuid(), fc.string(), (tenantId, holderId) => {
        const slot = slotOf(tenantId, holderId)
        expect(shardOfSlot(map, slot)).toBe(layOutSlots(5)[slot])
      }),
      { numRuns: 20 },
    )
  })

  test.each([-1, 4096, 0.5, Number.NaN])('has no slot %d', (slot) => {
    expect(() => shardOfSlot(firstShardMap(2), slot)).toThrow(`there is no slot ${slot}`)
  })

  test.each([
    [1, 'list_shorter'],
    [2, 'list_shorter'],
    [3, undefined],
    [4, 'list_longer'],
  ] as const)('of three shards finds a list of %i: %s', (length, fault) => {
    expect(lengthFault(firstShardMap(3), length)).toBe(fault)
  })
})
