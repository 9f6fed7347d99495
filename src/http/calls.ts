import { type SpanContext, TraceFlags, trace } from '@opentelemetry/api'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { formatId } from '../core/ids.ts'
import type { ErrorCode } from '../errors.ts'
import { whenOver } from './over.ts'

/** A call that is over: answered, or broken off. */
export type Call = {
  readonly method: string
  /** The template, like `/v1/wallets/:id`; `undefined` if no route was meant. */
  readonly route: string | undefined
  /** 499 if the caller went away before an answer began. */
  readonly status: number
  /** Of the problem that was answered, if one was. */
  readonly code: ErrorCode | undefined
  /** From the end of its headers to the end of the answer. */
  readonly seconds: number
  /** Its answer has no end of its own. */
  readonly isStream: boolean
  /** If it is traced, and that trace is kept. */
  readonly sampledTraceId: string | undefined
}

/** Told of calls. Must not throw. */
export type CallObserver = { began(isStream: boolean): void; ended(call: Call): void }

const ABANDONED = 499

/** Begins to watch a call: when it is over, one log line and the observer tell of it. */
export type Watch = (request: FastifyRequest, reply: FastifyReply) => void

export function createWatch(observer?: CallObserver): Watch {
  return (request, reply) => {
    const beganMs = performance.now()
    const outer = trace.getActiveSpan()
    const isStream = request.routeOptions.config?.isStream ?? false
    observer?.began(isStream)
    // Comes in any case, and last: also when the caller goes away, also for streams.
    whenOver(reply, () => {
      const { raw } = reply
      // The call's own (traces.ts), or one that was there before it.
      const span = (request.span ?? outer)?.spanContext()
      const call: Call = {
        method: request.method,
        route: request.routeOptions.url,
        status: raw.headersSent ? raw.statusCode : ABANDONED,
        code: reply.problemCode,
        seconds: (performance.now() - beganMs) / 1000,
        isStream,
        sampledTraceId: span && (span.traceFlags & TraceFlags.SAMPLED) !== 0 ? span.traceId : undefined,
      }
      tell(request, call, span)
      observer?.ended(call)
    })
  }
}

/** One line, without the query and without anything in the path that is no id of ours: callers put anything there. */
function tell(request: FastifyRequest, { method, route, status, code, seconds }: Call, span: SpanContext | undefined) {
  const level = status >= 500 ? 'warn' : 'info'
  request.log[level](
    {
      ...(request.principal ? { tenantId: formatId('ten', request.principal.tenantId) } : {}),
      ...{ method, route: route ?? 'unmatched', url: route && urlOf(route, request.url), status, code },
      latencyMs: Math.round(seconds * 1e6) / 1e3,
      ...(span ? { traceId: span.traceId, spanId: span.spanId } : {}),
    },
    'request',
  )
}

/** The route with the ids that stand in its places. */
function urlOf(route: string, url: string): string {
  if (!route.includes(':')) return route
  const parts = url.split('?', 1)[0]?.split('/') ?? []
  return route
    .split('/')
    .map((part, i) => (part.startsWith(':') && isId(parts[i] ?? '') ? parts[i] : part))
    .join('/')
}

function isId(text: string): boolean {
  return /^([a-z]{2,4}_[0-9a-f]{32}|[0-9]{1,16})$/.test(text)
}
