import type { FastifyInstance, FastifyRequest } from 'fastify'
import { ZerosumError } from '../errors.ts'
import type { Shedding } from '../guard/shedding.ts'
import type { TenantRate } from '../guard/tenantRate.ts'
import { whenOver } from './over.ts'

export type Guards = {
  /** Refuses what this node has no room for. */
  shedding?: Pick<Shedding, 'admit' | 'began'> | undefined
  /** Refuses what a tenant asks beyond its rate. */
  tenantRate?: TenantRate | undefined
}

/** A request weighs one, and one more for so much in its body: a batch of a thousand transfers is the work of many. */
const WEIGHT_BYTES = 2_048

/**
 * Refuses early, before the body is read, what is too much: 429 for a tenant over its rate, 503 when this node is full. The rate is told in
 * `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers) of every answer. To be called after `requireKeys`.
 */
export function admitRequests(app: FastifyInstance, { shedding, tenantRate }: Guards): void {
  if (tenantRate) {
    const policy = `"tenant";q=${Math.floor(tenantRate.perSecond)};w=1`
    app.addHook('onRequest', async (request, reply) => {
      const { isTaken, left, waitSeconds } = tenantRate.take(request.principal.tenantId, weightOf(request))
      const seconds = Math.ceil(waitSeconds)
      reply.header('ratelimit-policy', policy)
      reply.header('ratelimit', `"tenant";r=${left};t=${seconds}`)
      if (isTaken) return
      reply.header('retry-after', Math.max(1, seconds))
      throw new ZerosumError('rate_limited')
    })
  }
  if (shedding) {
    app.addHook('onRequest', async (request, reply) => {
      const { scope, isStream } = request.routeOptions.config
      const priority = scope === 'transfers:write' ? 'money' : 'other'
      const weight = weightOf(request)
      if (!shedding.admit(request.principal.tenantId, priority, weight)) throw new ZerosumError('overloaded')
      if (!isStream) whenOver(reply, shedding.began(weight))
    })
  }
}

function weightOf({ headers }: FastifyRequest): number {
  const bytes = Number(headers['content-length'] ?? 0)
  return 1 + (Number.isSafeInteger(bytes) && bytes > 0 ? Math.floor(bytes / WEIGHT_BYTES) : 0)
}
