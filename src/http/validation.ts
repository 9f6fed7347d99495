import { Ajv } from 'ajv'
import type { FastifyInstance, FastifySchemaCompiler } from 'fastify'
import { FORMATS } from '../formats.ts'

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
