import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { asyncId, isAsyncId } from '../../src/core/asyncId.ts'
import { slotOfId, uuidv7 } from '../../src/core/ids.ts'

const uuid = fc.uuid()
const asked = fc
  .record({
    ...{ tenantId: uuid, scope: uuid, key: fc.string({ minLength: 1, maxLength: 40 }), payload: fc.json() },
    operation: fc.record({ kind: fc.constantFrom('transfer' as const, 'top-up' as const, 'withdrawal' as const) }),
  })
  .map((one) => ({ ...one, key: one.key.replaceAll('\n', ' ') }))

describe('the id of a request that is posted later', () => {
  test('is a UUIDv8 with the slot of the scope, equal for equal requests, and known again for its tenant alone', () => {
    fc.assert(
      fc.property(asked, uuid, (one, other) => {
        const id = asyncId(one)
        expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
        expect(slotOfId(id)).toBe(slotOfId(one.scope))
        expect(asyncId({ ...one })).toBe(id)
        expect(isAsyncId(one.tenantId, id)).toBe(true)
        fc.pre(other !== one.tenantId)
        expect(isAsyncId(other, id)).toBe(false)
      }),
      { seed: 4 },
    )
  })

  test('differs with everything that is asked', () => {
    fc.assert(
      fc.property(asked, uuid, (one, other) => {
        fc.pre(other !== one.scope && other !== one.tenantId)
        const scope = `${other.slice(0, -3)}${one.scope.slice(-3)}`
        fc.pre(scope !== one.scope)
        const others = [
          { ...one, tenantId: other },
          { ...one, scope },
          { ...one, key: `${one.key}.` },
          { ...one, payload: `${one.payload} ` },
          { ...one, operation: { kind: 'reversal' as const } },
        ].map(asyncId)
        expect(new Set([asyncId(one), ...others]).size).toBe(6)
      }),
    )
  })

  test('is told from the id of what was posted at once', () => {
    fc.assert(
      fc.property(
        uuid,
        fc.integer({ min: 0, max: 2 ** 48 - 1 }),
        fc.integer({ min: 0, max: 4095 }),
        (tenant, ms, slot) => {
          expect(isAsyncId(tenant, uuidv7(ms, '0123456789abcdef', slot))).toBe(false)
        },
      ),
    )
  })

  test('has a check over every digit of it, and the tenant', () => {
    const tenantId = '01970000-0000-7000-8000-000000000001'
    const id = asyncId({ tenantId, scope: tenantId, key: 'key', payload: '{}', operation: { kind: 'transfer' } })
    const digits = [...id].flatMap((digit, place) => (digit === '-' ? [] : [place]))
    const changed = digits.map((place) => {
      const digit = ((Number.parseInt(id[place] ?? '', 16) + 4) % 16).toString(16)
      return `${id.slice(0, place)}${digit}${id.slice(place + 1)}`
    })
    expect(changed.filter((one) => isAsyncId(tenantId, one))).toEqual([])
  })
})
