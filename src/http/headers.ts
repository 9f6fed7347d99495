import type { FastifyInstance } from 'fastify'
import { ZerosumError } from '../errors.ts'

/** In a request, names that come twice counted twice. */
const HEADERS_MAX = 100
/** A path with its query. */
const URL_LENGTH_MAX = 8_192

/** Of every answer. Answers are somebody's data, and nothing of it is a page: nothing may be kept, run or framed. */
const HEADERS = {
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cache-control': 'no-store',
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
}
/** Half a year; browsers that were here once come by TLS alone (RFC 6797). */
const HSTS = { 'strict-transport-security': 'max-age=15552000' }

/** The headers that guard answers, by name. @param isSecure whether the node speaks TLS itself */
export function guardingHeaders(isSecure: boolean): Record<string, string> {
  return isSecure ? { ...HEADERS, ...HSTS } : HEADERS
}

/** Gives every answer of the app those headers, and refuses requests whose head is larger than any real one is. */
export function guardHeads(app: FastifyInstance, isSecure: boolean): void {
  const headers = guardingHeaders(isSecure)
  app.addHook('onRequest', async ({ raw }, reply) => {
    reply.headers(headers)
    if (raw.rawHeaders.length > 2 * HEADERS_MAX) throw new ZerosumError('headers_too_large')
    if ((raw.url ?? '').length > URL_LENGTH_MAX) throw new ZerosumError('uri_too_long')
  })
}
