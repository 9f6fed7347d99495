import { randomUUID } from 'node:crypto'
import swagger, { type SwaggerTransform } from '@fastify/swagger'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import fastify, { type FastifyBaseLogger, type FastifyInstance, LogController } from 'fastify'
import type { Later } from '../async/start.ts'
import type { Audits } from '../audit/background.ts'
import type { Balances } from '../cache/balances.ts'
import { ZerosumError } from '../errors.ts'
import type { Feed } from '../live/feed.ts'
import type { Projections } from '../projections/projections.ts'
import type { Directory } from '../tenants/directory.ts'
import type { Endpoints } from '../webhooks/endpoints.ts'
import { admitRequests, type Guards } from './admission.ts'
import { requireKeys } from './auth.ts'
import { readJson } from './body.ts'
import { answerBrokenRequest } from './brokenRequests.ts'
import { type CallObserver, createWatch } from './calls.ts'
import { guardHeads, guardingHeaders } from './headers.ts'
import { answerProblems, sendProblem } from './problems.ts'
import { referencePage } from './reference.ts'
import { eventRoutes, type StreamSettings } from './routes/events.ts'
import { healthRoutes } from './routes/health.ts'
import { holdRoutes } from './routes/holds.ts'
import { ledgerRoutes } from './routes/ledger.ts'
import { type Exposition, metricsRoute } from './routes/metrics.ts'
import { projectionRoutes } from './routes/projections.ts'
import { transferRoutes } from './routes/transfers.ts'
import { walletRoutes } from './routes/wallets.ts'
import { webhookRoutes } from './routes/webhooks.ts'
import { createHttpServer, type ServerOptions } from './server.ts'
import type { Ledger } from './submit.ts'
import { traceRequests } from './traces.ts'
import { validateStrictly } from './validation.ts'

export type AppOptions = Ledger &
  ServerOptions & {
    directory: Directory
    webhookEndpoints: Endpoints
    /** Wakes those who follow wallets. It is closed by whoever made it. */
    feed: Feed
    streams?: StreamSettings
    /** The audits that go on by themselves, if they do. */
    audits?: Pick<Audits, 'last'>
    /** Balances by way of a cache, if there is one. */
    balances?: Balances
    /** Takes requests in that are posted later, if that is possible. */
    later?: Later
    /** What refuses too much, if anything does. */
    guards?: Guards
    /** What is shown of the projections; without it their routes say that nobody makes them. */
    projections?: Projections
    /** Aborted when this node is about to stop: it is not ready any more, and answers what still comes in. */
    stopping?: AbortSignal
    /** Where one line a call goes, and what went wrong unexpectedly; nothing is logged without. */
    logger?: FastifyBaseLogger
    /** Told of each call. */
    calls?: CallObserver
    /** What `/metrics` answers, if there are any. */
    metrics?: Exposition
  }

/** Room for all the metadata that a request may have, escaped. */
const BODY_BYTES_MAX = 512 * 1024

/** The HTTP API (API.md), not yet listening. */
export async function buildApp({
  router,
  sagas,
  directory,
  webhookEndpoints,
  feed,
  streams,
  audits,
  balances,
  later,
  guards = {},
  projections,
  tls,
  limits,
  stopping,
  logger,
  calls,
  metrics,
}: AppOptions): Promise<FastifyInstance> {
  const isSecure = tls !== undefined
  const watch = createWatch(calls)
  const app = fastify({
    bodyLimit: BODY_BYTES_MAX,
    ...(logger ? { loggerInstance: logger } : {}),
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'correlationId' }),
    genReqId: ({ headers }) => correlationId(headers['x-correlation-id']),
    forceCloseConnections: 'idle',
    frameworkErrors(error, request, reply) {
      watch(request, reply)
      reply.headers(guardingHeaders(isSecure))
      return sendProblem(new ZerosumError('bad_request', error.message), request, reply)
    },
    routerOptions: { maxParamLength: 200 },
    // While it closes, what still comes in on open connections is answered like any other, with "Connection: close".
    return503OnClosing: false,
    clientErrorHandler: (error, socket) => answerBrokenRequest(error, socket, isSecure),
    serverFactory: (handler) => createHttpServer(handler, { tls, limits }),
  }).withTypeProvider<TypeBoxTypeProvider>()

  readJson(app)
  validateStrictly(app)
  answerProblems(app)
  app.decorateRequest('span', null)
  app.addHook('onRequest', async (request, reply) => {
    watch(request, reply)
    reply.header('x-correlation-id', request.id)
  })
  app.addHook('onSend', (_request, reply, payload, done) => {
    // Who keeps connections opens the next one elsewhere; and the node would wait for one that is kept after the last answer.
    if (stopping?.aborted) reply.header('connection', 'close')
    done(null, payload)
  })
  guardHeads(app, isSecure)

  await app.register(swagger, {
    transform: requireIdempotencyKey,
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Zerosum',
        version: '1',
        description: 'Wallets on an immutable double-entry ledger. Money is a decimal string of minor units.',
      },
      components: { securitySchemes: { key: { type: 'http', scheme: 'bearer' } } },
      security: [{ key: [] }],
    },
  })
  await app.register(referencePage)
  app.get('/openapi.json', { schema: { hide: true } }, async () => app.swagger())

  await app.register(healthRoutes(router, stopping))
  if (metrics) await app.register(metricsRoute(metrics))
  await app.register(
    async (v1) => {
      traceRequests(v1)
      requireKeys(v1, directory)
      admitRequests(v1, guards)
      await v1.register(walletRoutes({ router, sagas }, balances))
      await v1.register(eventRoutes(router, feed, streams))
      await v1.register(transferRoutes({ router, sagas }, later))
      await v1.register(holdRoutes({ router, sagas }))
      await v1.register(ledgerRoutes(router, audits))
      await v1.register(projectionRoutes(router, projections))
      await v1.register(webhookRoutes(webhookEndpoints))
    },
    { prefix: '/v1' },
  )
  return app
}

/** In the document the key is required where it is; the check itself is `idempotencyKey`'s, which has a code of its own. */
const requireIdempotencyKey: SwaggerTransform = ({ schema, url, route }) => {
  const headers = schema?.headers as { properties?: object } | undefined
  const isRequired = route.method === 'POST' && 'idempotency-key' in (headers?.properties ?? {})
  return { url, schema: isRequired ? { ...schema, headers: { ...headers, required: ['idempotency-key'] } } : schema }
}

/** The caller's own, if it is fit for a header and a log line; else a new one. */
function correlationId(given: string | string[] | undefined): string {
  return typeof given === 'string' && /^[\x21-\x7e]{1,128}$/.test(given) ? given : randomUUID()
}
