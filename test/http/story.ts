import { randomUUID } from 'node:crypto'
import { expect, vi } from 'vitest'
import { parseId } from '../../src/core/ids.ts'
import { verifyShard } from '../../src/ledger/auditor.ts'
import { connect, type Sql } from '../../src/postgres/connect.ts'
import { newKey, SCOPES } from '../../src/tenants/directory.ts'
import {
  type Answer,
  type Api,
  type ApiOptions,
  type CallOptions,
  type Client,
  clientOf,
  type Entry,
  type Method,
  openApi,
  type Problem,
} from '../support/api.ts'
import { migratedDatabase } from '../support/database.ts'

/** An API over several databases, which can be looked into. Their books must agree when it is closed. */
export type Shards = { readonly api: Api; readonly sqls: readonly Sql[]; close(): Promise<void> }

/** @param via goes between the app and the database of a shard: the URL that the app gets */
export async function openShards(
  count: number,
  options: ApiOptions = {},
  via: (url: string, shard: number) => string | Promise<string> = (url) => url,
): Promise<Shards> {
  const urls = await Promise.all(Array.from({ length: count }, () => migratedDatabase()))
  const [url = '', ...moreUrls] = await Promise.all(urls.map(via))
  const api = await openApi({ ...options, url, moreUrls })
  const sqls = urls.map((each) => connect(each, { max: 1, role: null, name: 'test looks into it' }))
  return {
    api,
    sqls,
    async close() {
      await api.close()
      try {
        for (const [shard, sql] of sqls.entries()) expect((await verifyShard(sql, shard)).discrepancy).toBeNull()
      } finally {
        await Promise.all(sqls.map((sql) => sql.end({ timeout: 5 })))
      }
    },
  }
}

/** The shard that each wallet of a story is opened on, by the wallet's name there. */
export type Placement = Readonly<Record<string, number>>

/** A holder whose wallets live on that shard. */
export function holderOn({ router }: Api, tenantId: string, shard: number): string {
  for (;;) {
    const holderId = `holder ${randomUUID()}`
    if (router.forHolder(tenantId, holderId).number === shard) return holderId
  }
}

/**
 * A client of a tenant of its own who does something, and what it saw of it. Told again with the wallets placed otherwise, the
 * story must be the same word by word: ids are named by their order, times are left out, and so is what is known to tell
 * (`plainOf`).
 */
export class Story {
  readonly seen: unknown[] = []
  readonly client: Client
  readonly tenantId: string
  readonly #shards: Shards
  readonly #placement: Placement
  readonly #names = new Map<string, string>()
  readonly #wallets: { id: string; client: Client }[] = []

  private constructor(shards: Shards, placement: Placement, tenantId: string, client: Client) {
    this.#shards = shards
    this.#placement = placement
    this.tenantId = tenantId
    this.client = client
  }

  static async begin(shards: Shards, placement: Placement): Promise<Story> {
    return new Story(shards, placement, ...(await tenantOf(shards.api)))
  }

  /** Opens a wallet where the placement has it. */
  async wallet(name: string, funds: bigint | number = 0, fields: object = {}): Promise<string> {
    return await this.#open(name, funds, fields, this.client, this.tenantId)
  }

  /** Opens a wallet of another tenant. */
  async strangersWallet(name: string, funds: bigint | number = 0): Promise<string> {
    const [tenantId, client] = await tenantOf(this.#shards.api)
    return await this.#open(name, funds, {}, client, tenantId)
  }

  /** The id of no wallet, on the shard where the placement has a wallet of that name. */
  async nobody(name: string): Promise<string> {
    const id = await this.client.wallet(0, { holderId: this.#holder(name, this.tenantId) })
    const nobody = id.replace(/^wal_./, (start) => `wal_${start.endsWith('f') ? 'e' : 'f'}`)
    this.#names.set(nobody, `nobody ${name}`)
    return nobody
  }

  async #open(name: string, funds: bigint | number, fields: object, client: Client, tenantId: string): Promise<string> {
    const id = await client.wallet(funds, { holderId: this.#holder(name, tenantId), ...fields })
    this.#names.set(id, name)
    this.#wallets.push({ id, client })
    const uuid = parseId('wal', id) ?? ''
    expect(this.#shards.api.router.shardOf(uuid)).toBe(this.#shardOf(name))
    return id
  }

  #shardOf(name: string): number {
    const shard = this.#placement[name]
    if (shard === undefined) throw new Error(`no shard for wallet ${name}`)
    return shard
  }

  #holder(name: string, tenantId: string): string {
    return holderOn(this.#shards.api, tenantId, this.#shardOf(name))
  }

  async call<T = Problem>(method: Method, path: string, body?: unknown, options: CallOptions = {}): Promise<Answer<T>> {
    const answer = await this.client.call<T>(method, path, body, options)
    this.see(answer)
    return answer
  }

  /** Any POST. */
  ask<T = Problem>(path: string, body: unknown = {}, options: CallOptions = {}): Promise<Answer<T>> {
    return this.call('POST', path, body, options)
  }

  pay(from: string, to: string, amount: bigint | number, options: CallOptions = {}, more: object = {}) {
    return this.ask('/v1/transfers', { ...leg(from, to, amount), ...more }, options)
  }

  see({ status, headers, body }: Answer<unknown>): void {
    const { location, 'idempotency-replayed': replayed } = headers
    this.seen.push(this.#plain({ status, location, replayed, body }))
  }

  /** Looks at everything once more: balances, entries, and whatever was made or refused. */
  async end(): Promise<unknown[]> {
    for (const { id, client } of this.#wallets) {
      const { posted, pendingIn, pendingOut, available } = await client.balance(id)
      const entries = await client.all<Entry>(`/v1/wallets/${id}/entries`)
      this.seen.push(this.#plain({ id, posted, pendingIn, pendingOut, available, entries }))
      expect(await client.all<Entry>(`/v1/wallets/${id}/entries`, 2), 'in short pages').toEqual(entries)
      const sequences = entries.map(({ sequence }) => sequence)
      expect(sequences).toEqual([...new Set(sequences)].sort((a, b) => b - a))
    }
    for (const [id, name] of [...this.#names]) {
      const path = id.startsWith('trf_') ? '/v1/transfers' : id.startsWith('hld_') ? '/v1/holds' : undefined
      if (path && name !== '') this.see(await this.client.get(`${path}/${id}`))
    }
    await expectAtRest(this.#shards, this.tenantId)
    return this.seen
  }

  /** Waits for the end of sagas that no answer has waited for. */
  async untilAtRest(): Promise<void> {
    await vi.waitFor(() => expectAtRest(this.#shards, this.tenantId), { timeout: 60_000 })
  }

  #plain(value: unknown): unknown {
    const text = JSON.stringify(value, (key, part) => (TELLING.has(key) ? undefined : refusedOf(part)))
      .replace(/\b(wal|trf|hld|txn)_[0-9a-f]{32}\b/g, (id) => this.#nameOf(id))
      .replace(/\bent_[0-9a-f]{32}_\d+\b/g, 'an entry')
      .replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, 'a time')
    return JSON.parse(text)
  }

  #nameOf(id: string): string {
    const name = this.#names.get(id) ?? `${id.slice(0, 3)} ${this.#names.size}`
    this.#names.set(id, name)
    return name
  }
}

/**
 * What differs from call to call anyway; and of what a client could tell two shards by: `sequence`, whose numbers leave room for the
 * lines that are not shown; `leg`, which only a refusal of the payer's shard names.
 */
const TELLING: ReadonlySet<string> = new Set(['correlationId', 'holderId', 'transactionId', 'sequence', 'leg'])

/** A transfer that the other shard refused says that it was compensated, and of a reversal what it would have moved. */
function refusedOf(part: unknown): unknown {
  if (typeof part !== 'object' || part === null || !('status' in part) || part.status !== 'compensated') return part
  const refused: Record<string, unknown> = { ...part, status: 'refused' }
  if (refused['kind'] !== 'reversal') return refused
  const { legs: _, ...rest } = refused
  return { ...rest, from: null, to: null, currency: null, amount: null }
}

async function tenantOf(api: Api): Promise<[string, Client]> {
  const tenantId = await api.directory.ensureTenant(`tenant ${randomUUID()}`)
  const key = newKey()
  await api.directory.addKey(
    tenantId,
    key,
    SCOPES.filter((scope) => scope !== 'admin'),
  )
  return [tenantId, clientOf(api.send, key)]
}

export function leg(from: string, to: string, amount: bigint | number, currency = 'USD') {
  return { from, to, amount: `${amount}`, currency }
}

/**
 * No saga of the tenant's is under way, and each pair of transit accounts adds up to nothing: what one shard sent has
 * arrived at the other, and what one keeps for a hold, the other awaits.
 */
export async function expectAtRest({ sqls }: Shards, tenantId: string): Promise<void> {
  const pairs = new Map<string, bigint[]>()
  for (const [shard, sql] of sqls.entries()) {
    const left = await sql`SELECT FROM sagas_in_flight s JOIN requests r USING (id) WHERE r.tenant_id = ${tenantId}`
    expect(left, `sagas in flight on shard ${shard}`).toHaveLength(0)
    const accounts = await sql<{ peer: number; currency: string; posted: bigint; pending: bigint }[]>`
      SELECT peer, currency, credits_posted - debits_posted AS posted, credits_pending - debits_pending AS pending
      FROM accounts WHERE tenant_id = ${tenantId} AND kind = 'transit'`
    for (const { peer, currency, posted, pending } of accounts) {
      const name = `${[shard, peer].sort().join(' and ')} ${currency}`
      const [postedBefore = 0n, pendingBefore = 0n] = pairs.get(name) ?? []
      pairs.set(name, [postedBefore + posted, pendingBefore + pending])
    }
  }
  for (const [name, sums] of pairs) expect(sums, `transit between shards ${name}`).toEqual([0n, 0n])
}
