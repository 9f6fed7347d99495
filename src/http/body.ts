import type { FastifyInstance } from 'fastify'
import { ZerosumError } from '../errors.ts'

/**
 * Reads JSON bodies: UTF-8 and nothing else, so that what is kept is what was sent; members that would change prototypes are
 * refused. No body at all is `undefined`, also where the header says JSON: the route's schema says whether that will do.
 */
export function readJson(app: FastifyInstance): void {
  const parseJson = app.getDefaultJsonParser('error', 'error')
  const utf8 = new TextDecoder('utf-8', { fatal: true })
  app.removeContentTypeParser('application/json')
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request, body, done) => {
    if (body.length === 0) return done(null, undefined)
    let text: string
    try {
      text = utf8.decode(body as Buffer)
    } catch {
      return done(new ZerosumError('invalid_json'))
    }
    return parseJson(request, text, (error, value) => done(error ? new ZerosumError('invalid_json') : null, value))
  })
}

/** For routes that need nothing in their body: none counts as an empty one. */
export async function allowNoBody(request: { body: unknown }): Promise<void> {
  if (request.body === undefined) request.body = {}
}
