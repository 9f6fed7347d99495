import { CURRENCIES, parseAmount } from './core/money.ts'
import { parseTime } from './core/time.ts'

/** Checks of JSON Schema's `format` that are the wallet's own: for what comes by HTTP, and by a queue. */
export const FORMATS: Record<string, (text: string) => boolean> = {
  amount: (text) => parseAmount(text) !== undefined,
  'amount-or-zero': (text) => text === '0' || parseAmount(text) !== undefined,
  currency: (text) => CURRENCIES.has(text),
  time: (text) => parseTime(text) !== undefined,
  // What PostgreSQL can keep and give back unchanged: no NUL or other controls, no half of a surrogate pair.
  text: (text) => text.isWellFormed() && !/\p{Cc}/u.test(text.replaceAll('\n', '').replaceAll('\t', '')),
}
