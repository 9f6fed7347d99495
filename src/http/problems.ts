import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { type ErrorCode, type FieldError, PROBLEMS, ZerosumError } from '../errors.ts'
import { ReadsSaturated } from '../guard/readGuard.ts'
import { LedgerUnavailable, RequestUndecided } from '../ledger/poster.ts'
import { failureOf } from '../postgres/connect.ts'

/** Problem details (RFC 9457). `code` is stable; `correlationId` finds the request in the logs. */
export type Problem = {
  type: string
  title: string
  status: number
  detail: string
  instance: string
  code: ErrorCode
  correlationId: string
}

declare module 'fastify' {
  interface FastifyReply {
    /** Of the problem that was answered, if one was. */
    problemCode: ErrorCode | undefined
  }
}

/** Seconds after which it makes sense to ask again. */
const RETRY_AFTER_SECONDS: Partial<Record<ErrorCode, number>> = {
  request_in_flight: 1,
  saturated: 1,
  overloaded: 2,
  too_many_streams: 5,
  streams_exhausted: 5,
  projections_unavailable: 5,
  queue_unavailable: 2,
  moving: 2,
  ledger_unavailable: 2,
}

export function problemOf(error: ZerosumError, request: Pick<FastifyRequest, 'id' | 'url'>): Problem {
  const { status, title } = PROBLEMS[error.code]
  return {
    type: `urn:zerosum:problem:${error.code}`,
    title,
    status,
    detail: error.message,
    instance: request.url.split('?', 1)[0] ?? request.url,
    code: error.code,
    correlationId: request.id,
    ...error.extra,
  }
}

/** Makes every error an `application/problem+json`; what nobody expected is logged with its cause and not shown. */
export function answerProblems(app: FastifyInstance): void {
  app.decorateReply('problemCode', undefined)
  app.setErrorHandler((error: FastifyError, request, reply) => {
    const known = knownError(error)
    if (!known) {
      request.log.error({ err: error }, 'a request failed unexpectedly')
    }
    return sendProblem(known ?? new ZerosumError('internal_error'), request, reply)
  })
  app.setNotFoundHandler((request, reply) => sendProblem(new ZerosumError('not_found'), request, reply))
}

export function sendProblem(error: ZerosumError, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const problem = problemOf(error, request)
  reply.problemCode = error.code
  const retryAfter = RETRY_AFTER_SECONDS[error.code]
  if (retryAfter !== undefined) reply.header('retry-after', retryAfter)
  reply.header('x-correlation-id', request.id)
  request.span?.setAttribute('error.type', error.code)
  if (error.code === 'unauthorized') reply.header('www-authenticate', 'Bearer realm="zerosum"')
  return reply.code(problem.status).type('application/problem+json').serializer(JSON.stringify).send(problem)
}

/** What an error is to callers; `undefined` if nobody expected it. */
export function knownError(error: FastifyError): ZerosumError | undefined {
  if (error instanceof ZerosumError) return error
  if (error.validation) return validationError(error)
  if (error.statusCode === 413) return new ZerosumError('payload_too_large')
  if (error.statusCode === 415) return new ZerosumError('unsupported_media_type')
  if (error instanceof RequestUndecided) return new ZerosumError('moving')
  // It is on a shard that this node does not know.
  if (error instanceof LedgerUnavailable) return new ZerosumError('ledger_unavailable')
  if (error instanceof ReadsSaturated) return new ZerosumError('saturated', 'Too many calls wait for the database.')
  if (failureOf(error) === 'unreachable') return new ZerosumError('ledger_unavailable')
  const { statusCode = 500 } = error
  return statusCode >= 400 && statusCode < 500 ? new ZerosumError('bad_request', error.message) : undefined
}

const FIELD_ERRORS_MAX = 50

function validationError({ validation = [], validationContext }: FastifyError): ZerosumError {
  const errors: FieldError[] = validation
    .slice(0, FIELD_ERRORS_MAX)
    .map(({ instancePath, message, params, keyword }) => {
      const name = keyword === 'additionalProperties' ? `/${params['additionalProperty']}` : ''
      return {
        field: `${validationContext ?? 'body'}${instancePath}${name}`,
        message: name ? 'is not a known field' : expectation(keyword, params, message),
      }
    })
  const first = errors[0]
  const detail = first ? `${first.field}: ${first.message}` : undefined
  return new ZerosumError('validation_failed', detail, { errors })
}

const FORMAT_MESSAGES: Record<string, string> = {
  amount: 'must be a whole number of minor units as a decimal string, "1" to "9223372036854775807"',
  'amount-or-zero': 'must be a whole number of minor units as a decimal string, "0" to "9223372036854775807"',
  currency: 'must be an ISO 4217 currency code, like "USD"',
  time: 'must be a time as in RFC 3339, like "2026-01-31T12:00:00Z"',
  text: 'must be text without control characters or broken surrogate pairs',
}

function expectation(keyword: string, params: Record<string, unknown>, message = 'is not valid'): string {
  if (keyword === 'enum' && Array.isArray(params['allowedValues'])) {
    return `must be one of ${params['allowedValues'].join(', ')}`
  }
  return (keyword === 'format' ? FORMAT_MESSAGES[`${params['format']}`] : undefined) ?? message
}
