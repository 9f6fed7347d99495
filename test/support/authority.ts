import { generateKeyPairSync, type KeyObject, randomBytes, sign } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** A certificate with its key, both PEM. */
export type Issued = { readonly cert: string; readonly key: string }

export type Wanted = {
  /** Of the subject. */
  commonName?: string
  /** `DNS:…`, `URI:…`, `IP:127.0.0.1`. */
  names?: readonly string[]
  /** When it runs out; in 2049 if it is not said. */
  until?: Date
}

/** A CA of a test's own. X.509 (RFC 5280), written out in DER. */
export type Authority = {
  /** Its own certificate, PEM. */
  readonly cert: string
  issue(wanted: Wanted): Issued
}

export function createAuthority(name = 'test CA'): Authority {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'prime256v1' })
  const basicConstraints = sequence(
    oid('551d13'),
    tagged(0x01, Buffer.of(0xff)),
    octets(sequence(tagged(0x01, Buffer.of(0xff)))),
  )
  const own = certificate({
    subject: name,
    issuer: name,
    publicKey,
    signer: privateKey,
    extensions: [basicConstraints],
  })
  return {
    cert: own,
    issue({ commonName = 'test', names = [], until }) {
      const pair = generateKeyPairSync('ec', { namedCurve: 'prime256v1' })
      const altNames = sequence(oid('551d11'), octets(sequence(...names.map(generalName))))
      const cert = certificate({
        ...{ subject: commonName, issuer: name, publicKey: pair.publicKey, signer: privateKey },
        ...{ extensions: names.length > 0 ? [altNames] : [], until },
      })
      return { cert, key: pem('PRIVATE KEY', pair.privateKey.export({ type: 'pkcs8', format: 'der' })) }
    },
  }
}

/** Files in a folder that is removed when `onEnd` runs. @returns their paths, by name */
export async function writeFiles<Name extends string>(
  files: Readonly<Record<Name, string>>,
  onEnd: (work: () => Promise<void>) => void,
): Promise<Record<Name, string>> {
  const directory = await mkdtemp(join(tmpdir(), 'zerosum-files-'))
  onEnd(() => rm(directory, { recursive: true, force: true }))
  const paths = Object.entries<string>(files).map(async ([name, text]) => {
    const path = join(directory, name)
    await writeFile(path, text)
    return [name, path]
  })
  return Object.fromEntries(await Promise.all(paths)) as Record<Name, string>
}

type Parts = {
  subject: string
  issuer: string
  publicKey: KeyObject
  signer: KeyObject
  extensions: Buffer[]
  until?: Date | undefined
}

function certificate({ subject, issuer, publicKey, signer, extensions, until }: Parts): string {
  const ecdsaWithSha256 = sequence(oid('2a8648ce3d040302'))
  const nameOf = (text: string) => sequence(tagged(0x31, sequence(oid('550403'), tagged(0x0c, Buffer.from(text)))))
  const body = sequence(
    tagged(0xa0, integer(Buffer.of(2))),
    integer(Buffer.concat([Buffer.of(1), randomBytes(8)])),
    ecdsaWithSha256,
    nameOf(issuer),
    sequence(time('200101000000Z'), time(until ? utcTime(until) : '491231235959Z')),
    nameOf(subject),
    publicKey.export({ type: 'spki', format: 'der' }),
    ...(extensions.length > 0 ? [tagged(0xa3, sequence(...extensions))] : []),
  )
  const signature = tagged(0x03, Buffer.concat([Buffer.of(0), sign('sha256', body, signer)]))
  return pem('CERTIFICATE', sequence(body, ecdsaWithSha256, signature))
}

function generalName(name: string): Buffer {
  const [, kind, value = ''] = /^(DNS|URI|IP):(.*)$/.exec(name) ?? []
  if (kind === 'DNS') return tagged(0x82, Buffer.from(value))
  if (kind === 'URI') return tagged(0x86, Buffer.from(value))
  if (kind === 'IP') return tagged(0x87, Buffer.from(value.split('.').map(Number)))
  throw new Error(`${name} is no name for a certificate`)
}

const utcTime = (at: Date) => `${at.toISOString().slice(2, 19).replace(/[-T:]/g, '')}Z`

function pem(label: string, der: Buffer): string {
  const lines = der.toString('base64').match(/.{1,64}/g) ?? []
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`
}

function tagged(tag: number, content: Buffer): Buffer {
  const { length } = content
  const size = length < 128 ? [length] : length < 256 ? [0x81, length] : [0x82, length >> 8, length & 0xff]
  return Buffer.concat([Buffer.of(tag, ...size), content])
}

const sequence = (...parts: Buffer[]) => tagged(0x30, Buffer.concat(parts))
const integer = (value: Buffer) => tagged(0x02, value)
const oid = (hex: string) => tagged(0x06, Buffer.from(hex, 'hex'))
const octets = (content: Buffer) => tagged(0x04, content)
const time = (text: string) => tagged(0x17, Buffer.from(text))
