/**
 * Money is an integer count of minor units of one currency: `bigint` here, `int8` in SQL, a decimal string in JSON.
 * Floats never touch it.
 */

/** The largest amount, balance or counter: 2^63 - 1, what PostgreSQL's `int8` holds. */
export const AMOUNT_MAX = 9_223_372_036_854_775_807n

/** Currencies whose number of decimals is not 2 (ISO 4217, list one). */
const EXPONENTS: Record<string, number> = {
  ...Object.fromEntries(
    'BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF'.split(' ').map((c) => [c, 0]),
  ),
  ...Object.fromEntries('BHD IQD JOD KWD LYD OMR TND'.split(' ').map((c) => [c, 3])),
  ...Object.fromEntries('CLF UYW'.split(' ').map((c) => [c, 4])),
}

const TWO_DECIMALS =
  'AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW CNY COP ' +
  'COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR ' +
  'JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN ' +
  'NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL ' +
  'THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG'

/** Every currency a wallet may have → how many decimals its minor unit stands for (ISO 4217: USD 2, JPY 0, BHD 3). */
export const CURRENCIES: ReadonlyMap<string, number> = new Map(
  [...TWO_DECIMALS.split(' ').map((code): [string, number] => [code, 2]), ...Object.entries(EXPONENTS)].sort(
    ([a], [b]) => (a < b ? -1 : 1),
  ),
)

/**
 * Reads an amount of minor units as the API writes it: decimal digits, no sign, no leading zero, 1 to 2^63 - 1.
 * Answers `undefined` for anything else (`1e3`, `1.0`, `0`, `-5`, `2^63`, a number).
 */
export function parseAmount(text: unknown): bigint | undefined {
  if (typeof text !== 'string' || !/^[1-9][0-9]{0,18}$/.test(text)) return undefined
  const amount = BigInt(text)
  return amount <= AMOUNT_MAX ? amount : undefined
}
