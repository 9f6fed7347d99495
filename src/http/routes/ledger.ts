import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import Type, { type Static } from 'typebox'
import type { Audits, LastAudit } from '../../audit/background.ts'
import { formatId, parseId } from '../../core/ids.ts'
import { formatTime } from '../../core/time.ts'
import { ZerosumError } from '../../errors.ts'
import type { Router } from '../../shards/router.ts'
import type { Shard } from '../../shards/shard.ts'
import { numberPage, pageView } from '../page.ts'
import { BlockBody, PageOf, PageQuery, Problems, SignedAmount } from '../schemas.ts'
import { blockView, entryId } from '../views.ts'

const TransactionBody = Type.Object({
  id: Type.String(),
  kind: Type.String(),
  shard: Type.Integer(),
  block: Type.Integer(),
  item: Type.Integer({ description: 'Its place in the block: leaf number, from 0, of the Merkle tree.' }),
  createdAt: Type.String(),
  entries: Type.Array(
    Type.Object({
      id: Type.String(),
      account: Type.String({ description: 'A wallet id, or the name of a system account, such as cash.' }),
      sequence: Type.Integer(),
      currency: Type.String(),
      amount: SignedAmount,
      layer: Type.String(),
      balanceAfter: SignedAmount,
    }),
  ),
})

const BlockWithRequests = Type.Object({
  ...BlockBody.properties,
  requests: Type.Array(
    Type.Object({
      item: Type.Integer(),
      transactionId: Type.String(),
      kind: Type.String(),
      refusal: Type.Unsafe<string | null>({ type: ['string', 'null'] }),
      leaf: Type.String(),
    }),
    { description: 'Those of your own tenant.' },
  ),
})

const DiscrepancyBody = Type.Object({
  shard: Type.Unsafe<number | null>({ type: ['integer', 'null'] }),
  block: Type.Unsafe<number | null>({ type: ['integer', 'null'] }),
  transaction: Type.Unsafe<string | null>({ type: ['string', 'null'] }),
  account: Type.Unsafe<string | null>({ type: ['string', 'null'] }),
  problem: Type.String(),
})

const VerificationBody = Type.Object({
  balanced: Type.Boolean(),
  finishedAt: Type.String(),
  tookMs: Type.Integer(),
  shards: Type.Array(
    Type.Object({
      shard: Type.Integer(),
      blocks: Type.Integer(),
      requests: Type.Integer(),
      entries: Type.Integer(),
      accounts: Type.Integer(),
      head: Type.Object({ number: Type.Integer(), hash: Type.String() }),
      balanced: Type.Boolean(),
    }),
  ),
  betweenShards: Type.Object({ sagas: Type.Integer(), inFlight: Type.Integer(), balanced: Type.Boolean() }),
  discrepancy: Type.Unsafe<Static<typeof DiscrepancyBody> | null>({ anyOf: [DiscrepancyBody, { type: 'null' }] }),
})

/** The trail: blocks of the chain, transactions with their entries, and what the last audit said of it. */
export function ledgerRoutes(router: Router, audits: Pick<Audits, 'last'> | undefined): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.get(
      '/ledger/blocks',
      {
        config: { scope: 'ledger:read' },
        schema: {
          tags: ['ledger'],
          summary: "List a shard's blocks, newest first",
          querystring: Type.Object(
            { shard: Type.Integer({ minimum: 0, maximum: 4095, default: 0 }), ...PageQuery },
            { additionalProperties: false },
          ),
          response: { 200: PageOf(BlockBody), ...Problems },
        },
      },
      async ({ query }) => {
        const blocks = await shardOf(query.shard).reader.blocks(numberPage(query))
        return pageView(blocks, query.limit, blockView, ({ number }) => number)
      },
    )

    app.get(
      '/ledger/blocks/:shard/:number',
      {
        config: { scope: 'ledger:read' },
        schema: {
          tags: ['ledger'],
          summary: 'Get a block, with the requests of your tenant that are in it',
          params: Type.Object({ shard: Type.String(), number: Type.String() }),
          response: { 200: BlockWithRequests, ...Problems },
        },
      },
      async ({ principal, params }) => {
        const { reader } = shardOf(naturalNumber(params.shard))
        const number = naturalNumber(params.number)
        const block = await reader.block(number)
        if (!block) throw new ZerosumError('not_found')
        const requests = await reader.blockRequests(principal.tenantId, number)
        return {
          ...blockView(block),
          requests: requests.map(({ id, ...rest }) => ({ ...rest, transactionId: formatId('txn', id) })),
        }
      },
    )

    app.get(
      '/transactions/:id',
      {
        config: { scope: 'ledger:read' },
        schema: {
          tags: ['ledger'],
          summary: 'Get a transaction with its entries',
          params: Type.Object({ id: Type.String() }),
          response: { 200: TransactionBody, ...Problems },
        },
      },
      async ({ principal, params }) => {
        const id = parseId('txn', params.id)
        const transaction = id && (await router.read(id, ({ reader }) => reader.transaction(principal.tenantId, id)))
        if (!transaction) throw new ZerosumError('not_found')
        const { kind, shard, block, item, timeUs, entries } = transaction
        return {
          id: params.id,
          kind,
          shard,
          block,
          item,
          createdAt: formatTime(timeUs),
          entries: entries.map((entry) => ({
            id: entryId(entry.accountId, entry.sequence),
            account: entry.accountName === 'wallet' ? formatId('wal', entry.accountId) : entry.accountName,
            sequence: entry.sequence,
            currency: entry.currency,
            amount: `${entry.amount}`,
            layer: entry.layer,
            balanceAfter: `${entry.balanceAfter}`,
          })),
        }
      },
    )

    app.get(
      '/ledger/verification',
      {
        config: { scope: 'ledger:read' },
        schema: {
          tags: ['ledger'],
          summary: 'What the last audit of all shards found',
          description: 'Audits go on by themselves; before the first is done there is nothing to show.',
          response: { 200: VerificationBody, ...Problems },
        },
      },
      async (request) => {
        const last = await audits?.last()
        if (!last) throw new ZerosumError('not_found', 'No audit is done yet: ask again in half a minute.')
        return verificationView(last, request.principal.scopes.has('admin'))
      },
    )

    function shardOf(number: number): Shard {
      const shard = router.shards[number]
      if (!shard) throw new ZerosumError('not_found')
      return shard
    }
  }
}

/** The first discrepancy: within a shard, else between them. What it is about may be another tenant's: administrators see it. */
function verificationView(
  { verification, finishedUs, tookMs }: LastAudit,
  isAdmin: boolean,
): Static<typeof VerificationBody> {
  const { balanced, shards, transit, copies } = verification
  const between = transit.discrepancy && {
    ...{ shard: null, block: null, transaction: formatId('txn', transit.discrepancy.saga), account: null },
    problem: transit.discrepancy.problem,
  }
  const copied = copies?.discrepancy && {
    ...{ shard: copies.discrepancy.shard, block: null, account: null },
    ...{ transaction: formatId('txn', copies.discrepancy.request), problem: copies.discrepancy.problem },
  }
  const first = shards.find(({ discrepancy }) => discrepancy)?.discrepancy ?? between ?? copied ?? null
  const hidden = { transaction: null, account: null, problem: 'An operator can see what it is: zerosum verify.' }
  return {
    balanced,
    finishedAt: formatTime(finishedUs),
    tookMs,
    shards: shards.map(({ discrepancy: _, ...report }) => report),
    betweenShards: { sagas: transit.sagas, inFlight: transit.inFlight, balanced: transit.balanced },
    discrepancy: first && (isAdmin ? first : { ...first, ...hidden }),
  }
}

/** A number in a path. @throws not_found, as what is no number names nothing */
function naturalNumber(text: string): number {
  if (!/^\d{1,15}$/.test(text)) throw new ZerosumError('not_found')
  return Number(text)
}
