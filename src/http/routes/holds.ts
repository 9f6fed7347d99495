import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import Type from 'typebox'
import type { Hold } from '../../core/hold.ts'
import { parseId } from '../../core/ids.ts'
import type { Operation } from '../../core/request.ts'
import { ZerosumError } from '../../errors.ts'
import { allowNoBody } from '../body.ts'
import { Amount, Currency, HoldBody, Id, IdempotencyHeaders, Problems } from '../schemas.ts'
import { idempotencyKey, type Ledger, post, statusOf } from '../submit.ts'
import { holdView, recordedHold } from '../views.ts'
import { legOf, optionalAmount, requestFor } from './transfers.ts'

const Params = Type.Object({ id: Type.String() })
const EXPIRES_IN_SECONDS = 7 * 24 * 3600
const EXPIRES_IN_SECONDS_MAX = 366 * 24 * 3600

/** Holds: money reserved now, captured or released later. */
export function holdRoutes({ router, sagas }: Ledger): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.post(
      '/holds',
      {
        config: { scope: 'transfers:write' },
        schema: {
          tags: ['holds'],
          summary: 'Reserve money for somebody',
          headers: IdempotencyHeaders,
          body: Type.Object(
            {
              walletId: Id('wal'),
              to: Id('wal'),
              amount: Amount,
              currency: Currency,
              expiresInSeconds: Type.Integer({
                minimum: 1,
                maximum: EXPIRES_IN_SECONDS_MAX,
                default: EXPIRES_IN_SECONDS,
              }),
            },
            { additionalProperties: false, required: ['walletId', 'to', 'amount', 'currency'] },
          ),
          response: { 201: HoldBody, 202: HoldBody, ...Problems },
        },
      },
      async (request, reply) => {
        const { walletId, expiresInSeconds, ...body } = request.body
        const leg = legOf({ ...body, from: walletId })
        return await act(request, reply, { kind: 'hold', leg, expiresInSeconds, remarks: {} }, 201)
      },
    )

    app.post(
      '/holds/:id/capture',
      {
        config: { scope: 'transfers:write' },
        schema: {
          tags: ['holds'],
          summary: 'Take what was reserved, or a part of it; the rest is free again',
          params: Params,
          headers: IdempotencyHeaders,
          body: Type.Object({ amount: Type.Optional(Amount) }, { additionalProperties: false }),
          response: { 200: HoldBody, 202: HoldBody, ...Problems },
        },
        preValidation: allowNoBody,
      },
      async (request, reply) => {
        const { id: holdId } = await find(request.principal.tenantId, request.params.id)
        return await act(request, reply, { kind: 'capture', holdId, ...optionalAmount(request.body.amount) }, 200)
      },
    )

    app.post(
      '/holds/:id/release',
      {
        config: { scope: 'transfers:write' },
        schema: {
          tags: ['holds'],
          summary: 'Let go of what was reserved',
          params: Params,
          headers: IdempotencyHeaders,
          body: Type.Object({}, { additionalProperties: false }),
          response: { 200: HoldBody, 202: HoldBody, ...Problems },
        },
        preValidation: allowNoBody,
      },
      async (request, reply) => {
        const { id: holdId } = await find(request.principal.tenantId, request.params.id)
        return await act(request, reply, { kind: 'release', holdId }, 200)
      },
    )

    app.get(
      '/holds/:id',
      {
        config: { scope: 'wallets:read' },
        schema: { tags: ['holds'], summary: 'Get a hold', params: Params, response: { 200: HoldBody, ...Problems } },
      },
      async ({ principal, params }) => holdView(await find(principal.tenantId, params.id)),
    )

    async function act(request: FastifyRequest, reply: FastifyReply, operation: Operation, done: 200 | 201) {
      const asked = requestFor(request.principal.tenantId, idempotencyKey(request), operation)
      const made = await post(sagas, asked, reply)
      const { tenantId, id } = made.record
      // While a saga is under way, the record says less than the hold itself.
      const isOver = made.end !== 'pending'
      const hold = isOver
        ? holdView(recordedHold(made))
        : holdView(await findById(tenantId, 'holdId' in operation ? operation.holdId : id))
      const status = statusOf(made, done)
      reply.code(status)
      if (status !== 200) reply.header('location', `/v1/holds/${hold.id}`)
      return hold
    }

    async function find(tenantId: string, text: string): Promise<Hold> {
      return await findById(tenantId, parseId('hld', text))
    }

    async function findById(tenantId: string, id: string | undefined): Promise<Hold> {
      const hold = id && (await router.read(id, ({ reader }) => reader.hold(tenantId, id)))
      if (!hold) throw new ZerosumError('not_found')
      return hold
    }
  }
}
