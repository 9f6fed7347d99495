import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import Type from 'typebox'
import { type IdPrefix, parseId } from '../../core/ids.ts'
import { ZerosumError } from '../../errors.ts'
import type { EndpointChange, Endpoints, Shown } from '../../webhooks/endpoints.ts'
import { EVENT_PATTERNS, EVENT_TYPES } from '../../webhooks/eventTypes.ts'
import { URL_LENGTH_MAX } from '../../webhooks/target.ts'
import { allowNoBody } from '../body.ts'
import { idPage, pageView } from '../page.ts'
import {
  IdempotencyHeaders,
  LoggedWebhookDeliveryBody,
  PageOf,
  PageQuery,
  Problems,
  ShownWebhookEndpointBody,
  Text,
  WebhookDeliveryBody,
  WebhookEndpointBody,
} from '../schemas.ts'
import { idempotencyKey } from '../submit.ts'
import { loggedWebhookDeliveryView, webhookDeliveryView, webhookEndpointView } from '../views.ts'

const Params = Type.Object({ id: Type.String() })
const DeliveryParams = Type.Object({ id: Type.String(), deliveryId: Type.String() })
const config = { scope: 'webhooks:manage' } as const
const tags = ['webhooks']

const Url = Type.String({
  minLength: 1,
  maxLength: URL_LENGTH_MAX,
  format: 'text',
  description: 'https://, on the public internet, port 443 or 8443.',
  examples: ['https://example.com/webhooks/zerosum'],
})
const EventTypes = Type.Array(Type.Enum([...EVENT_PATTERNS]), {
  minItems: 1,
  maxItems: 50,
  description: `Types (${EVENT_TYPES.join(', ')}); \`entry.*\`, all that begin with \`entry.\`; \`*\`, all.`,
  examples: [['transaction.posted', 'entry.*']],
})
const OVERLAP_SECONDS = 24 * 3600
const OVERLAP_SECONDS_MAX = 7 * 24 * 3600

/** Webhook endpoints: where a tenant hears of what happens; what was delivered there, and what was not. */
export function webhookRoutes(endpoints: Endpoints): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.post(
      '/webhook-endpoints',
      {
        config,
        schema: {
          tags,
          summary: 'Have events sent to a URL; the answer has the secret that they are signed with',
          headers: IdempotencyHeaders,
          body: Type.Object(
            {
              url: Url,
              description: Type.Optional(Text(200)),
              eventTypes: Type.Optional(EventTypes),
            },
            { additionalProperties: false },
          ),
          response: { 201: ShownWebhookEndpointBody, ...Problems },
        },
      },
      async (request, reply) => {
        const { eventTypes = ['*'], ...body } = request.body
        const key = idempotencyKey(request)
        const made = await endpoints.create(request.principal.tenantId, key, { ...body, eventTypes })
        if (made.isReplay) reply.header('idempotency-replayed', 'true')
        const view = shownView(made)
        return reply.code(201).header('location', `/v1/webhook-endpoints/${view.id}`).send(view)
      },
    )

    app.get(
      '/webhook-endpoints',
      {
        config,
        schema: {
          tags,
          summary: 'List webhook endpoints, newest first',
          querystring: Type.Object(PageQuery, { additionalProperties: false }),
          response: { 200: PageOf(WebhookEndpointBody), ...Problems },
        },
      },
      async ({ principal, query }) => {
        const found = await endpoints.list(principal.tenantId, idPage(query))
        return pageView(found, query.limit, webhookEndpointView, ({ id }) => id)
      },
    )

    app.get(
      '/webhook-endpoints/:id',
      {
        config,
        schema: {
          tags,
          summary: 'Get a webhook endpoint',
          params: Params,
          response: { 200: WebhookEndpointBody, ...Problems },
        },
      },
      async ({ principal, params }) =>
        webhookEndpointView(await endpoints.find(principal.tenantId, idOf('whk', params.id))),
    )

    app.patch(
      '/webhook-endpoints/:id',
      {
        config,
        schema: {
          tags,
          summary: 'Change a webhook endpoint, disable or enable it, or have a new secret made',
          params: Params,
          body: Type.Object(
            {
              url: Type.Optional(Url),
              description: Type.Optional(Text(200)),
              eventTypes: Type.Optional(EventTypes),
              disabled: Type.Optional(Type.Boolean()),
              rotateSecret: Type.Optional(
                Type.Object(
                  {
                    overlapSeconds: Type.Integer({
                      minimum: 0,
                      maximum: OVERLAP_SECONDS_MAX,
                      default: OVERLAP_SECONDS,
                      description: 'How long the secrets before it are signed with as well; 0 for one that leaked.',
                    }),
                  },
                  { additionalProperties: false, required: [] },
                ),
              ),
            },
            { additionalProperties: false, minProperties: 1 },
          ),
          response: { 200: ShownWebhookEndpointBody, ...Problems },
        },
      },
      async ({ principal, params, body }) =>
        shownView(await endpoints.change(principal.tenantId, idOf('whk', params.id), body as EndpointChange)),
    )

    app.delete(
      '/webhook-endpoints/:id',
      {
        config,
        schema: {
          tags,
          summary: 'Delete a webhook endpoint, and what is still to be delivered to it',
          params: Params,
          response: { 204: Type.Null(), ...Problems },
        },
      },
      async ({ principal, params }, reply) => {
        await endpoints.remove(principal.tenantId, idOf('whk', params.id))
        return reply.code(204).send(null)
      },
    )

    app.get(
      '/webhook-endpoints/:id/deliveries',
      {
        config,
        schema: {
          tags,
          summary: 'List the deliveries to an endpoint, newest first, with what was answered last',
          params: Params,
          querystring: Type.Object(
            { status: Type.Optional(Type.Enum(['pending', 'delivered', 'dead'])), ...PageQuery },
            { additionalProperties: false },
          ),
          response: { 200: PageOf(WebhookDeliveryBody), ...Problems },
        },
      },
      async ({ principal, params, query }) => {
        const id = idOf('whk', params.id)
        const found = await endpoints.deliveries(principal.tenantId, id, idPage(query), query.status ?? null)
        return pageView(found, query.limit, webhookDeliveryView, (one) => one.id)
      },
    )

    app.get(
      '/webhook-endpoints/:id/deliveries/:deliveryId',
      {
        config,
        schema: {
          tags,
          summary: 'Get a delivery, with its payload and its attempts',
          params: DeliveryParams,
          response: { 200: LoggedWebhookDeliveryBody, ...Problems },
        },
      },
      async ({ principal, params }) => {
        const ids = [idOf('whk', params.id), idOf('whd', params.deliveryId)] as const
        return loggedWebhookDeliveryView(await endpoints.delivery(principal.tenantId, ...ids))
      },
    )

    app.post(
      '/webhook-endpoints/:id/deliveries/:deliveryId/resend',
      {
        config,
        schema: {
          tags,
          summary: 'Deliver again, now, whatever became of it before',
          params: DeliveryParams,
          headers: IdempotencyHeaders,
          body: Type.Object({}, { additionalProperties: false }),
          response: { 202: LoggedWebhookDeliveryBody, ...Problems },
        },
        preValidation: allowNoBody,
      },
      async (request, reply) => {
        const { params, principal } = request
        const ids = [idOf('whk', params.id), idOf('whd', params.deliveryId)] as const
        const { delivery, isReplay } = await endpoints.resend(principal.tenantId, idempotencyKey(request), ...ids)
        if (isReplay) reply.header('idempotency-replayed', 'true')
        const view = loggedWebhookDeliveryView(delivery)
        const location = `/v1/webhook-endpoints/${view.endpointId}/deliveries/${view.id}`
        return reply.code(202).header('location', location).send(view)
      },
    )
  }
}

function shownView({ endpoint, secret }: Shown) {
  return { ...webhookEndpointView(endpoint), ...(secret === undefined ? {} : { secret }) }
}

/** The id in a path. What is no id names nothing. @throws not_found */
function idOf(prefix: IdPrefix, text: string): string {
  const id = parseId(prefix, text)
  if (id === undefined) throw new ZerosumError('not_found')
  return id
}
