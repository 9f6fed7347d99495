import { context, isSpanContextValid, type Span, SpanKind, SpanStatusCode, trace } from '@opentelemetry/api'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { formatId } from '../core/ids.ts'
import { contextOf, startSpan } from '../observe/spans.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** The span of this call; `null` while tracing is off, and outside /v1. */
    span: Span | null
  }
}

/**
 * Makes each call to this part of the app a span, in the caller's trace if it sends a `traceparent`. To be registered before anything that may
 * refuse a call. Names and attributes are those of OpenTelemetry's semantic conventions for HTTP; paths, which hold ids of wallets, are not among them.
 */
export function traceRequests(app: FastifyInstance): void {
  app.addHook('onRequest', (request, reply, done) => {
    const { method, headers, routeOptions } = request
    const { url: route } = routeOptions
    const attributes = { 'http.request.method': method, 'url.scheme': request.protocol }
    const given = headers['traceparent']
    const span = startSpan(
      route === undefined ? method : `${method} ${route}`,
      { kind: SpanKind.SERVER, attributes: { ...attributes, ...(route === undefined ? {} : { 'http.route': route }) } },
      contextOf(typeof given === 'string' ? given : undefined),
    )
    // Nobody has started tracing.
    if (!isSpanContextValid(span.spanContext())) return done()
    request.span = span
    reply.raw.once('close', () => endSpan(span, request, reply.raw))
    done()
  })
  // Not earlier: the body comes by events of the connection, which know nothing of what was active.
  app.addHook('preHandler', ({ span }, _reply, done) => {
    if (span) context.with(trace.setSpan(context.active(), span), done)
    else done()
  })
}

function endSpan(
  span: Span,
  { principal }: Partial<Pick<FastifyRequest, 'principal'>>,
  { statusCode, writableFinished }: { statusCode: number; writableFinished: boolean },
): void {
  if (principal) span.setAttribute('zerosum.tenant.id', formatId('ten', principal.tenantId))
  if (writableFinished) span.setAttribute('http.response.status_code', statusCode)
  else span.setAttribute('error.type', 'client_left')
  if (statusCode >= 500) span.setStatus({ code: SpanStatusCode.ERROR })
  span.end()
}
