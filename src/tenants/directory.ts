import { hash, randomBytes } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import { connect } from '../postgres/connect.ts'
import { newId } from '../shards/newId.ts'

/** What a key may do. `admin` may do all of it. */
export const SCOPES = ['wallets:read', 'wallets:write', 'transfers:write', 'ledger:read', 'admin'] as const
export type Scope = (typeof SCOPES)[number]

/** Who is asking. */
export type Principal = { readonly tenantId: string; readonly scopes: ReadonlySet<Scope> }

/** Tenants and their API keys; kept on the first shard. Of a key only its SHA-256 is stored. */
export type Directory = {
  /** Who a key belongs to; `undefined` if it is unknown or revoked. A revoked key may work for up to 10 s more. */
  authenticate(key: string): Promise<Principal | undefined>
  /** The tenant of that name, made if there is none. */
  ensureTenant(name: string): Promise<string>
  /** Makes a key known; a second time has no effect. */
  addKey(tenantId: string, key: string, scopes: readonly Scope[]): Promise<void>
  close(): Promise<void>
}

/** A new key: `zs_test_` and 160 bits of chance. */
export function newKey(): string {
  return `zs_test_${BigInt(`0x${randomBytes(20).toString('hex')}`)
    .toString(36)
    .padStart(31, '0')}`
}

const REMEMBERED_MS = 10_000
const KEYS_MAX = 10_000
const ANSWER_MS_MAX = 5_000

export function createDirectory(url: string): Directory {
  const sql = connect(url, { max: 2, name: 'zerosum directory', answerMsMax: ANSWER_MS_MAX })
  const hashOf = (key: string) => hash('sha256', key)
  // Unknown keys are remembered too, so that guessing does not reach the database.
  const principals = new LRUCache<string, { principal: Principal | undefined }>({ max: KEYS_MAX, ttl: REMEMBERED_MS })
  return {
    async authenticate(key) {
      const keyHash = hashOf(key)
      const remembered = principals.get(keyHash)
      if (remembered) return remembered.principal
      const [row] = await sql<{ tenant_id: string; scopes: Scope[] }[]>`
        SELECT tenant_id, array_to_json(scopes) AS scopes FROM api_keys
        WHERE hash = decode(${keyHash}, 'hex') AND revoked_at IS NULL`
      const principal = row ? { tenantId: row.tenant_id, scopes: new Set(row.scopes) } : undefined
      principals.set(keyHash, { principal })
      return principal
    },
    async ensureTenant(name) {
      await sql`INSERT INTO tenants (id, name) VALUES (${newId(0)}, ${name}) ON CONFLICT (name) DO NOTHING`
      const [row] = await sql<{ id: string }[]>`SELECT id FROM tenants WHERE name = ${name}`
      if (!row) throw new Error(`tenant ${name} vanished while it was made`)
      return row.id
    },
    async addKey(tenantId, key, scopes) {
      await sql`
        INSERT INTO api_keys (hash, tenant_id, hint, scopes)
        VALUES (decode(${hashOf(key)}, 'hex'), ${tenantId}, ${key.slice(-4)},
                (SELECT array_agg(value) FROM json_array_elements_text(${JSON.stringify(scopes)}::text::json)))
        ON CONFLICT (hash) DO NOTHING`
      principals.delete(hashOf(key))
    },
    async close() {
      await sql.end({ timeout: 5 })
    },
  }
}
