import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify'
import Type, { type Static } from 'typebox'
import { type LaterOperation, laterRequest } from '../../async/message.ts'
import type { Later } from '../../async/start.ts'
import { parseId, slotOfId } from '../../core/ids.ts'
import type { Leg } from '../../core/leg.ts'
import { type Operation, type Remarks, type Request, requestOf } from '../../core/request.ts'
import { begunSaga } from '../../core/saga.ts'
import { ZerosumError } from '../../errors.ts'
import { endOf } from '../../saga/runner.ts'
import { newId } from '../../shards/newId.ts'
import { allowNoBody } from '../body.ts'
import { appliedAsync, prefersAsync } from '../prefer.ts'
import { knownError, type Problem, problemOf } from '../problems.ts'
import {
  Amount,
  Currency,
  Id,
  LaterHeaders,
  Metadata,
  ProblemBody,
  Problems,
  Text,
  Time,
  TransferBody,
  UnfinishedTransferBody,
  WaitingTransferBody,
} from '../schemas.ts'
import { accepted, acceptLater, idempotencyKey, type Ledger, post, statusOf, submit } from '../submit.ts'
import { laterTransferView, reusedTransferView, transferView } from '../views.ts'

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

/** When it makes sense to look at what waits to be posted. */
const LOOK_AGAIN_SECONDS = 1

/**
 * Transfers, top-ups and withdrawals: what moves money at once.
 * @param later for callers who would rather not wait; without it they do
 */
export function transferRoutes({ router, sagas }: Ledger, later?: Later): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.post(
      '/top-ups',
      {
        config: { scope: 'transfers:write' },
        schema: {
          tags: ['transfers'],
          summary: 'Bring money into a wallet from outside',
          headers: LaterHeaders,
          body: Type.Object(
            { walletId: Id('wal'), amount: Amount, currency: Currency, source: Type.Optional(Text(500)) },
            { additionalProperties: false },
          ),
          response: { 201: TransferBody, 202: UnfinishedTransferBody, ...Problems },
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
          headers: LaterHeaders,
          body: Type.Object(
            { walletId: Id('wal'), amount: Amount, currency: Currency, destination: Type.Optional(Text(500)) },
            { additionalProperties: false },
          ),
          response: { 201: TransferBody, 202: UnfinishedTransferBody, ...Problems },
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
          headers: LaterHeaders,
          body: TransferRequest,
          response: { 201: TransferBody, 202: UnfinishedTransferBody, ...Problems },
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
          headers: Type.Object({ prefer: LaterHeaders.properties.prefer }),
          body: Type.Object(
            { transfers: Type.Array(Item, { minItems: 1, maxItems: 1000 }) },
            { additionalProperties: false },
          ),
          response: {
            200: resultsOf(TransferBody),
            202: resultsOf(UnfinishedTransferBody),
            ...Problems,
          },
        },
      },
      async (request, reply) => {
        const { tenantId } = request.principal
        const asked = request.body.transfers.map(({ idempotencyKey, ...body }, i) => ({
          key: idempotencyKey,
          operation: transferOf(body, `body/transfers/${i}`),
        }))
        const accepting = prefersAsync(request) ? later : undefined
        const results = asked.map(({ key, operation }) =>
          accepting
            ? acceptItem(accepting, request, laterRequest(tenantId, key, operation))
            : postItem(request, requestFor(tenantId, key, operation)),
        )
        if (accepting) appliedAsync(reply)
        return { results: await Promise.all(results) }
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
          headers: LaterHeaders,
          body: Type.Object({ amount: Type.Optional(Amount) }, { additionalProperties: false }),
          response: { 201: TransferBody, 202: UnfinishedTransferBody, ...Problems },
        },
        preValidation: allowNoBody,
      },
      async (request, reply) => {
        const found = await find(request.principal.tenantId, request.params.id)
        // What it will have moved is not known yet.
        if (found === 'waiting') throw new ZerosumError('request_in_flight')
        const transferId = 'record' in found ? found.record.id : found.id
        const amount = optionalAmount(request.body.amount)
        return await move(request, reply, { kind: 'reversal', transferId, ...amount })
      },
    )

    app.get(
      '/transfers/:id',
      {
        config: { scope: 'wallets:read' },
        schema: {
          tags: ['transfers'],
          summary: 'Get a transfer, top-up, withdrawal or reversal',
          description:
            'What was accepted with `Prefer: respond-async` and was not posted yet is answered with 202. If its key had been used for the same ' +
            'request before, that one is shown, under its own id.',
          params: Type.Object({ id: Type.String() }),
          response: { 200: TransferBody, 202: WaitingTransferBody, ...Problems },
        },
      },
      async ({ principal, params }, reply) => {
        const found = await find(principal.tenantId, params.id)
        if (found !== 'waiting')
          return 'record' in found ? transferView(found, found.reversedBy) : reusedTransferView(found)
        reply.code(202).header('retry-after', LOOK_AGAIN_SECONDS)
        return { id: params.id, status: 'pending' as const }
      },
    )

    async function move(request: FastifyRequest, reply: FastifyReply, operation: LaterOperation) {
      const { tenantId } = request.principal
      const key = idempotencyKey(request)
      if (later && prefersAsync(request)) {
        const asked = laterRequest(tenantId, key, operation)
        await acceptLater(later, asked)
        const transfer = laterTransferView(asked)
        appliedAsync(reply).header('location', `/v1/transfers/${transfer.id}`)
        return transfer
      }
      const made = await post(sagas, requestFor(tenantId, key, operation), reply)
      const transfer = transferView(made)
      reply.code(statusOf(made, 201)).header('location', `/v1/transfers/${transfer.id}`)
      return transfer
    }

    async function postItem(request: FastifyRequest, asked: Request): Promise<ItemResult> {
      let replayed = false
      try {
        const settled = await submit(sagas, asked)
        replayed = settled.status === 'replayed'
        const made = accepted(settled)
        return { status: statusOf(made, 201), replayed, transfer: transferView(made) }
      } catch (error) {
        return { replayed, ...problemItem(request, error) }
      }
    }

    async function acceptItem(accepting: Later, request: FastifyRequest, asked: Request): Promise<ItemResult> {
      try {
        await acceptLater(accepting, asked)
        return { status: 202, replayed: false, transfer: laterTransferView(asked) }
      } catch (error) {
        return { replayed: false, ...problemItem(request, error) }
      }
    }

    async function read(tenantId: string, id: string) {
      const found = await router.read(id, ({ reader }) => reader.transfer(tenantId, id))
      if (!found || !begunSaga(tenantId, found.record.result)) return found
      const ended = await router.read(id, ({ reader }) => reader.sagaEnd(tenantId, id))
      return { ...found, end: ended ? endOf(ended) : ('pending' as const) }
    }

    /** A transfer as the ledger has it, or how it ended without that; `waiting` if it may have been accepted to be posted later. */
    async function find(tenantId: string, text: string) {
      const id = parseId('trf', text)
      const found = id && (await read(tenantId, id))
      if (found) return found
      if (!id || !later?.mayBe(tenantId, id)) throw new ZerosumError('not_found')
      const end = await later.end(tenantId, id)
      if (!end) return 'waiting' as const
      return (end.recordId !== null && (await read(tenantId, end.recordId))) || end
    }
  }
}

type ItemResult = {
  status: number
  replayed: boolean
  transfer?: Static<typeof UnfinishedTransferBody>
  problem?: Problem
}

function problemItem(request: FastifyRequest, error: unknown): { status: number; problem: Problem } {
  const known = error instanceof Error ? knownError(error as FastifyError) : undefined
  if (!known) request.log.error({ err: error }, 'an item of a batch failed unexpectedly')
  const problem = problemOf(known ?? new ZerosumError('internal_error'), request)
  return { status: problem.status, problem }
}

const resultsOf = <T extends Type.TSchema>(transfer: T) =>
  Type.Object({
    results: Type.Array(
      Type.Object({
        status: Type.Integer(),
        replayed: Type.Boolean(),
        transfer: Type.Optional(transfer),
        problem: Type.Optional(ProblemBody),
      }),
    ),
  })

/** The request for an operation; its id routes to where the operation is posted. */
export function requestFor(tenantId: string, key: string, operation: Operation): Request {
  const request = requestOf('', tenantId, key, operation)
  return { ...request, id: newId(slotOfId(request.scope)) }
}

function outsideOf(
  kind: 'top-up' | 'withdrawal',
  body: { walletId: string; amount: string; currency: string },
  reference: string | undefined,
): LaterOperation {
  return {
    kind,
    walletId: uuidOf(body.walletId),
    amount: BigInt(body.amount),
    currency: body.currency,
    ...(reference === undefined ? {} : { reference }),
  }
}

function transferOf(body: Static<typeof TransferRequest>, place: string): LaterOperation {
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
