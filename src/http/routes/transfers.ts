import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import Type, { type Static } from 'typebox'
import { parseId, slotOfId } from '../../core/ids.ts'
import type { Leg } from '../../core/leg.ts'
import { type Operation, type Remarks, type Request, requestOf } from '../../core/request.ts'
import { begunSaga } from '../../core/saga.ts'
import { ZerosumError } from '../../errors.ts'
import { endOf } from '../../saga/runner.ts'
import { newId } from '../../shards/newId.ts'
import { allowNoBody } from '../body.ts'
import { type Problem, problemOf } from '../problems.ts'
import {
  Amount,
  Currency,
  Id,
  IdempotencyHeaders,
  Metadata,
  ProblemBody,
  Problems,
  Text,
  Time,
  TransferBody,
} from '../schemas.ts'
import { accepted, idempotencyKey, type Ledger, post, statusOf, submit } from '../submit.ts'
import { transferView } from '../views.ts'

const LegFields = { from: Id('wal'), to: Id('wal'), amount: Amount, currency: Currency }
const RemarkFields = {
  memo: Type.Optional(Text(500)),
  metadata: Type.Optional(Metadata),
  effectiveAt: Type.Optional(Time),
}
const LegList = Type.Array(Type.Object(LegFields, { additionalProperties: false }), { minItems: 2, maxItems: 100 })

/** One schema for both forms of a transfer; `legsOf` sees to it that it is one or the other. */
const TransferFields = {
  from: Type.Optional(LegFields.from),
  to: Type.Optional(LegFields.to),
  amount: Type.Optional(LegFields.amount),
  currency: Type.Optional(LegFields.currency),
  legs: Type.Optional(LegList),
  ...RemarkFields,
}
const TransferRequest = Type.Object(TransferFields, {
  additionalProperties: false,
  description: 'Either from, to, amount and currency; or legs, which go through all or none.',
})
const Item = Type.Object(
  {
    idempotencyKey: Type.String({ minLength: 1, maxLength: 255, pattern: '^[\\x20-\\x7e]+$' }),
    ...TransferFields,
  },
  { additionalProperties: false },
)

const BATCH_BYTES_MAX = 4 * 1024 * 1024

/** Transfers, top-ups and withdrawals: what moves money at once. */
export function transferRoutes({ router, sagas }: Ledger): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.post(
      '/top-ups',
      {
        config: { scope: 'transfers:write' },
        schema: {
          tags: ['transfers'],
          summary: 'Bring money into a wallet from outside',
          headers: IdempotencyHeaders,
          body: Type.Object(
            { walletId: Id('wal'), amount: Amount, currency: Currency, source: Type.Optional(Text(500)) },
            { additionalProperties: false },
          ),
          response: { 201: TransferBody, 202: TransferBody, ...Problems },
        },
      },
      async (request, reply) => {
        const { source, ...body } = request.body
        return await move(request, reply, outsideOf('top-up', body, source))
      },
    )

    app.post(
      '/withdrawals',
      {
        config: { scope: 'transfers:write' },
        schema: {
          tags: ['transfers'],
          summary: 'Take money out of a wallet',
          headers: IdempotencyHeaders,
          body: Type.Object(
            { walletId: Id('wal'), amount: Amount, currency: Currency, destination: Type.Optional(Text(500)) },
            { additionalProperties: false },
          ),
          response: { 201: TransferBody, 202: TransferBody, ...Problems },
        },
      },
      async (request, reply) => {
        const { destination, ...body } = request.body
        return await move(request, reply, outsideOf('withdrawal', body, destination))
      },
    )

    app.post(
      '/transfers',
      {
        config: { scope: 'transfers:write' },
        schema: {
          tags: ['transfers'],
          summary: 'Move money between wallets',
          headers: IdempotencyHeaders,
          body: TransferRequest,
          response: { 201: TransferBody, 202: TransferBody, ...Problems },
        },
      },
      async (request, reply) => {
        return await move(request, reply, transferOf(request.body, 'body'))
      },
    )

    app.post(
      '/transfers/batch',
      {
        bodyLimit: BATCH_BYTES_MAX,
        config: { scope: 'transfers:write' },
        schema: {
          tags: ['transfers'],
          summary: 'Up to a thousand transfers, each decided on its own',
          description:
            'Each item has its own idempotency key; the header is not needed. Results are in the order of the items.',
          body: Type.Object(
            { transfers: Type.Array(Item, { minItems: 1, maxItems: 1000 }) },
            { additionalProperties: false },
          ),
          response: {
            200: Type.Object({
              results: Type.Array(
                Type.Object({
                  status: Type.Integer(),
                  replayed: Type.Boolean(),
                  transfer: Type.Optional(TransferBody),
                  problem: Type.Optional(ProblemBody),
                }),
              ),
            }),
            ...Problems,
          },
        },
      },
      async (request) => {
        const { tenantId } = request.principal
        const asked = request.body.transfers.map(({ idempotencyKey, ...body }, i) =>
          requestFor(tenantId, idempotencyKey, transferOf(body, `body/transfers/${i}`)),
        )
        return { results: await Promise.all(asked.map((item) => itemResult(request, item))) }
      },
    )

    app.post(
      '/transfers/:id/reverse',
      {
        config: { scope: 'transfers:write' },
        schema: {
          tags: ['transfers'],
          summary: 'Take a transfer back, in full or in part',
          params: Type.Object({ id: Type.String() }),
          headers: IdempotencyHeaders,
          body: Type.Object({ amount: Type.Optional(Amount) }, { additionalProperties: false }),
          response: { 201: TransferBody, 202: TransferBody, ...Problems },
        },
        preValidation: allowNoBody,
      },
      async (request, reply) => {
        const { record } = await find(request.principal.tenantId, request.params.id)
        const amount = optionalAmount(request.body.amount)
        return await move(request, reply, { kind: 'reversal', transferId: record.id, ...amount })
      },
    )

    app.get(
      '/transfers/:id',
      {
        config: { scope: 'wallets:read' },
        schema: {
          tags: ['transfers'],
          summary: 'Get a transfer, top-up, withdrawal or reversal',
          params: Type.Object({ id: Type.String() }),
          response: { 200: TransferBody, ...Problems },
        },
      },
      async ({ principal, params }) => {
        const { reversedBy, ...made } = await find(principal.tenantId, params.id)
        return transferView(made, reversedBy)
      },
    )

    async function move(request: FastifyRequest, reply: FastifyReply, operation: Operation) {
      const asked = requestFor(request.principal.tenantId, idempotencyKey(request), operation)
      const made = await post(sagas, asked, reply)
      const transfer = transferView(made)
      reply.code(statusOf(made, 201)).header('location', `/v1/transfers/${transfer.id}`)
      return transfer
    }

    async function itemResult(request: FastifyRequest, asked: Request): Promise<ItemResult> {
      let replayed = false
      try {
        const settled = await submit(sagas, asked)
        replayed = settled.status === 'replayed'
        const made = accepted(settled)
        return { status: statusOf(made, 201), replayed, transfer: transferView(made) }
      } catch (error) {
        if (!(error instanceof ZerosumError)) {
          request.log.error({ err: error }, 'an item of a batch failed unexpectedly')
        }
        const problem = problemOf(error instanceof ZerosumError ? error : new ZerosumError('internal_error'), request)
        return { status: problem.status, replayed, problem }
      }
    }

    async function find(tenantId: string, text: string) {
      const id = parseId('trf', text)
      const found = id && (await router.read(id, ({ reader }) => reader.transfer(tenantId, id)))
      if (!id || !found) throw new ZerosumError('not_found')
      if (!begunSaga(tenantId, found.record.result)) return found
      const ended = await router.read(id, ({ reader }) => reader.sagaEnd(tenantId, id))
      return { ...found, end: ended ? endOf(ended) : ('pending' as const) }
    }
  }
}

type ItemResult = { status: number; replayed: boolean; transfer?: ReturnType<typeof transferView>; problem?: Problem }

/** The request for an operation; its id routes to where the operation is posted. */
export function requestFor(tenantId: string, key: string, operation: Operation): Request {
  const request = requestOf('', tenantId, key, operation)
  return { ...request, id: newId(slotOfId(request.scope)) }
}

function outsideOf(
  kind: 'top-up' | 'withdrawal',
  body: { walletId: string; amount: string; currency: string },
  reference: string | undefined,
): Operation {
  return {
    kind,
    walletId: uuidOf(body.walletId),
    amount: BigInt(body.amount),
    currency: body.currency,
    ...(reference === undefined ? {} : { reference }),
  }
}

function transferOf(body: Static<typeof TransferRequest>, place: string): Operation {
  const { memo, metadata, effectiveAt } = body
  const remarks: Remarks = {
    ...(memo === undefined ? {} : { memo }),
    ...(metadata === undefined ? {} : { metadata }),
    ...(effectiveAt === undefined ? {} : { effectiveAt }),
  }
  return { kind: 'transfer', legs: legsOf(body, place), remarks }
}

/** @throws validation_failed if it is neither one movement nor legs, or both */
function legsOf({ from, to, amount, currency, legs }: Static<typeof TransferRequest>, place: string): Leg[] {
  const single = { from, to, amount, currency }
  if (legs) {
    const extra = Object.entries(single).filter(([, value]) => value !== undefined)
    if (extra.length > 0) throw wrongFields(place, extra, 'must not be given beside legs')
    return legs.map(legOf)
  }
  if (from !== undefined && to !== undefined && amount !== undefined && currency !== undefined) {
    return [legOf({ from, to, amount, currency })]
  }
  const missing = Object.entries(single).filter(([, value]) => value === undefined)
  throw wrongFields(place, missing, 'is required, unless there are legs')
}

export function legOf(leg: { from: string; to: string; amount: string; currency: string }): Leg {
  return { from: uuidOf(leg.from), to: uuidOf(leg.to), amount: BigInt(leg.amount), currency: leg.currency }
}

export function optionalAmount(amount: string | undefined): { amount?: bigint } {
  return amount === undefined ? {} : { amount: BigInt(amount) }
}

/** The UUID of a wallet id that the schema has checked. */
function uuidOf(text: string): string {
  const id = parseId('wal', text)
  if (id === undefined) throw new Error(`a wallet id passed its schema but is none: ${text}`)
  return id
}

function wrongFields(place: string, fields: [string, unknown][], message: string): ZerosumError {
  const errors = fields.map(([name]) => ({ field: `${place}/${name}`, message }))
  return new ZerosumError('validation_failed', `${errors[0]?.field}: ${message}`, { errors })
}
