import { hash } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Api, type Method, openApi, type Received } from '../support/api.ts'

let api: Api
let wallet: string
beforeAll(async () => {
  api = await openApi()
  wallet = await api.alpha.wallet(1)
})
afterAll(() => api.close())

const call = (method: Method, path: string, headers: Record<string, string> = {}): Promise<Received> =>
  api.send({ method, path, headers })

const answers: [string, () => Promise<Received>, number][] = [
  ['data', () => api.alpha.get(`/v1/wallets/${wallet}`), 200],
  ['a stream', () => api.alpha.get(`/v1/wallets/${wallet}/events`), 200],
  ['a probe', () => call('GET', '/livez'), 200],
  ['the OpenAPI document', () => call('GET', '/openapi.json'), 200],
  ['the reference', () => call('GET', '/docs/'), 200],
  ["the reference's script", () => call('GET', '/docs/js/scalar.js'), 200],
  ['a redirect', () => call('GET', '/docs'), 301],
  ['no key', () => call('GET', '/v1/wallets'), 401],
  ['nothing there', () => call('GET', '/nowhere'), 404],
  ['a path that is none', () => call('GET', '/v1/wallets/%zz'), 400],
  ['a preflight', () => call('OPTIONS', '/v1/transfers', { 'access-control-request-method': 'POST' }), 404],
]

test.each(answers)(
  'an answer with %s is not sniffed, framed, or shared with other origins, and names no software',
  async (_, ask, status) => {
    const answer = await ask()
    expect(answer.status).toBe(status)
    const { headers } = answer
    expect(headers['x-content-type-options']).toBe('nosniff')
    expect(headers['referrer-policy']).toBe('no-referrer')
    expect(headers['content-security-policy']).toMatch(/default-src 'none'.*frame-ancestors 'none'/)
    for (const name of Object.keys(headers)) expect(name).not.toMatch(/^(access-control-|server$|x-powered-by$|via$)/)
  },
)

test('data and problems are kept by nobody on the way', async () => {
  for (const [what, ask] of answers.filter(([what]) => !what.includes('reference') && what !== 'a redirect')) {
    expect((await ask()).headers['cache-control'], what).toMatch(/^no-store/)
  }
})

test('other origins are told nothing, whatever they ask', async () => {
  const answer = await api.alpha.get(`/v1/wallets/${wallet}`, { origin: 'https://evil.example' })
  expect(Object.keys(answer.headers).filter((name) => name.startsWith('access-control'))).toEqual([])
})

describe('the reference page', () => {
  test('may run its own scripts and no others: the one in the page is named by its hash', async () => {
    const page = await call('GET', '/docs/')
    const policy = page.headers['content-security-policy'] ?? ''
    const [scripts = ''] = /script-src [^;]*/.exec(policy) ?? []
    const [, inline = ''] = /<script type="text\/javascript">([\s\S]*?)<\/script>/.exec(page.text) ?? []
    expect(inline).toContain('createApiReference')
    expect(scripts).toBe(`script-src 'self' 'sha256-${hash('sha256', inline, 'base64')}'`)
    expect(policy).toContain("connect-src 'self'")
    expect(policy).not.toMatch(/unsafe-eval|https?:/)
  })
})
