import type { FastifyPluginAsync } from 'fastify'

/** All figures of this node, as a scraper wants them. @param accept its header */
export type Exposition = (accept: string) => Promise<{ type: string; text: string }>

/** What Prometheus scrapes. No key needed: there is nothing in it of any one wallet or tenant. */
export function metricsRoute(exposition: Exposition): FastifyPluginAsync {
  return async (app) => {
    app.get('/metrics', { schema: { hide: true } }, async (request, reply) => {
      const { type, text } = await exposition(request.headers.accept ?? '')
      return reply.type(type).send(text)
    })
  }
}
