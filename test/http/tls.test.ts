import { once } from 'node:events'
import { Agent, request as httpsRequest, type RequestOptions } from 'node:https'
import type { AddressInfo } from 'node:net'
import { type ConnectionOptions, type TLSSocket, connect as tlsConnect } from 'node:tls'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { newKey } from '../../src/tenants/directory.ts'
import { type Api, openApi } from '../support/api.ts'
import { createAuthority, type Issued } from '../support/authority.ts'

const servers = createAuthority('servers')
const clients = createAuthority('clients')
const server = servers.issue({ names: ['IP:127.0.0.1', 'DNS:localhost'] })
const ALPHA = 'URI:spiffe://test/alpha'
const alphaCertificate = clients.issue({ names: [ALPHA] })
const strange = clients.issue({ names: ['URI:spiffe://test/nobody'] })

let api: Api
let port: number

beforeAll(async () => {
  api = await openApi({ server: { tls: { ...server, ca: clients.cert } } })
  await api.app.listen({ host: '127.0.0.1', port: 0 })
  port = (api.app.server.address() as AddressInfo).port
  expect(await api.directory.addCertificate(api.tenantIds.alpha, ALPHA, ['wallets:read', 'wallets:write'])).toBe(true)
})
afterAll(() => api.close())

type Got = { status: number; isResumed: boolean; headers: Record<string, unknown>; body: { [name: string]: unknown } }

async function ask(
  certificate: Issued | undefined,
  {
    key,
    path = '/v1/wallets?holderId=h',
    ...more
  }: { key?: string; path?: string } & RequestOptions & ConnectionOptions = {},
): Promise<Got> {
  const headers = key === undefined ? {} : { authorization: `Bearer ${key}` }
  const options = {
    host: '127.0.0.1',
    port,
    path,
    ca: servers.cert,
    agent: false as const,
    headers,
    ...certificate,
    ...more,
  }
  const request = httpsRequest(options).end()
  const [answer] = await once(request, 'response')
  const isResumed = (request.socket as TLSSocket).isSessionReused()
  let text = ''
  for await (const chunk of answer.setEncoding('utf8')) text += chunk
  return { isResumed, status: answer.statusCode, headers: answer.headers, body: JSON.parse(text || '{}') }
}

describe('with a client CA', () => {
  test('who comes without a certificate is sent away before a request', async () => {
    await expect(ask(undefined)).rejects.toThrow(/certificate required|ECONNRESET|EPIPE|socket hang up/)
    await expect(ask(undefined, { path: '/livez' })).rejects.toThrow()
  })

  test('a certificate of another CA is sent away, also one of the CA of the servers', async () => {
    const name = { names: [ALPHA] }
    for (const other of [createAuthority('clients').issue(name), servers.issue(name)]) {
      await expect(ask(other)).rejects.toThrow()
    }
  })

  test('a certificate that has run out is sent away', async () => {
    await expect(ask(clients.issue({ names: [ALPHA], until: new Date('2021-01-01') }))).rejects.toThrow()
  })

  test('a certificate that runs out while its connection is open is nobody from then on', async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    expect((await ask(alphaCertificate, { agent })).status).toBe(200)
    const later = vi.spyOn(Date, 'now').mockReturnValue(Date.parse('2050-01-01'))
    const answer = await ask(alphaCertificate, { agent }).finally(() => later.mockRestore())
    agent.destroy()
    expect(answer.status).toBe(401)
  })

  test('a certificate that was given to a tenant needs no key, and may do what it was given, in that tenant', async () => {
    const own = await api.alpha.wallet(0, { holderId: 'certified' })
    const others = await api.beta.wallet(0, { holderId: 'certified' })
    const list = await ask(alphaCertificate, { path: '/v1/wallets?holderId=certified' })
    expect(list.body).toMatchObject({ data: [{ id: own }] })
    expect((await ask(alphaCertificate, { path: `/v1/wallets/${others}` })).status).toBe(404)
    const refused = await ask(alphaCertificate, { path: '/v1/ledger/blocks?shard=0' })
    expect(refused).toMatchObject({ status: 403, body: { code: 'forbidden' } })
  })

  test('the same when the TLS session is resumed', async () => {
    const socket = tlsConnect({ host: '127.0.0.1', port, ca: servers.cert, ...alphaCertificate })
    const session = once(socket, 'session')
    socket.write('GET /livez HTTP/1.1\r\nHost: x\r\n\r\n')
    const [ticket] = await session
    socket.destroy()
    const answer = await ask(alphaCertificate, { session: ticket })
    expect(answer).toMatchObject({ status: 200, isResumed: true })
  })

  test('a certificate that nobody was given needs a key', async () => {
    expect(await ask(strange)).toMatchObject({ status: 401, body: { code: 'unauthorized' } })
    expect((await ask(strange, { key: api.alpha.apiKey })).status).toBe(200)
  })

  test('with both, the key and its scopes count, and both must be of one tenant', async () => {
    const ledgerKey = await api.keyWith('ledger:read')
    expect((await ask(alphaCertificate, { key: ledgerKey })).status).toBe(403)
    expect((await ask(alphaCertificate, { key: ledgerKey, path: '/v1/ledger/blocks?shard=0' })).status).toBe(200)
    expect((await ask(alphaCertificate, { key: api.beta.apiKey })).status).toBe(401)
    expect((await ask(alphaCertificate, { key: newKey() })).status).toBe(401)
    expect((await ask(alphaCertificate, { headers: { authorization: '' } })).status).toBe(401)
  })

  test('a certificate with two names of one kind is nobody', async () => {
    const two = clients.issue({ names: [ALPHA, 'URI:spiffe://test/beta'] })
    expect((await ask(two)).status).toBe(401)
  })

  test('a name is given once: another tenant does not get it, nor does the same one more scopes', async () => {
    expect(await api.directory.addCertificate(api.tenantIds.beta, ALPHA, ['admin'])).toBe(false)
    expect(await api.directory.addCertificate(api.tenantIds.alpha, ALPHA, ['admin'])).toBe(false)
    expect((await ask(alphaCertificate, { path: '/v1/ledger/blocks?shard=0' })).status).toBe(403)
  })

  test('a name is no key: whoever knows it can not send it instead of a certificate', async () => {
    for (const key of [ALPHA, `certificate ${ALPHA}`, `certificate%20${ALPHA}`]) {
      expect((await ask(strange, { key })).status).toBe(401)
    }
  })

  test('a revoked certificate is nobody', async () => {
    const name = 'URI:spiffe://test/revoked'
    await api.directory.addCertificate(api.tenantIds.alpha, name, ['wallets:read'])
    await api.query(`UPDATE api_keys SET revoked_at = now() WHERE hint = '${name}'`)
    expect((await ask(clients.issue({ names: [name] }))).status).toBe(401)
  })
})

describe('a node with TLS', () => {
  test('speaks 1.3 and 1.2, and nothing older', async () => {
    for (const version of ['TLSv1.3', 'TLSv1.2'] as const) {
      const answer = ask(alphaCertificate, { minVersion: version, maxVersion: version })
      expect((await answer).status, version).toBe(200)
    }
    const old = { minVersion: 'TLSv1' as const, maxVersion: 'TLSv1.1' as const, ciphers: 'DEFAULT@SECLEVEL=0' }
    await expect(ask(alphaCertificate, old)).rejects.toThrow(/protocol version|unsupported protocol/i)
  })

  test('tells browsers to come by TLS alone; a node without does not', async () => {
    const header = 'strict-transport-security'
    expect((await ask(alphaCertificate)).headers[header]).toMatch(/^max-age=\d{7,}/)
    const plain = await openApi()
    const answer = await plain.alpha.get('/livez')
    await plain.close()
    expect(answer.headers[header]).toBeUndefined()
  })

  test('answers nothing to plain HTTP', async () => {
    const error = await fetch(`http://127.0.0.1:${port}/livez`).then(
      (answer) => answer.status,
      () => 'refused',
    )
    expect(error).toBe('refused')
  })
})

test('a plain connection has no certificate, whatever headers say', async () => {
  const plain = await openApi()
  const answer = await plain.send({
    method: 'GET',
    path: '/v1/wallets?holderId=h',
    headers: { 'x-forwarded-client-cert': `URI=${ALPHA}`, 'x-client-cert': alphaCertificate.cert },
  })
  await plain.close()
  expect(answer.status).toBe(401)
})
