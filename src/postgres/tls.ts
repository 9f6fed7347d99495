import type { ConnectionOptions } from 'node:tls'
import { readTls, TLS_VERSION_MIN, type TlsFiles } from '../tls/files.ts'

/** A URL without what it said of TLS, and that, as `pg` wants it. */
export type Secured = { readonly url: string; readonly ssl: false | ConnectionOptions }

/** As in libpq: the roots that this machine trusts by itself; here, those that come with Node. */
const SYSTEM_ROOTS = 'system'

/** Parameters of which `pg` understands something else than libpq, or nothing, or which would undo what this program relies on. */
const REFUSED: Record<string, string> = {
  ssl: 'say sslmode=verify-full instead of ssl=',
  uselibpqcompat: 'leave uselibpqcompat out: sslmode means here what it means to libpq',
  options: 'leave options out: they would take the place of the role that this program works as',
  sslcrl: 'sslcrl is not supported: nobody would look at the list',
  sslcrldir: 'sslcrldir is not supported: nobody would look at the lists',
  channel_binding: 'channel_binding is not supported: say sslmode=verify-full',
}

/**
 * What a connection URL asks of TLS, with libpq's meaning (https://www.postgresql.org/docs/current/libpq-ssl.html), where `pg` 8 has its own:
 * `verify-full` checks chain and name, `verify-ca` the chain. `sslrootcert` is a file, or `system`. What would encrypt without
 * knowing to whom, or fall back to plain text, is refused: `allow`, `prefer`, `no-verify`, and `require` without `sslrootcert`
 * (with it, it is `verify-ca`, as in libpq). Without `sslmode`, and with `disable`, there is no TLS.
 * @throws Error in words that do not hold the URL, which may have a password in it
 */
export function securedUrl(text: string): Secured {
  const url = new URL(text)
  const given = url.searchParams
  for (const [name, advice] of Object.entries(REFUSED)) if (given.has(name)) throw new Error(advice)
  for (const name of given.keys()) if (given.getAll(name).length > 1) throw new Error(`${name} is given twice`)
  const take = (name: string) => {
    const value = given.get(name) || undefined
    given.delete(name)
    return value
  }
  const mode = take('sslmode') ?? 'disable'
  const [root, cert, key] = [take('sslrootcert'), take('sslcert'), take('sslkey')]
  if (mode === 'disable') {
    if (root ?? cert ?? key)
      throw new Error('certificates are named, but sslmode=verify-full is not: nothing would be encrypted')
    return { url: text, ssl: false }
  }
  const files: TlsFiles = {
    ...(root !== undefined && root !== SYSTEM_ROOTS && { ca: root }),
    ...(cert !== undefined && { cert }),
    ...(key !== undefined && { key }),
  }
  const ssl = { ...readTls(files), rejectUnauthorized: true, minVersion: TLS_VERSION_MIN } as const
  switch (mode) {
    case 'verify-full':
      return { url: url.href, ssl }
    case 'verify-ca':
    case 'require':
      // Anybody may have a certificate of a public CA.
      if (files.ca === undefined) {
        throw new Error(`sslmode=${mode} needs sslrootcert, a file with the CA's certificate; or say verify-full`)
      }
      return { url: url.href, ssl: { ...ssl, checkServerIdentity: () => undefined } }
    default:
      throw new Error(`sslmode=${mode} does not make sure whom it talks to: say verify-full, verify-ca or disable`)
  }
}
