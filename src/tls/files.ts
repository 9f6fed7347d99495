import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createSecureContext, type SecureVersion } from 'node:tls'

/** Paths of PEM files. A certificate comes with the chain up to its root, and never without its key. */
export type TlsFiles = { readonly ca?: string; readonly cert?: string; readonly key?: string }
/** What is in them. */
export type Tls = { readonly ca?: string; readonly cert?: string; readonly key?: string }

/** The oldest TLS that is spoken, to whomever; 1.3 where the other side can. */
export const TLS_VERSION_MIN: SecureVersion = 'TLSv1.2'
const BYTES_MAX = 1_000_000

/**
 * Reads certificates, and looks whether they are what they should be.
 * @throws Error in words for whoever set the paths: a file cannot be read, is no certificate, or the key is of another one
 */
export function readTls({ ca, cert, key }: TlsFiles): Tls {
  if ((cert === undefined) !== (key === undefined)) throw new Error('a certificate and its key are given together')
  const tls = {
    ...(ca !== undefined && { ca: readCertificate(ca) }),
    ...(cert !== undefined && { cert: readCertificate(cert) }),
    ...(key !== undefined && { key: readText(key) }),
  }
  try {
    createSecureContext(tls)
  } catch (error) {
    // OpenSSL's own words hold nothing of the key.
    throw new Error(`${key} is not the key of ${cert}, or no key (${error instanceof Error ? error.message : error})`)
  }
  return tls
}

function readCertificate(path: string): string {
  const pem = readText(path)
  try {
    new X509Certificate(pem)
  } catch {
    throw new Error(`${path} holds no certificate in PEM`)
  }
  return pem
}

/** A small text file. @throws Error that names it, and says nothing of what is in it */
export function readText(path: string): string {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    throw new Error(`${path} cannot be read (${(error as NodeJS.ErrnoException).code})`)
  }
  if (text.length > BYTES_MAX) throw new Error(`${path} is larger than ${BYTES_MAX} bytes`)
  return text
}
