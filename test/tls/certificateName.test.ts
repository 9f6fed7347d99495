import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { connect, createServer, type TLSSocket } from 'node:tls'
import { expect, onTestFinished, test } from 'vitest'
import { certificateNameOf, isCertificateName, nameOf } from '../../src/tls/certificateName.ts'
import { createAuthority } from '../support/authority.ts'

test.each([
  [
    'the URI, whatever else there is',
    'cn',
    'DNS:a.example, URI:spiffe://acme/pay, DNS:b.example',
    'URI:spiffe://acme/pay',
  ],
  ['the DNS name, if there is no URI', 'cn', 'DNS:a.example, IP Address:127.0.0.1', 'DNS:a.example'],
  ['the CN, if there is neither', 'payments', 'IP Address:127.0.0.1', 'CN:payments'],
  ['the CN, if there are no other names', 'Acme Payments', undefined, 'CN:Acme Payments'],
  ['nobody, with two URIs', 'cn', 'URI:spiffe://acme/a, URI:spiffe://acme/b', undefined],
  ['nobody, with two DNS names', 'cn', 'DNS:a.example, DNS:b.example', undefined],
  ['nobody, with two CNs', ['a', 'b'], undefined, undefined],
  ['nobody, with no name', undefined, undefined, undefined],
  [
    'nobody, with a name in quotes, which may look like two',
    'cn',
    'URI:"spiffe://acme/a, URI:spiffe://beta/b"',
    undefined,
  ],
  ['nobody, with a control character', 'a\u0000b', undefined, undefined],
  ['nobody, with a comma', 'a,b', undefined, undefined],
  ['nobody, with an empty name', '', undefined, undefined],
  ['nobody, with a name of 300 characters', 'a'.repeat(300), undefined, undefined],
])('a certificate speaks for %s', (_, commonName, altNames, name) => {
  expect(nameOf(commonName, altNames)).toBe(name)
})

test.each(['URI:spiffe://acme/pay', 'DNS:a.example', 'CN:payments'])('%s can be given to a tenant', (name) => {
  expect(isCertificateName(name)).toBe(true)
})

test.each(['', 'payments', 'CN:', 'IP:127.0.0.1', 'cn:a', 'CN:a\n', 'CN:a"b', 'URI:a,b'])('%j can not', (name) => {
  expect(isCertificateName(name)).toBe(false)
})

test('a connection has the name of its certificate only if the CA was checked and signed it', async () => {
  const [authority, stranger] = [createAuthority(), createAuthority()]
  const own = authority.issue({ names: ['IP:127.0.0.1'] })
  // Lets everybody in, as ours does not.
  const server = createServer({ ...own, ca: authority.cert, requestCert: true, rejectUnauthorized: false })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close())
  const names: (string | undefined)[] = []
  for (const certificate of [authority, stranger].map((one) => one.issue({ names: ['URI:spiffe://acme/pay'] }))) {
    const accepted = once(server, 'secureConnection') as Promise<[TLSSocket]>
    const { port } = server.address() as AddressInfo
    const client = connect({ host: '127.0.0.1', port, ca: authority.cert, ...certificate })
    const [socket] = await accepted
    names.push(certificateNameOf(socket))
    client.destroy()
  }
  expect(names).toEqual(['URI:spiffe://acme/pay', undefined])
  expect(certificateNameOf(undefined)).toBeUndefined()
})
