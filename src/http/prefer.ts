import type { FastifyReply, FastifyRequest } from 'fastify'

/**
 * Whether the caller would rather not wait: `Prefer: respond-async` (RFC 7240, 4.1). Other preferences are ignored, as it says; so is
 * this one wherever nobody asks.
 */
export function prefersAsync({ headers }: Pick<FastifyRequest, 'headers'>): boolean {
  const { prefer } = headers
  if (prefer === undefined) return false
  // Values in quotes may have commas. Preferences end at a semicolon, where their parameters begin.
  const preferences = `${prefer}`.replace(/"(?:[^"\\]|\\.)*"/g, '""').split(',')
  return preferences.some((one) => /^\s*respond-async\s*(=\s*(""\s*)?)?(;|$)/i.test(one))
}

/** Says that the preference was honoured (RFC 7240, 3). */
export function appliedAsync(reply: FastifyReply): FastifyReply {
  return reply.code(202).header('preference-applied', 'respond-async').header('vary', 'Prefer')
}
