import { hash, randomBytes } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import { ReadsSaturated } from '../guard/readGuard.ts'
import { connectOrShare, failureOf, type Sql } from '../postgres/connect.ts'
import { newId } from '../shards/newId.ts'

/** What a key may do. `admin` may do all of it. */
export const SCOPES = [
  'wallets:read',
  'wallets:write',
  'transfers:write',
  'ledger:read',
  'webhooks:manage',
  'admin',
] as const
export type Scope = (typeof SCOPES)[number]

/** Who is asking. */
export type Principal = { readonly tenantId: string; readonly scopes: ReadonlySet<Scope> }

/** Tenants and their API keys; kept on the first shard. Of a key only its SHA-256 is stored. */
export type Directory = {
  /**
   * Who a key belongs to; `undefined` if it is unknown or revoked. A revoked key may work for up to 10 s more; and while the first
   * shard can't be reached, for up to an hour, so that the other shards go on.
   * @throws ReadsSaturated if too many keys that are not known wait to be looked up; what the pool throws
   */
  authenticate(key: string): Promise<Principal | undefined>
  /** The same for the name in a client's certificate (tls/certificateName.ts), which is kept like a key. */
  authenticateCertificate(name: string): Promise<Principal | undefined>
  /** The tenant of that name, made if there is none. */
  ensureTenant(name: string): Promise<string>
  /** Whether there is a tenant with this id. Who was found once is remembered. */
  hasTenant(id: string): Promise<boolean>
  /** Makes a key known; a second time has no effect. */
  addKey(tenantId: string, key: string, scopes: readonly Scope[]): Promise<void>
  /** Lets whoever has a certificate of that name work for a tenant. @returns false if it is somebody's already, or was: nothing has changed then */
  addCertificate(tenantId: string, name: string, scopes: readonly Scope[]): Promise<boolean>
  /** Keys and certificates' names, the newest first, KEYS_LISTED_MAX at most. @param tenant the name of one; else of all */
  list(tenant?: string): Promise<StoredKey[]>
  /** The keys whose ids begin so, two at most. @param id isKeyId */
  find(id: string): Promise<StoredKey[]>
  /** Takes a key's rights away for good; other nodes notice as `authenticate` says. @param id a whole one. @returns false if it has none any more, or is unknown */
  revoke(id: string): Promise<boolean>
  close(): Promise<void>
}

/** A key, or the name in a certificate, as it is stored. */
export type StoredKey = {
  /** The SHA-256 of the key, in hex: it names the key, and is of no use to whoever finds it. */
  readonly id: string
  readonly tenant: string
  /** The last four characters of a key; the whole name in a certificate. */
  readonly hint: string
  readonly scopes: readonly Scope[]
  readonly createdAt: Date
  readonly revokedAt: Date | null
}

export const KEYS_LISTED_MAX = 1_000
/** So much of an id is shown, and enough to find a key by. */
export const KEY_ID_SHOWN = 12

/** Whether a text is a key's id, or long enough a beginning of one. */
export function isKeyId(text: string): boolean {
  return text.length >= KEY_ID_SHOWN && /^[0-9a-f]{1,64}$/.test(text)
}

/** A new key: `zs_test_` and 160 bits of chance. */
export function newKey(): string {
  return `zs_test_${BigInt(`0x${randomBytes(20).toString('hex')}`)
    .toString(36)
    .padStart(31, '0')}`
}

/** After so long a key is looked up again. */
const FRESH_MS = 10_000
/** So long a known key is believed if it can't be looked up again. */
const BELIEVED_MS = 3_600_000
/** A known key does not wait longer than that for being looked up again. */
const PATIENCE_MS = 250
const KEYS_MAX = 10_000
/** So many keys that are not known are looked up at once; fewer than may wait for the database, so that those that are known have room. */
export const STRANGERS_MAX = 400
const ANSWER_MS_MAX = 5_000

/** Whose a key was found to be. */
type Known = { readonly principal: Principal; readonly sinceMs: number }
type LookUp = { readonly sinceMs: number; readonly found: Promise<Principal | undefined> }

/** @param place the first shard's database: its URL, or a pool on it that others use too */
export function createDirectory(place: string | Sql): Directory {
  const sql = connectOrShare(place, { max: 2, name: 'zerosum directory', answerMsMax: ANSWER_MS_MAX })
  const hashOf = (key: string) => hash('sha256', key)
  // No key has a space in it, so nobody can send one that is taken for a certificate.
  const hashOfCertificate = (name: string) => hash('sha256', `certificate ${name}`)
  const keys = new LRUCache<string, Known>({ max: KEYS_MAX })
  // Since when a key is known to be nobody's, so that repeating it does not reach the database; apart, so that those who make keys up do not
  // have the real ones forgotten, which must be believed while the database is away.
  const strangers = new LRUCache<string, number>({ max: KEYS_MAX })
  let strangersWaiting = 0
  const lookUps = new Map<string, LookUp>()
  const tenants = new LRUCache<string, Promise<boolean>>({ max: KEYS_MAX })

  async function read(keyHash: string): Promise<Principal | undefined> {
    const [row] = await sql<{ tenant_id: string; scopes: Scope[] }[]>`
      SELECT tenant_id, array_to_json(scopes) AS scopes FROM api_keys
      WHERE hash = decode(${keyHash}, 'hex') AND revoked_at IS NULL`
    forget(keyHash)
    if (!row) {
      strangers.set(keyHash, Date.now())
      return undefined
    }
    const principal = { tenantId: row.tenant_id, scopes: new Set(row.scopes) }
    keys.set(keyHash, { principal, sinceMs: Date.now() })
    return principal
  }

  /** One at a time for each key. */
  function lookUp(keyHash: string): LookUp {
    const underWay = lookUps.get(keyHash)
    if (underWay) return underWay
    const found = read(keyHash).finally(() => lookUps.delete(keyHash))
    found.catch(() => {}) // whoever waits for it hears of it; perhaps nobody does
    const mine = { sinceMs: Date.now(), found }
    lookUps.set(keyHash, mine)
    return mine
  }

  async function authenticate(keyHash: string): Promise<Principal | undefined> {
    const known = keys.get(keyHash)
    if (!known) return await authenticateStranger(keyHash)
    const { principal } = known
    const age = Date.now() - known.sinceMs
    if (age < FRESH_MS) return principal
    const { found, sinceMs } = lookUp(keyHash)
    if (age >= BELIEVED_MS) return await found
    try {
      return await within(found, sinceMs + PATIENCE_MS - Date.now(), principal)
    } catch (error) {
      if (failureOf(error) === 'unreachable' || error instanceof ReadsSaturated) return principal
      throw error
    }
  }

  async function authenticateStranger(keyHash: string): Promise<Principal | undefined> {
    const sinceMs = strangers.get(keyHash)
    if (sinceMs !== undefined && Date.now() - sinceMs < FRESH_MS) return undefined
    const underWay = lookUps.get(keyHash)
    if (underWay) return await underWay.found
    if (strangersWaiting >= STRANGERS_MAX)
      throw new ReadsSaturated(`${STRANGERS_MAX} keys that are not known wait to be looked up already`)
    strangersWaiting += 1
    return await lookUp(keyHash).found.finally(() => {
      strangersWaiting -= 1
    })
  }

  function forget(keyHash: string): void {
    keys.delete(keyHash)
    strangers.delete(keyHash)
  }

  /** @returns whether there was none of that hash before */
  async function add(keyHash: string, tenantId: string, hint: string, scopes: readonly Scope[]): Promise<boolean> {
    const added = await sql`
      INSERT INTO api_keys (hash, tenant_id, hint, scopes)
      VALUES (decode(${keyHash}, 'hex'), ${tenantId}, ${hint},
              (SELECT array_agg(value) FROM json_array_elements_text(${JSON.stringify(scopes)}::text::json)))
      ON CONFLICT (hash) DO NOTHING RETURNING 1 AS added`
    forget(keyHash)
    return added.length > 0
  }

  /** @param begin of an id @param tenant the name of one; empty is any */
  async function stored(begin: string, tenant: string, max: number): Promise<StoredKey[]> {
    return await sql<StoredKey[]>`
      SELECT encode(hash, 'hex') AS id, name AS tenant, hint, array_to_json(scopes) AS scopes,
             k.created_at AS "createdAt", revoked_at AS "revokedAt"
      FROM api_keys k JOIN tenants ON tenants.id = tenant_id
      WHERE starts_with(encode(hash, 'hex'), ${begin}) AND ${tenant} IN ('', name)
      ORDER BY k.created_at DESC, hash LIMIT ${max}`
  }

  return {
    authenticate: (key) => authenticate(hashOf(key)),
    authenticateCertificate: (name) => authenticate(hashOfCertificate(name)),
    async ensureTenant(name) {
      await sql`INSERT INTO tenants (id, name) VALUES (${newId(0)}, ${name}) ON CONFLICT (name) DO NOTHING`
      const [row] = await sql<{ id: string }[]>`SELECT id FROM tenants WHERE name = ${name}`
      if (!row) throw new Error(`tenant ${name} vanished while it was made`)
      return row.id
    },
    async hasTenant(id) {
      const known = tenants.get(id)
      if (known) return await known
      const found = sql`SELECT FROM tenants WHERE id = ${id}`.then(({ length }) => length > 0)
      tenants.set(id, found)
      // Only who is there is there for good.
      const isThere = await found.catch((error) => {
        tenants.delete(id)
        throw error
      })
      if (!isThere) tenants.delete(id)
      return isThere
    },
    async addKey(tenantId, key, scopes) {
      await add(hashOf(key), tenantId, key.slice(-4), scopes)
    },
    // A name is no secret: it is shown whole.
    addCertificate: (tenantId, name, scopes) => add(hashOfCertificate(name), tenantId, name, scopes),
    list: (tenant = '') => stored('', tenant, KEYS_LISTED_MAX),
    find: (id) => stored(id, '', 2),
    async revoke(id) {
      const revoked = await sql`
        UPDATE api_keys SET revoked_at = now() WHERE hash = decode(${id}, 'hex') AND revoked_at IS NULL
        RETURNING 1 AS revoked`
      forget(id)
      return revoked.length > 0
    },
    async close() {
      await sql.end({ timeout: 5 })
    },
  }
}

/** What comes of it, or `otherwise` if that takes too long. */
async function within<T>(found: Promise<T>, ms: number, otherwise: T): Promise<T> {
  if (ms <= 0) return otherwise
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<T>((done) => {
    timer = setTimeout(() => done(otherwise), ms)
  })
  return await Promise.race([found, late]).finally(() => clearTimeout(timer))
}
