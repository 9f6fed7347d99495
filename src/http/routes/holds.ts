import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import Type from 'typebox'
import type { Hold } from '../../core/hold.ts'
import { parseId } from '../../core/ids.ts'
import type { Operation } from '../../core/request.ts'
import { ZerosumError } from '../../errors.ts'
import type { Router } from '../../shards/router.ts'
import { allowNoBody } from '../body.ts'
import { Amount, Currency, HoldBody, Id, IdempotencyHeaders, Problems } from '../schemas.ts'
import { idempotencyKey, post } from '../submit.ts'
import { holdView, recordedHold } from '../views.ts'
import { legOf, optionalAmount, requestFor } from './transfers.ts'

const Params = Type.Object({ id: Type.String() })
const EXPIRES_IN_SECONDS = 7 * 24 * 3600
const EXPIRES_IN_SECONDS_MAX = 366 * 24 * 3600

/** Holds: money reserved now, captured or released later. */
export function holdRoutes(router: Router): FastifyPluginAsyncTypebox {
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
          response: { 201: HoldBody, ...Problems },
        },
      },
      async (request, reply) => {
        const { walletId, expiresInSeconds, ...body } = request.body
        const leg = legOf({ ...body, from: walletId })
        const hold = await act(request, reply, { kind: 'hold', leg, expiresInSeconds, remarks: {} })
        return reply.code(201).header('location', `/v1/holds/${hold.id}`).send(hold)
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
          response: { 200: HoldBody, ...Problems },
        },
        preValidation: allowNoBody,
      },
      async (request, reply) => {
        const { id: holdId } = await find(request.principal.tenantId, request.params.id)
        return await act(request, reply, { kind: 'capture', holdId, ...optionalAmount(request.body.amount) })
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
          response: { 200: HoldBody, ...Problems },
        },
        preValidation: allowNoBody,
      },
      async (request, reply) => {
        const { id: holdId } = await find(request.principal.tenantId, request.params.id)
        return await act(request, reply, { kind: 'release', holdId })
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

    async function act(request: FastifyRequest, reply: FastifyReply, operation: Operation) {
      const asked = requestFor(request.principal.tenantId, idempotencyKey(request), operation)
      return holdView(recordedHold(await post(router.forId(asked.scope), asked, reply)))
    }

    async function find(tenantId: string, text: string): Promise<Hold> {
      const id = parseId('hld', text)
      const hold = id && (await router.forId(id).reader.hold(tenantId, id))
      if (!hold) throw new ZerosumError('not_found')
      return hold
    }
  }
}
