import { hash } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  digestUuid,
  formatId,
  type IdPrefix,
  parseId,
  SLOT_COUNT,
  slotOf,
  slotOfId,
  uuidv7,
} from '../../src/core/ids.ts'

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

const timeMs = fc.integer({ min: 0, max: 2 ** 48 - 1 })
const slot = fc.integer({ min: 0, max: SLOT_COUNT - 1 })
const entropy = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map((bits) => bits.toString(16).padStart(16, '0'))

describe('a UUIDv7', () => {
  test('is the one of RFC 9562, appendix A.6, given its time and bits', () => {
    expect(uuidv7(0x017f22e279b0, 'cc318c4dc0c0c073', 0x98f)).toBe('017f22e2-79b0-7cc3-98c4-dc0c0c07398f')
  })

  test('has the version, the variant, its time, its slot, and 62 bits of the entropy', () => {
    fc.assert(
      fc.property(timeMs, entropy, slot, (ms, bits, slot) => {
        const id = uuidv7(ms, bits, slot)
        expect(id).toMatch(UUID)
        const number = BigInt(`0x${id.replaceAll('-', '')}`)
        expect(number >> 80n).toBe(BigInt(ms))
        expect((number >> 76n) & 0xfn).toBe(7n)
        expect((number >> 62n) & 0b11n).toBe(0b10n)
        expect(slotOfId(id)).toBe(slot)
        const kept = (((number >> 64n) & 0xfffn) << 50n) | ((number >> 12n) & (2n ** 50n - 1n))
        const given = BigInt(`0x${bits}`)
        expect(kept).toBe(((given >> 52n) << 50n) | (given & (2n ** 50n - 1n)))
      }),
    )
  })

  test('sorts by its time', () => {
    fc.assert(
      fc.property(timeMs, timeMs, entropy, entropy, slot, slot, (a, b, bitsA, bitsB, slotA, slotB) => {
        fc.pre(a < b)
        expect(uuidv7(a, bitsA, slotA) < uuidv7(b, bitsB, slotB)).toBe(true)
      }),
    )
  })
})

describe('the slot of a holder', () => {
  test('is the first 12 bits of the SHA-256 of tenant and holder', () => {
    fc.assert(
      fc.property(fc.uuid(), fc.string(), (tenant, holder) => {
        const slot = slotOf(tenant, holder)
        expect(slot).toBe(hash('sha256', `${tenant} ${holder}`, 'buffer').readUInt16BE(0) >> 4)
        expect(slot >= 0 && slot < SLOT_COUNT).toBe(true)
      }),
    )
  })

  test('is any of the 4096, each about as often', () => {
    const expected = 20
    const counts = new Array<number>(SLOT_COUNT).fill(0)
    for (let i = 0; i < SLOT_COUNT * expected; i += 1) {
      const slot = slotOf('tenant', `customer ${i}`)
      counts[slot] = (counts[slot] ?? 0) + 1
    }
    expect(counts).toHaveLength(SLOT_COUNT)
    // chi-squared with 4095 degrees of freedom: mean 4095, standard deviation 90; five of them either way
    const chiSquared = counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0)
    expect(chiSquared).toBeGreaterThan(4095 - 450)
    expect(chiSquared).toBeLessThan(4095 + 450)
  })

  test('is another for the same holder of another tenant, as a rule', () => {
    const same = Array.from({ length: 1_000 }, (_, i) => slotOf('a', `customer ${i}`) === slotOf('b', `customer ${i}`))
    expect(same.filter(Boolean).length).toBeLessThan(10)
  })
})

describe('the UUID of a name', () => {
  test('has version 8 and the variant, and is the SHA-256 otherwise', () => {
    fc.assert(
      fc.property(fc.string(), (name) => {
        const id = digestUuid(name)
        expect(id).toMatch(UUID)
        const number = BigInt(`0x${id.replaceAll('-', '')}`)
        expect((number >> 76n) & 0xfn).toBe(8n)
        expect((number >> 62n) & 0b11n).toBe(0b10n)
        const fixed = (0xfn << 76n) | (0b11n << 62n)
        expect(number & ~fixed).toBe(BigInt(`0x${hash('sha256', name).slice(0, 32)}`) & ~fixed)
      }),
    )
  })

  test('is one for a name, and another for another', () => {
    const names = Array.from({ length: 1_000 }, (_, i) => `name ${i}`)
    expect(names.map(digestUuid)).toEqual(names.map(digestUuid))
    expect(new Set(names.map(digestUuid)).size).toBe(names.length)
  })
})

describe('an id as clients see it', () => {
  const prefixes: IdPrefix[] = ['wal', 'trf', 'hld', 'txn', 'ten']
  const id = '0197f22e-79b0-7cc3-98c4-dc0c0c07398f'
  const hex = '0197f22e79b07cc398c4dc0c0c07398f'

  test('is the prefix and 32 digits', () => {
    expect(formatId('wal', id)).toBe(`wal_${hex}`)
  })

  test('can be read back, by its own prefix alone', () => {
    fc.assert(
      fc.property(fc.constantFrom(...prefixes), fc.uuid(), (prefix, id) => {
        const read = prefixes.map((other) => parseId(other, formatId(prefix, id)))
        expect(read).toEqual(prefixes.map((other) => (other === prefix ? id : undefined)))
      }),
    )
  })

  test.each([
    '',
    'wal_',
    'wal',
    hex,
    id,
    `wal_${id}`,
    `wal-${hex}`,
    `WAL_${hex}`,
    `wal_${hex.toUpperCase()}`,
    `wal_${hex}0`,
    `wal_${hex.slice(1)}`,
    `wal_${hex.slice(1)}g`,
    `wal_${hex.slice(1)}\n`,
    ` wal_${hex}`,
    `wal_${hex} `,
    `wal__${hex.slice(1)}`,
    `wall_${hex.slice(1)}`,
  ])('is not %j', (text) => {
    expect(parseId('wal', text)).toBeUndefined()
  })

  test('that can be read is written the same again', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.stringMatching(/^wal_[0-9a-fA-F_-]{30,34}$/)), (text) => {
        const read = parseId('wal', text)
        if (read !== undefined) expect(formatId('wal', read)).toBe(text)
      }),
    )
  })
})
