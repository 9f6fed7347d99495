import { Ajv } from 'ajv'
import type { FastifyInstance, FastifySchemaCompiler } from 'fastify'
import { CURRENCIES, parseAmount } from '../core/money.ts'
import { parseTime } from '../core/time.ts'

/** Checks of JSON Schema's `format` that are the wallet's own. */
const FORMATS: Record<string, (text: string) => boolean> = {
  amount: (text) => parseAmount(text) !== undefined,
  'amount-or-zero': (text) => text === '0' || parseAmount(text) !== undefined,
  currency: (text) => CURRENCIES.has(text),
  time: (text) => parseTime(text) !== undefined,
  // What PostgreSQL can keep and give back unchanged: no NUL or other controls, no half of a surrogate pair.
  text: (text) => text.isWellFormed() && !/\p{Cc}/u.test(text.replaceAll('\n', '').replaceAll('\t', '')),
}

/**
 * Bodies are taken literally: nothing is converted, and a field that the schema doesn't name is refused. Query strings are
 * all text, so there numbers are read out of it.
 */
export function validateStrictly(app: FastifyInstance): void {
  const options = { allErrors: true, removeAdditional: false, useDefaults: true, strict: false }
  const literal = new Ajv({ ...options, coerceTypes: false, formats: FORMATS })
  const converting = new Ajv({ ...options, coerceTypes: true, formats: FORMATS })
  const compiler: FastifySchemaCompiler<object> = ({ schema, httpPart }) =>
    (httpPart === 'body' ? literal : converting).compile(schema)
  app.setValidatorCompiler(compiler)
}
