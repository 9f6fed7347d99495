import { once } from 'node:events'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { expect, it, onTestFinished } from 'vitest'
import { send } from '../../src/webhooks/send.ts'
import { createAuthority } from '../support/authority.ts'

const NAME = 'hooks.example.com'

/** An HTTPS server on the loopback whose certificate is for this name; where it is, and the names that it was asked for. */
async function openServer(name: string) {
  const authority = createAuthority()
  const { cert, key } = authority.issue({ names: [`DNS:${name}`] })
  const asked: unknown[] = []
  const server = createServer({ cert, key }, (request, answer) => {
    asked.push((request.socket as TLSSocket).servername)
    answer.writeHead(204).end()
  })
  server.on('tlsClientError', () => {})
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return { ca: authority.cert, asked, port: (server.address() as AddressInfo).port }
}

function call(port: number, ca?: string, onReached?: () => void) {
  const target = { url: new URL(`https://${NAME}:${port}/`), addresses: ['127.0.0.1'] }
  return send(
    target,
    { headers: {}, body: '{}' },
    { signal: AbortSignal.timeout(60_000), ca, ...(onReached && { onReached }) },
  )
}

it('the certificate must be for the name of the endpoint, whatever address it was found at', async () => {
  const server = await openServer(NAME)
  expect(await call(server.port, server.ca)).toMatchObject({ status: 204, error: null })
  expect(server.asked).toEqual([NAME])
})

it('a certificate for another name is refused', async () => {
  const server = await openServer('other.example.com')
  const error = 'the certificate or TLS is not right (ERR_TLS_CERT_ALTNAME_INVALID)'
  expect(await call(server.port, server.ca)).toMatchObject({ status: null, error })
  expect(server.asked).toEqual([])
})

it('a certificate that nobody trusts is refused', async () => {
  const server = await openServer(NAME)
  const error = 'the certificate or TLS is not right (UNABLE_TO_VERIFY_LEAF_SIGNATURE)'
  expect(await call(server.port)).toMatchObject({ status: null, error })
  expect(server.asked).toEqual([])
})

it('a host is reached when its certificate was found right, not before', async () => {
  const [right, wrong] = [await openServer(NAME), await openServer('other.example.com')]
  const reached: string[] = []
  await call(wrong.port, wrong.ca, () => reached.push('wrong'))
  await call(right.port, right.ca, () => reached.push('right'))
  expect(reached).toEqual(['right'])
})
