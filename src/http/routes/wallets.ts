import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import Type, { type Static } from 'typebox'
import type { BalanceAnswer, Balances } from '../../cache/balances.ts'
import type { Limits as WalletLimits } from '../../core/account.ts'
import { parseId, slotOf, slotOfId } from '../../core/ids.ts'
import { requestOf } from '../../core/request.ts'
import { parseTime } from '../../core/time.ts'
import { ZerosumError } from '../../errors.ts'
import type { Wallet } from '../../ledger/sql/wallets.ts'
import { newId } from '../../shards/newId.ts'
import { idPage, numberPage, pageView } from '../page.ts'
import {
  AmountOrZero,
  BalanceBody,
  Currency,
  EntryBody,
  IdempotencyHeaders,
  Limits,
  Metadata,
  PageOf,
  PageQuery,
  Problems,
  Text,
  Time,
  WalletBody,
} from '../schemas.ts'
import { idempotencyKey, type Ledger, post } from '../submit.ts'
import { balanceView, entryView, openedWalletView, walletView } from '../views.ts'

const Params = Type.Object({ id: Type.String() })

/** Wallets: open, read, change; their balance and their entries. Without `balances`, each is read from the database. */
export function walletRoutes({ router, sagas }: Ledger, balances?: Balances): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.post(
      '/wallets',
      {
        config: { scope: 'wallets:write' },
        schema: {
          tags: ['wallets'],
          summary: 'Open a wallet',
          headers: IdempotencyHeaders,
          body: Type.Object(
            {
              holderId: Text(128, 1),
              currency: Currency,
              name: Type.Optional(Text(200)),
              metadata: Type.Optional(Metadata),
              overdraftLimit: Type.Optional(AmountOrZero),
              limits: Type.Optional(Limits),
            },
            { additionalProperties: false },
          ),
          response: { 201: WalletBody, ...Problems },
        },
      },
      async (request, reply) => {
        const key = idempotencyKey(request)
        const { tenantId } = request.principal
        const { holderId, currency, overdraftLimit, limits, name, metadata } = request.body
        const id = newId(slotOf(tenantId, holderId))
        const asked = requestOf(id, tenantId, key, {
          kind: 'wallet-open',
          holderId,
          currency,
          overdraftLimit: BigInt(overdraftLimit ?? 0),
          limits: limitsOf(limits),
          ...(name === undefined ? {} : { name }),
          ...(metadata === undefined ? {} : { metadata }),
        })
        const wallet = openedWalletView((await post(sagas, asked, reply)).record)
        return reply.code(201).header('location', `/v1/wallets/${wallet.id}`).send(wallet)
      },
    )

    app.get(
      '/wallets',
      {
        config: { scope: 'wallets:read' },
        schema: {
          tags: ['wallets'],
          summary: "List a holder's wallets, newest first",
          querystring: Type.Object({ holderId: Text(128, 1), ...PageQuery }, { additionalProperties: false }),
          response: { 200: PageOf(WalletBody), ...Problems },
        },
      },
      async ({ principal, query }) => {
        const { tenantId } = principal
        const wallets = await router.readHolder(tenantId, query.holderId, ({ reader }) =>
          reader.wallets(tenantId, query.holderId, idPage(query)),
        )
        return pageView(wallets, query.limit, walletView, ({ id }) => id)
      },
    )

    app.get(
      '/wallets/:id',
      {
        config: { scope: 'wallets:read' },
        schema: {
          tags: ['wallets'],
          summary: 'Get a wallet',
          params: Params,
          response: { 200: WalletBody, ...Problems },
        },
      },
      async ({ principal, params }) => walletView(await find(principal.tenantId, params.id)),
    )

    app.patch(
      '/wallets/:id',
      {
        config: { scope: 'wallets:write' },
        schema: {
          tags: ['wallets'],
          summary: 'Rename, freeze, unfreeze or close a wallet, or set its limits',
          params: Params,
          headers: IdempotencyHeaders,
          body: Type.Object(
            {
              name: Type.Optional(Text(200)),
              metadata: Type.Optional(Metadata),
              status: Type.Optional(Type.Enum(['active', 'frozen', 'closed'])),
              limits: Type.Optional(Limits),
            },
            { additionalProperties: false, minProperties: 1 },
          ),
          response: { 200: WalletBody, ...Problems },
        },
      },
      async (request, reply) => {
        const { tenantId } = request.principal
        const wallet = await find(tenantId, request.params.id)
        const { name, metadata, status, limits } = request.body
        const id = newId(slotOfId(wallet.id))
        const key = request.headers['idempotency-key'] ?? id
        const asked = requestOf(id, tenantId, key, {
          kind: 'wallet-update',
          walletId: wallet.id,
          ...(name === undefined ? {} : { name }),
          ...(metadata === undefined ? {} : { metadata }),
          ...(status === undefined ? {} : { status }),
          ...(limits === undefined ? {} : { limits: limitsOf(limits) }),
        })
        await post(sagas, asked, reply)
        return walletView(await find(tenantId, request.params.id))
      },
    )

    app.get(
      '/wallets/:id/balance',
      {
        config: { scope: 'wallets:read' },
        schema: {
          tags: ['wallets'],
          summary: 'Get the balance, now or at a time in the past',
          params: Params,
          querystring: Type.Object(
            {
              consistency: Type.Optional(
                Type.Enum(['cached', 'strong'], {
                  default: 'cached',
                  description: '`strong` has all that was posted before it was asked; `cached` may be a moment behind.',
                }),
              ),
              at: Type.Optional(Time),
            },
            { additionalProperties: false },
          ),
          response: { 200: BalanceBody, ...Problems },
        },
      },
      async ({ principal, params, query }) => {
        const id = walletId(params.id)
        const atUs = query.at === undefined ? undefined : parseTime(query.at)
        const isStrong = query.consistency === 'strong' || atUs !== undefined
        const { balance: now, source } = await balanceNow(principal.tenantId, id, isStrong)
        if (!now) throw new ZerosumError('not_found')
        if (atUs === undefined) return balanceView(id, now, source)
        // The last block may be of a node whose clock is ahead.
        if (atUs > Math.max(Date.now() * 1000, now.asOfUs)) throw badTime()
        const then = await router.read(id, ({ reader }) => reader.balanceAt(principal.tenantId, id, atUs))
        return balanceView(id, then ?? now, 'database')
      },
    )

    app.get(
      '/wallets/:id/entries',
      {
        config: { scope: 'wallets:read' },
        schema: {
          tags: ['wallets'],
          summary: "List a wallet's ledger entries, newest first",
          params: Params,
          querystring: Type.Object(PageQuery, { additionalProperties: false }),
          response: { 200: PageOf(EntryBody), ...Problems },
        },
      },
      async ({ principal, params, query }) => {
        const { id } = await find(principal.tenantId, params.id)
        const entries = await router.read(id, ({ reader }) => reader.entries(id, numberPage(query)))
        return pageView(entries, query.limit, entryView, ({ sequence }) => sequence)
      },
    )

    async function balanceNow(tenantId: string, id: string, strong: boolean): Promise<BalanceAnswer> {
      if (balances) return await balances.read(tenantId, id, { strong })
      return { balance: await router.read(id, ({ reader }) => reader.balance(tenantId, id)), source: 'database' }
    }

    async function find(tenantId: string, text: string): Promise<Wallet> {
      const id = walletId(text)
      const wallet = await router.read(id, ({ reader }) => reader.wallet(tenantId, id))
      if (!wallet) throw new ZerosumError('not_found')
      return wallet
    }
  }
}

/** The id in a path. What is no id names nothing. @throws not_found */
function walletId(text: string): string {
  const id = parseId('wal', text)
  if (id === undefined) throw new ZerosumError('not_found')
  return id
}

function limitsOf(limits: Static<typeof Limits> = {}): WalletLimits {
  return {
    ...(limits.transferMax === undefined ? {} : { transferMax: BigInt(limits.transferMax) }),
    ...(limits.balanceMax === undefined ? {} : { balanceMax: BigInt(limits.balanceMax) }),
  }
}

function badTime(): ZerosumError {
  const message = 'must not be in the future'
  return new ZerosumError('validation_failed', `querystring/at: ${message}`, {
    errors: [{ field: 'querystring/at', message }],
  })
}
