import { TLSSocket } from 'node:tls'

/** `URI:spiffe://acme/payments`, `DNS:payments.acme.example` or `CN:payments`. */
export type CertificateName = string

/** Text that can't be mistaken for two names, nor for the end of one. */
const NAME = /^(URI|DNS|CN):[\x20\x21\x23-\x2b\x2d-\x7e]{1,250}$/

export function isCertificateName(text: string): boolean {
  return NAME.test(text)
}

type Known = { readonly name: CertificateName | undefined; readonly untilMs: number }
const known = new WeakMap<TLSSocket, Known>()

/**
 * The one name under which a client has proved who it is, on a connection where the server asked for a certificate and its CA signed it:
 * the URI of the subjectAltName if there is one, as in SPIFFE's X.509-SVIDs; else its DNS name; else the CN of the subject, for which CAs
 * of one's own are often set up. `undefined` without a certificate, when it has run out meanwhile, and when two names of the kind that counts make
 * it anybody's guess.
 */
export function certificateNameOf(socket: unknown): CertificateName | undefined {
  if (!(socket instanceof TLSSocket) || !socket.authorized) return undefined
  const { name, untilMs } = known.get(socket) ?? remember(socket)
  return Date.now() < untilMs ? name : undefined
}

function remember(socket: TLSSocket): Known {
  const { subject, subjectaltname, valid_to: until } = socket.getPeerCertificate()
  const found = { name: nameOf(subject?.CN, subjectaltname), untilMs: Date.parse(until) }
  known.set(socket, found)
  return found
}

/** @param altNames as Node writes them: `URI:…, DNS:…`, with odd ones in quotes, which are nobody's name here */
export function nameOf(commonName: string | string[] | undefined, altNames = ''): CertificateName | undefined {
  const all = altNames === '' ? [] : altNames.split(', ')
  if (altNames.includes('"')) return undefined
  for (const kind of ['URI:', 'DNS:']) {
    const names = all.filter((one) => one.startsWith(kind))
    if (names.length > 0) return onlyName(names)
  }
  return onlyName([commonName ?? []].flat().map((text) => `CN:${text}`))
}

function onlyName(names: readonly string[]): CertificateName | undefined {
  const [name, ...others] = names
  return name !== undefined && others.length === 0 && isCertificateName(name) ? name : undefined
}
