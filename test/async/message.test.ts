import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type LaterOperation, laterRequest, messageText, readMessage } from '../../src/async/message.ts'
import { AMOUNT_MAX } from '../../src/core/money.ts'
import { requestFaultsOf } from '../bus/asyncapi.ts'

const uuid = fc.uuid()
const amount = fc.bigInt({ min: 1n, max: AMOUNT_MAX })
const currency = fc.constantFrom('USD', 'JPY', 'BHD')
const text = fc.string({ unit: 'grapheme', maxLength: 60 }).filter((one) => !/\p{Cc}/u.test(one) && one.isWellFormed())
const leg = fc.record({ from: uuid, to: uuid, amount, currency })
const remarks = fc.record(
  {
    memo: text,
    metadata: fc.dictionary(
      text.filter((name) => name.length > 0 && name.length <= 40),
      text,
      { maxKeys: 5 },
    ),
    effectiveAt: fc.constantFrom('2026-01-31T12:00:00Z', '2026-01-31T12:00:00.123456+02:00'),
  },
  { requiredKeys: [] },
)
const outside = { walletId: uuid, amount, currency }
const operation: fc.Arbitrary<LaterOperation> = fc.oneof(
  fc.record({ kind: fc.constant('transfer' as const), legs: fc.array(leg, { minLength: 1, maxLength: 4 }), remarks }),
  fc.record(
    { kind: fc.constantFrom('top-up' as const, 'withdrawal' as const), ...outside, reference: text },
    { requiredKeys: ['kind', 'walletId', 'amount', 'currency'] },
  ),
  fc.record(
    { kind: fc.constant('reversal' as const), transferId: uuid, amount },
    { requiredKeys: ['kind', 'transferId'] },
  ),
)
const key = fc.string({
  unit: fc.integer({ min: 0x20, max: 0x7e }).map((code) => String.fromCharCode(code)),
  minLength: 1,
  maxLength: 255,
})

const TENANT = '01970000-0000-7000-8000-000000000001'
const WALLET = '01970000-0000-7000-8000-000000000abc'
const good = laterRequest(TENANT, 'key', { kind: 'top-up', walletId: WALLET, amount: 5n, currency: 'USD' })
const json = JSON.parse(messageText(good))

describe('a request in the queue', () => {
  test('is read as it was written, with the same id, and is as docs/asyncapi.yaml describes it', () => {
    fc.assert(
      fc.property(uuid, key, operation, (tenantId, key, operation) => {
        const request = laterRequest(tenantId, key, operation)
        expect(readMessage(messageText(request))).toEqual(request)
        expect(requestFaultsOf(messageText(request))).toEqual([])
      }),
    )
  })

  test('has no id of its own to claim', () => {
    expect(messageText(good)).not.toContain(good.id)
    expect(readMessage(JSON.stringify({ ...json, id: good.id }))).toBeTypeOf('string')
  })

  test.each([
    ['no JSON', '{'],
    ['nothing', ''],
    ['null', 'null'],
    ['a list', '[]'],
    ['another kind', JSON.stringify({ ...json, kind: 'wallet-open' })],
    ['a step of a saga', JSON.stringify({ ...json, kind: 'saga-commit', payload: {} })],
    ['the payload of another kind', JSON.stringify({ ...json, kind: 'reversal' })],
    ['no tenant', JSON.stringify({ ...json, tenantId: undefined })],
    ['a tenant that is no id', JSON.stringify({ ...json, tenantId: 'ten' })],
    ['an empty key', JSON.stringify({ ...json, key: '' })],
    ['a key with a line break', JSON.stringify({ ...json, key: 'a\nb' })],
    ['a key that is too long', JSON.stringify({ ...json, key: 'k'.repeat(256) })],
    ['a number as amount', JSON.stringify({ ...json, payload: { ...json.payload, amount: 5 } })],
    ['too large an amount', JSON.stringify({ ...json, payload: { ...json.payload, amount: `${AMOUNT_MAX + 1n}` } })],
    ['a negative amount', JSON.stringify({ ...json, payload: { ...json.payload, amount: '-5' } })],
    ['no such currency', JSON.stringify({ ...json, payload: { ...json.payload, currency: 'ABC' } })],
    ['text with a NUL', JSON.stringify({ ...json, payload: { ...json.payload, reference: 'a\0' } })],
    ['half a surrogate pair', messageText(good).replace('"USD"', '"USD","reference":"\\ud800"')],
    ['one field more', JSON.stringify({ ...json, payload: { ...json.payload, fee: '1' } })],
    ['other spacing', JSON.stringify(json, null, 1)],
    [
      'another order of fields',
      JSON.stringify({ ...json, payload: { amount: '5', walletId: WALLET, currency: 'USD' } }),
    ],
    ['no legs', JSON.stringify({ ...json, kind: 'transfer', payload: { legs: [] } })],
  ])('is refused, with the reason: %s', (_, text) => {
    expect(readMessage(text)).toMatch(/^it is n/)
  })
})
