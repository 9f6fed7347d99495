import { chown, mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { connect, failureOf } from '../../src/postgres/connect.ts'
import { type EmbeddedServer, startEmbedded } from '../../src/postgres/embedded.ts'
import { securedUrl } from '../../src/postgres/tls.ts'
import { createAuthority, writeFiles } from '../support/authority.ts'

const authority = createAuthority('database CA')
const stranger = createAuthority('database CA')
const certified = authority.issue({ commonName: 'certified' })

let server: EmbeddedServer
let directory: string
/** Paths. */
let files: Record<'ca' | 'otherCa' | 'cert' | 'key' | 'otherCert' | 'otherKey', string>
const cleaners: (() => Promise<void>)[] = []

// The embedded server, asked to speak TLS and nothing else: its certificate is for 127.0.0.1, not for localhost.
beforeAll(async () => {
  const other = stranger.issue({ commonName: 'certified' })
  const texts = { ca: authority.cert, otherCa: stranger.cert, ...certified, otherCert: other.cert, otherKey: other.key }
  files = await writeFiles(texts, (work) => cleaners.push(work))
  directory = await mkdtemp(join(tmpdir(), 'zerosum-pg-tls-'))
  server = await startEmbedded(directory, process.env['ZEROSUM_TEST_POSTGRES_BIN'])
  const sql = connect(server.url('postgres'), { max: 1, role: null })
  const cluster = join(directory, 'postgres')
  const { uid, gid } = await stat(cluster)
  const own = async (name: string, text: string) => {
    await writeFile(join(cluster, name), text, { mode: 0o600 })
    await chown(join(cluster, name), uid, gid)
  }
  const { cert, key } = authority.issue({ names: ['IP:127.0.0.1'] })
  await own('server.crt', cert)
  await own('server.key', key)
  await own('root.crt', authority.cert)
  await own('pg_hba.conf', 'hostssl all certified 127.0.0.1/32 cert\nhostssl all all 127.0.0.1/32 scram-sha-256\n')
  await sql`CREATE ROLE certified LOGIN`
  await sql`ALTER SYSTEM SET ssl_ca_file = 'root.crt'`
  await sql`ALTER SYSTEM SET ssl = on`
  await sql`SELECT pg_reload_conf()`
  await sql.end()
  // The server takes the new rules a moment later.
  await vi.waitFor(() => sessionOf(urlWith({ sslmode: 'verify-full', sslrootcert: files.ca })), { timeout: 60_000 })
})
afterAll(async () => {
  await server?.stop()
  await rm(directory, { recursive: true, force: true })
  for (const clean of cleaners) await clean()
})

function urlWith(parameters: Record<string, string>, change: (url: URL) => void = () => {}): string {
  const url = new URL(server.url('postgres'))
  for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value)
  change(url)
  return url.href
}

/** What the server says of a connection; rejects as the pool does. */
async function sessionOf(url: string) {
  const sql = connect(url, { max: 1, role: null })
  try {
    const [row] = await sql<{ ssl: boolean; version: string; name: string }[]>`
      SELECT ssl, version, current_user::text AS name FROM pg_stat_ssl WHERE pid = pg_backend_pid()`
    return row
  } finally {
    await sql.end()
  }
}

const causeOf = (url: string) =>
  sessionOf(url).then(
    () => 'connected',
    (error: Error) => {
      const { message, cause } = error
      // A server that can't be trusted is one that can't be reached; one that answers may still say no.
      expect(failureOf(error), message).toBe('unreachable')
      return `${message} ${cause instanceof Error ? cause.message : ''}`
    },
  )

describe('a connection to PostgreSQL', () => {
  test.each(['verify-full', 'verify-ca', 'require'])(
    'with sslmode=%s and the right CA is encrypted',
    async (sslmode) => {
      expect(await sessionOf(urlWith({ sslmode, sslrootcert: files.ca }))).toMatchObject({
        ssl: true,
        version: 'TLSv1.3',
      })
    },
  )

  test.each(['verify-full', 'verify-ca', 'require'])('with sslmode=%s and another CA is not made', async (sslmode) => {
    expect(await causeOf(urlWith({ sslmode, sslrootcert: files.otherCa }))).toMatch(/certificate/)
  })

  test('with sslmode=verify-full is not made to a server of another name; verify-ca does not look at the name', async () => {
    const asLocalhost = (url: URL) => {
      url.hostname = 'localhost'
    }
    const parameters = { sslrootcert: files.ca }
    expect(await causeOf(urlWith({ ...parameters, sslmode: 'verify-full' }, asLocalhost))).toMatch(/localhost/)
    expect(await sessionOf(urlWith({ ...parameters, sslmode: 'verify-ca' }, asLocalhost))).toMatchObject({ ssl: true })
  })

  test.each([{}, { sslrootcert: 'system' }])(
    'with sslmode=verify-full and no CA of our own trusts public ones only',
    async (more) => {
      expect(await causeOf(urlWith({ sslmode: 'verify-full', ...more }))).toMatch(/certificate/)
    },
  )

  test.each([{}, { sslmode: 'disable' }])('in plain text is refused by a server that wants TLS', async (parameters) => {
    expect(await causeOf(urlWith(parameters))).toMatch(/no pg_hba.conf entry.*no encryption/)
  })

  test('with a certificate logs in without a password; with one that the server does not trust it does not', async () => {
    const asCertified = (url: URL) => {
      url.username = 'certified'
      url.password = ''
    }
    const parameters = { sslmode: 'verify-full', sslrootcert: files.ca }
    const own = { ...parameters, sslcert: files.cert, sslkey: files.key }
    expect(await sessionOf(urlWith(own, asCertified))).toMatchObject({ name: 'certified' })
    const other = { ...parameters, sslcert: files.otherCert, sslkey: files.otherKey }
    expect(await causeOf(urlWith(other, asCertified))).not.toBe('connected')
    expect(await causeOf(urlWith(parameters, asCertified))).toMatch(/certificate/)
  })

  test('that is to be encrypted is not made to a server that does not speak TLS', async () => {
    const plainDirectory = await mkdtemp(join(tmpdir(), 'zerosum-pg-plain-'))
    const plain = await startEmbedded(plainDirectory, process.env['ZEROSUM_TEST_POSTGRES_BIN'])
    const url = new URL(plain.url('postgres'))
    url.search = `?sslmode=verify-full&sslrootcert=${encodeURIComponent(files.ca)}`
    const cause = await causeOf(url.href)
    await plain.stop()
    await rm(plainDirectory, { recursive: true, force: true })
    expect(cause).toMatch(/does not support SSL/)
  })
})

describe('the URL of a database', () => {
  const secret = 'postgres://user:secret@db.example/ledger'

  test.each([
    ['sslmode=prefer', /verify-full/],
    ['sslmode=allow', /verify-full/],
    ['sslmode=no-verify', /verify-full/],
    ['sslmode=verify_full', /verify-full/],
    ['sslmode=require', /sslrootcert/],
    ['sslmode=verify-ca', /sslrootcert/],
    ['sslmode=verify-ca&sslrootcert=system', /sslrootcert/],
    ['sslmode=verify-full&sslmode=disable', /twice/],
    ['sslmode=verify-full&uselibpqcompat=true', /uselibpqcompat/],
    ['ssl=true', /sslmode/],
    ['ssl=no-verify', /sslmode/],
    ['sslrootcert=/nowhere/ca.pem', /nothing would be encrypted/],
    ['sslmode=disable&sslcert=/nowhere/a.pem', /nothing would be encrypted/],
    ['sslmode=verify-full&sslrootcert=/nowhere/ca.pem', /\/nowhere\/ca\.pem cannot be read \(ENOENT\)/],
    ['sslmode=verify-full&sslcert=/nowhere/a.pem', /together/],
    ['sslmode=verify-full&sslcrl=/nowhere/crl.pem', /sslcrl/],
    ['channel_binding=require', /channel_binding/],
    ['options=-c%20role%3Dpostgres', /options/],
  ])('with %s is refused with a reason that does not show the password', (query, reason) => {
    const attempt = () => securedUrl(`${secret}?${query}`)
    expect(attempt).toThrow(reason)
    expect(attempt).not.toThrow(/secret/)
  })

  test('keeps what does not concern TLS as it is', () => {
    expect(securedUrl(`${secret}?connect_timeout=3`)).toEqual({ url: `${secret}?connect_timeout=3`, ssl: false })
    const odd = 'postgres://us%40er:p%2Fw%3F@[::1]:5433/led%20ger?application_name=a%20b'
    expect(securedUrl(odd)).toEqual({ url: odd, ssl: false })
  })

  test('decides alone: PGSSLMODE does not', async () => {
    process.env['PGSSLMODE'] = 'no-verify'
    try {
      expect(await causeOf(urlWith({}))).toMatch(/no encryption/)
    } finally {
      delete process.env['PGSSLMODE']
    }
  })
})
