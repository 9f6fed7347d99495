import { describe, expect, test } from 'vitest'
import { slotOf, uuidv7 } from '../../src/core/ids.ts'
import { firstShardMap } from '../../src/core/shardMap.ts'
import { createRouter } from '../../src/shards/router.ts'
import type { Shard } from '../../src/shards/shard.ts'

const TENANT = '00000000-0000-7000-8000-00000000000a'
const shard = (number: number) => ({ number }) as Shard
const idOn = (slot: number) => uuidv7(0, '0123456789abcdef', slot)

describe('the router', () => {
  const map = firstShardMap(3)
  const router = createRouter([shard(0), shard(1), shard(2)], map)

  test('finds the shard of every slot as the map has it, by id', () => {
    for (const [slot, number] of map.shards.entries()) {
      expect(router.forId(idOn(slot)).number).toBe(number)
      expect(router.shardOf(idOn(slot))).toBe(number)
    }
  })

  test('finds the same shard for a holder and for the ids that are made for them', () => {
    const found = Array.from({ length: 50 }, (_, i) => {
      const { number } = router.forHolder(TENANT, `holder ${i}`)
      expect(router.shardOf(idOn(slotOf(TENANT, `holder ${i}`)))).toBe(number)
      return number
    })
    expect(new Set(found)).toEqual(new Set([0, 1, 2]))
  })

  test('goes by the map it was given, not by one of its own', () => {
    const reversed = { ...map, shards: map.shards.map((number) => 2 - number) }
    const other = createRouter(router.shards, reversed)
    for (let slot = 0; slot < 4096; slot += 97) {
      expect(other.shardOf(idOn(slot))).toBe(2 - router.shardOf(idOn(slot)))
    }
  })

  test('throws for a shard that is not open, or not in its place, rather than take another', () => {
    const slot = map.shards.indexOf(2)
    expect(() => createRouter([shard(0), shard(1)], map).forId(idOn(slot))).toThrow('shard 2 is not open')
    const astray = createRouter([shard(0), shard(2), shard(1)], map)
    expect(() => astray.forId(idOn(slot))).toThrow('shard 2 is not open')
  })
})
