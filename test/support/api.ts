import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import type { FastifyInstance } from 'fastify'
import type { Static } from 'typebox'
import { openQueue, startAsync } from '../../src/async/start.ts'
import { verifyAll } from '../../src/audit/verification.ts'
import type { ErrorCode } from '../../src/errors.ts'
import type { Guards } from '../../src/http/admission.ts'
import { type AppOptions, buildApp } from '../../src/http/app.ts'
import type { StreamSettings } from '../../src/http/routes/events.ts'
import type {
  BalanceBody,
  BlockBody,
  EntryBody,
  HoldBody,
  ProblemBody,
  TransferBody,
  WalletBody,
} from '../../src/http/schemas.ts'
import type { ServerOptions } from '../../src/http/server.ts'
import type { OnBlock } from '../../src/ledger/poster.ts'
import { createBlockFeed } from '../../src/live/blockFeed.ts'
import { type Feed, newsOf } from '../../src/live/feed.ts'
import { connect } from '../../src/postgres/connect.ts'
import type { Projections } from '../../src/projections/projections.ts'
import { startHoldExpiry } from '../../src/saga/holdExpiry.ts'
import { createSagas, type Sagas } from '../../src/saga/sagas.ts'
import { prepareShards } from '../../src/shards/map.ts'
import { createRouter, type Router } from '../../src/shards/router.ts'
import { openShard } from '../../src/shards/shard.ts'
import { createDirectory, type Directory, newKey, SCOPES, type Scope } from '../../src/tenants/directory.ts'
import { openEndpoints } from '../../src/webhooks/endpoints.ts'
import type { TargetRules } from '../../src/webhooks/target.ts'
import { migratedDatabase } from './database.ts'

export type Wallet = Static<typeof WalletBody>
export type Balance = Static<typeof BalanceBody>
export type Entry = Static<typeof EntryBody>
export type Transfer = Static<typeof TransferBody>
export type Hold = Static<typeof HoldBody>
export type Block = Static<typeof BlockBody>
export type Problem = Static<typeof ProblemBody> & { code: ErrorCode; transferId?: string; leg?: number }
export type PageOf<T> = { data: T[]; nextCursor: string | null }
export type BatchResult = { status: number; replayed: boolean; transfer?: Transfer; problem?: Problem }

export type Method = 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE' | 'OPTIONS'

/** What goes over the wire, whichever wire. */
export type Sent = { method: Method; path: string; headers: Record<string, string>; body?: string | Buffer }
export type Received = { status: number; headers: Record<string, string | undefined>; text: string }
export type Send = (request: Sent) => Promise<Received>

/** An answer; `body` is what its JSON says, in the shape that the caller expects of it. */
export type Answer<T> = Received & { body: T }

export type CallOptions = {
  /** Another idempotency key than a fresh one; `null` is none. */
  key?: string | null
  headers?: Record<string, string>
  /** Sent as it is, instead of a body made into JSON. */
  raw?: string | Buffer
}

/** Somebody with an API key, and what they do all day. Helpers that answer an id throw unless the answer is 201. */
export type Client = {
  readonly apiKey: string
  /** Any call. A POST gets a fresh idempotency key. The answer is taken to be a T, unchecked. */
  call<T = Problem>(method: Method, path: string, body?: unknown, options?: CallOptions): Promise<Answer<T>>
  get<T = Problem>(path: string, headers?: Record<string, string>): Promise<Answer<T>>
  /** Opens a wallet, with that much in it; its id. */
  wallet(funds?: bigint | number, fields?: Record<string, unknown>): Promise<string>
  topUp(walletId: string, amount: bigint | number, currency?: string): Promise<string>
  /** Asks for a transfer of dollars. */
  pay(from: string, to: string, amount: bigint | number, options?: CallOptions): Promise<Answer<Transfer>>
  /** Asks for a hold of dollars. */
  hold(walletId: string, to: string, amount: bigint | number, more?: object): Promise<Answer<Hold>>
  balance(walletId: string): Promise<Balance>
  /** `available`, as a number of minor units. */
  available(walletId: string): Promise<bigint>
  /** All that a list has, page by page. */
  all<T>(path: string, limit?: number): Promise<T[]>
}

export function clientOf(send: Send, apiKey: string): Client {
  const client: Client = {
    apiKey,
    async call<T>(method: Method, path: string, body?: unknown, options: CallOptions = {}) {
      const { key = method === 'POST' ? randomUUID() : null, headers = {}, raw } = options
      const payload = raw ?? (body === undefined ? undefined : JSON.stringify(body))
      const received = await send({
        method,
        path,
        headers: {
          authorization: `Bearer ${apiKey}`,
          ...(payload === undefined ? {} : { 'content-type': 'application/json' }),
          ...(key === null ? {} : { 'idempotency-key': key }),
          ...headers,
        },
        ...(payload === undefined ? {} : { body: payload }),
      })
      return withBody<T>(received)
    },
    get: (path, headers = {}) => client.call('GET', path, undefined, { headers }),
    async wallet(funds = 0, fields = {}) {
      const wallet = { holderId: `holder-${randomUUID()}`, currency: 'USD', ...fields }
      const id = idOf(await client.call<Wallet>('POST', '/v1/wallets', wallet))
      if (BigInt(funds) > 0n) await client.topUp(id, funds, wallet.currency)
      return id
    },
    topUp: async (walletId, amount, currency = 'USD') =>
      idOf(await client.call<Transfer>('POST', '/v1/top-ups', { walletId, amount: `${amount}`, currency })),
    pay: (from, to, amount, options = {}) =>
      client.call('POST', '/v1/transfers', { from, to, amount: `${amount}`, currency: 'USD' }, options),
    hold: (walletId, to, amount, more = {}) =>
      client.call('POST', '/v1/holds', { walletId, to, amount: `${amount}`, currency: 'USD', ...more }),
    async balance(walletId) {
      const answer = await client.get<Balance>(`/v1/wallets/${walletId}/balance`)
      if (answer.status !== 200) throw new Error(`no balance: ${answer.status} ${answer.text}`)
      return answer.body
    },
    available: async (walletId) => BigInt((await client.balance(walletId)).available),
    async all<T>(path: string, limit = 100) {
      const found: T[] = []
      let cursor: string | null = null
      do {
        const query = `${path.includes('?') ? '&' : '?'}limit=${limit}${cursor === null ? '' : `&cursor=${cursor}`}`
        const page: Answer<PageOf<T>> = await client.get<PageOf<T>>(path + query)
        if (page.status !== 200) throw new Error(`no page: ${page.status} ${page.text}`)
        found.push(...page.body.data)
        cursor = page.body.nextCursor
      } while (cursor !== null)
      return found
    },
  }
  return client
}

function withBody<T>(received: Received): Answer<T> {
  const isJson = /^application\/(problem\+)?json/.test(received.headers['content-type'] ?? '')
  return { ...received, body: isJson && received.text !== '' ? JSON.parse(received.text) : undefined }
}

function idOf(answer: Answer<{ id: string }>): string {
  if (answer.status !== 201) throw new Error(`not made: ${answer.status} ${answer.text}`)
  return answer.body.id
}

/** The app on a database of its own, with two tenants; nothing listens. */
export type Api = {
  readonly app: FastifyInstance
  readonly router: Router
  readonly sagas: Sagas
  readonly directory: Directory
  /** Of the database, as a superuser. */
  readonly url: string
  /** Two tenants; keys with every scope but `admin`. */
  readonly alpha: Client
  readonly beta: Client
  readonly tenantIds: { alpha: string; beta: string }
  readonly send: Send
  /** Somebody with any key. */
  as(apiKey: string): Client
  /** A new key of tenant alpha. */
  keyWith(...scopes: Scope[]): Promise<string>
  /** The number of the last block. */
  blockCount(): Promise<number>
  /** What the database holds, read as a superuser. */
  query<Row extends object>(text: string): Promise<Row[]>
  close(): Promise<void>
}

export type ApiOptions = {
  /** A database to share, instead of a new one. */
  url?: string
  /** The databases of shards 1 and more. */
  moreUrls?: readonly string[]
  sagaOptions?: { giveUpMs?: number }
  /** Puts something else in place of the shards. */
  wrapRouter?: (router: Router) => Router
  /** How long the app waits for a saga that begins now. */
  sagaWaitMs?: () => number
  /** Which webhook endpoints may be named; no name server is asked about their names. */
  webhookRules?: TargetRules
  /** What wakes the streams; the chains themselves if nothing else is given. */
  openFeed?: (shards: () => Router['shards']) => Feed
  streams?: StreamSettings
  /** What refuses too much. */
  guards?: Guards
  /** What is shown of the projections, if anything is. */
  projections?: Projections
  /** TLS, and what clients may ask for before they have sent a request. */
  server?: ServerOptions
  /** Told of each block, beside the feed. */
  onBlock?: OnBlock
  /** Watches the app: its log, its calls, what it shows of itself. */
  observed?: Pick<AppOptions, 'logger' | 'calls' | 'metrics'>
  /** Whether it takes requests in that are posted later, into the shards' own queues or into Kafka; and whether it posts them too. */
  async?: { works: boolean; brokers?: readonly string[] }
  /** Goes between the app and the database: the URL that the app gets. */
  appUrl?: (url: string) => string | Promise<string>
}

export async function openApi({
  url: given,
  moreUrls = [],
  wrapRouter = (router) => router,
  appUrl,
  onBlock: listener,
  observed = {},
  sagaOptions = {},
  sagaWaitMs,
  openFeed = (shards) => createBlockFeed({ shards }),
  streams,
  guards = {},
  projections,
  server = {},
  async: asyncSettings,
  webhookRules = { allowPrivate: false, resolve: async () => ['93.184.215.14'] },
}: ApiOptions = {}): Promise<Api> {
  const url = given ?? (await migratedDatabase())
  const usedUrl = (await appUrl?.(url)) ?? url
  const usedUrls = [usedUrl, ...moreUrls]
  const { map } = await prepareShards(usedUrls)
  const feed = openFeed(() => router.shards)
  const onBlock: OnBlock = (block, posting, commitMs) => {
    feed.tell(newsOf(posting))
    listener?.(block, posting, commitMs)
  }
  const shards = usedUrls.map((url, number) => openShard({ number, url, writer: 'test', onBlock, onTrouble: () => {} }))
  const router = wrapRouter(createRouter(shards, map))
  const sagas = createSagas({ router, onTrouble: () => {}, ...sagaOptions })
  const stopExpiry = startHoldExpiry({ router, sagas }, () => {})
  const directory = createDirectory(usedUrl)
  // Audited when asked, and not before.
  const audits = {
    last: async () => ({ verification: await verifyAll(usedUrls), finishedUs: Date.now() * 1000, tookMs: 1 }),
  }
  const webhookEndpoints = openEndpoints(usedUrl, webhookRules)
  const onTrouble = () => {}
  const queueOf = (brokers: readonly string[]) =>
    openQueue({
      ...{ brokers, partitions: 4, shards: () => usedUrls.map((_, shard) => shard), urlOf: (shard) => usedUrls[shard] },
      ...{ shardOf: router.shardOf, onTrouble },
    })
  const asyncSql = connect(usedUrl, { max: 2, name: 'test async' })
  const async =
    asyncSettings &&
    startAsync({
      ...{ queue: queueOf(asyncSettings.brokers ?? []), works: asyncSettings.works },
      ...{ router, sagas, directory, sql: asyncSql, onTrouble },
    })
  const app = await buildApp({
    ...(async ? { later: async.later } : {}),
    ...{ router, sagas: waiting(sagas, sagaWaitMs), directory, webhookEndpoints, audits },
    ...{ feed, guards, ...(streams && { streams }), ...(projections && { projections }), ...server, ...observed },
  })
  const sql = connect(url, { max: 1, role: null, name: 'test' })
  const send: Send = async ({ method, path, headers, body }) => {
    const asked = { method, url: path, headers, ...(body === undefined ? {} : { payload: body }) }
    if (isStream(path)) {
      // It has no end: what it begins with is the answer.
      const answer = await app.inject({ ...asked, payloadAsStream: true })
      const stream = answer.stream()
      const [first] = await once(stream, 'data')
      stream.destroy()
      return { status: answer.statusCode, headers: textHeaders(answer.headers), text: `${first}` }
    }
    const answer = await app.inject(asked)
    return { status: answer.statusCode, headers: textHeaders(answer.headers), text: answer.payload }
  }
  const tenantIds = { alpha: await directory.ensureTenant('alpha'), beta: await directory.ensureTenant('beta') }
  const keyOf = async (tenantId: string, scopes: readonly Scope[]) => {
    const key = newKey()
    await directory.addKey(tenantId, key, scopes)
    return key
  }
  const plain = SCOPES.filter((scope) => scope !== 'admin')
  return {
    app,
    router,
    sagas,
    directory,
    url,
    tenantIds,
    send,
    alpha: clientOf(send, await keyOf(tenantIds.alpha, plain)),
    beta: clientOf(send, await keyOf(tenantIds.beta, plain)),
    as: (apiKey) => clientOf(send, apiKey),
    keyWith: (...scopes) => keyOf(tenantIds.alpha, scopes),
    async blockCount() {
      const [head] = await sql<{ number: bigint }[]>`SELECT number FROM chain_head`
      return Number(head?.number)
    },
    query: async <Row extends object>(text: string) => [...(await sql.unsafe<Row[]>(text))],
    async close() {
      await app.close()
      await async?.stop()
      await feed.close()
      await stopExpiry()
      await sagas.close()
      await Promise.all([
        directory.close(),
        webhookEndpoints.close(),
        ...shards.map((shard) => shard.close()),
        sql.end({ timeout: 5 }),
        asyncSql.end({ timeout: 5 }),
      ])
    },
  }
}

function isStream(path: string): boolean {
  return /^\/v1\/wallets\/[^/]+\/events/.test(path)
}

function waiting(sagas: Sagas, waitMs: (() => number) | undefined): Sagas {
  return waitMs === undefined ? sagas : { ...sagas, submit: (request) => sagas.submit(request, waitMs()) }
}

function textHeaders(headers: Record<string, unknown>): Record<string, string | undefined> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name, value === undefined ? undefined : `${value}`]),
  )
}

/** RFC 3339 in UTC with microseconds. */
export const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/
/** A prefixed id. */
export const ID = (prefix: string) => new RegExp(`^${prefix}_[0-9a-f]{32}$`)

/** Every operation of the OpenAPI document under /v1. */
export type DocumentedRoute = { method: Method; path: string; operation: Record<string, unknown> }

export function documentedRoutes(document: { paths?: Record<string, Record<string, unknown>> }): DocumentedRoute[] {
  return Object.entries(document.paths ?? {}).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({
      method: method.toUpperCase() as Method,
      path,
      operation: operation as Record<string, unknown>,
    })),
  )
}
