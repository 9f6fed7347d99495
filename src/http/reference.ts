import { hash } from 'node:crypto'
import reference from '@scalar/fastify-api-reference'
import type { FastifyPluginAsync } from 'fastify'

/** For the page and its script, which are the same for everybody. */
const CACHE = 'private, max-age=3600'

/** The API reference under `/docs`: the one page for people, so the one that may run scripts: its own, and asks nobody else for anything. */
export const referencePage: FastifyPluginAsync = async (app) => {
  app.addHook('onSend', async (_request, reply, payload) => {
    reply.header('cache-control', CACHE)
    if (typeof payload === 'string') reply.header('content-security-policy', policyOf(payload))
    return payload
  })
  await app.register(reference, {
    routePrefix: '/docs',
    configuration: { title: 'Zerosum API', url: '/openapi.json', withDefaultFonts: false, telemetry: false },
  })
}

/** The scripts written into a page are named by their hashes; styles are made by the script as it goes. */
function policyOf(page: string): string {
  const scripts = [...page.matchAll(/<script(?![^>]*\ssrc=)[^>]*>([\s\S]*?)<\/script>/g)]
  const hashes = scripts.map(([, text = '']) => ` 'sha256-${hash('sha256', text, 'base64')}'`)
  return [
    "default-src 'none'",
    `script-src 'self'${hashes.join('')}`,
    "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data:",
    "font-src 'self' data:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; ')
}
