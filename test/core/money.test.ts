import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { AMOUNT_MAX, CURRENCIES, parseAmount } from '../../src/core/money.ts'

describe('an amount', () => {
  test('is at most 2^63 - 1', () => {
    expect(AMOUNT_MAX).toBe(2n ** 63n - 1n)
    expect(parseAmount('9223372036854775807')).toBe(AMOUNT_MAX)
    expect(parseAmount('9223372036854775808')).toBeUndefined()
    expect(parseAmount('9999999999999999999')).toBeUndefined()
    expect(parseAmount('10000000000000000000')).toBeUndefined()
  })

  test('is read as it is written, from 1 up', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 1n, max: AMOUNT_MAX }), (amount) => {
        expect(parseAmount(`${amount}`)).toBe(amount)
      }),
    )
    expect(parseAmount('1')).toBe(1n)
  })

  test.each([
    ...[
      '',
      '0',
      '00',
      '01',
      '-1',
      '-0',
      '+1',
      '1.0',
      '1.',
      '.1',
      '1e3',
      '1E3',
      '1_000',
      '1,000',
      ' 1',
      '1 ',
      '1\n',
      '\t1',
    ],
    ...['0x10', '0b1', '1n', 'one', 'Infinity', 'NaN', '١', '１', '-9223372036854775808'],
  ])('is not %j', (text) => {
    expect(parseAmount(text)).toBeUndefined()
  })

  test.each([[1], [1n], [1.5], [null], [undefined], [true], [['1']], [{}], [{ toString: () => '1' }]])(
    'is text, not %o',
    (value) => {
      expect(parseAmount(value)).toBeUndefined()
    },
  )

  test('is either refused or written the same again', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.stringMatching(/^[-+ 0-9.e]{1,21}$/)), (text) => {
        const amount = parseAmount(text)
        if (amount === undefined) return
        expect(`${amount}`).toBe(text)
        expect(amount >= 1n && amount <= AMOUNT_MAX).toBe(true)
      }),
    )
  })
})

describe('the currencies', () => {
  test.each([
    ['USD', 2],
    ['EUR', 2],
    ['JPY', 0],
    ['ISK', 0],
    ['BHD', 3],
    ['KWD', 3],
    ['CLF', 4],
  ])('have %s with %i decimals', (code, decimals) => {
    expect(CURRENCIES.get(code)).toBe(decimals)
  })

  test('are codes of three capital letters, in order, each with its decimals', () => {
    const codes = [...CURRENCIES.keys()]
    expect(codes.filter((code) => !/^[A-Z]{3}$/.test(code))).toEqual([])
    expect(codes).toEqual(codes.toSorted())
    expect(new Set(CURRENCIES.values())).toEqual(new Set([0, 2, 3, 4]))
    expect(CURRENCIES.has('XYZ')).toBe(false)
  })
})
