import {
  type Context,
  context,
  isSpanContextValid,
  ROOT_CONTEXT,
  type Span,
  type SpanOptions,
  SpanStatusCode,
  TraceFlags,
  trace,
} from '@opentelemetry/api'

/**
 * Spans, made by hand where they mean something. A trace begins with a request to the API (http/traces.ts); everything else here adds to a
 * trace that is there and sampled, and otherwise does nothing but the work itself. Attributes hold no personal data, amounts, keys or ids of wallets.
 */

/** Starts a span, under the active one if no other parent is given. */
export function startSpan(name: string, options: SpanOptions, parent: Context = context.active()): Span {
  return trace.getTracer('zerosum').startSpan(name, options, parent)
}

/** Whether what runs now belongs to a trace that is kept. */
export function isSampled(): boolean {
  return hasSample(trace.getSpan(context.active()))
}

function hasSample(span: Span | undefined): boolean {
  return span !== undefined && (span.spanContext().traceFlags & TraceFlags.SAMPLED) !== 0
}

/** The context of the active span, as it is stored; `undefined` if its trace is not kept. */
export function activeTraceparent(): string | undefined {
  const span = trace.getSpan(context.active())
  return span && hasSample(span) ? traceparentOf(span) : undefined
}

/** Does work as a span of the active trace; just does it if there is none, or it is not sampled. */
export function inSpan<T>(name: string, options: SpanOptions, work: () => Promise<T>): Promise<T> {
  return isSampled() ? within(startSpan(name, options), work) : work()
}

/** Does work with a span active, and ends the span with it. @param parent what else is to be active */
export async function within<T>(span: Span, work: () => Promise<T>, parent: Context = context.active()): Promise<T> {
  try {
    return await context.with(trace.setSpan(parent, span), work)
  } catch (error) {
    fail(span, error)
    throw error
  } finally {
    span.end()
  }
}

/** Does work that belongs to no trace, or to the one of a context that was stored; whatever is active. */
export function continuing<T>(traceparent: string | undefined, work: () => T): T {
  return context.with(contextOf(traceparent), work)
}

/** Marks a span as failed. The name of the error is kept; its message may tell too much. */
export function fail(span: Span, error: unknown): void {
  span.setAttribute('error.type', error instanceof Error ? error.constructor.name : typeof error)
  span.setStatus({ code: SpanStatusCode.ERROR })
}

/** Spans of one batch at most; what is beyond stays in its trace without a span of its own. */
const SPANS_MAX = 200

type Traceable = { readonly traceparent?: string }

/**
 * Does something for many things at once, which may belong to many traces: each of these gets a span of its own, so that every trace is
 * whole, and the things come with the context of that span. Without a traced thing it is just the work.
 */
export async function inSpans<T extends Traceable, R>(
  name: string,
  options: SpanOptions,
  things: readonly T[],
  work: (things: readonly T[]) => Promise<R>,
): Promise<R> {
  const spans = new Map<string, Span>()
  for (const { traceparent } of things) {
    if (traceparent === undefined || spans.has(traceparent)) continue
    const parent = contextOf(traceparent)
    if (hasSample(trace.getSpan(parent))) spans.set(traceparent, startSpan(name, options, parent))
    if (spans.size === SPANS_MAX) break
  }
  if (spans.size === 0) return await continuing(undefined, () => work(things))
  const continued = things.map((thing) => {
    const span = spans.get(thing.traceparent ?? '')
    return span ? { ...thing, traceparent: traceparentOf(span) } : thing
  })
  const all = [...spans.values()]
  const [only, ...more] = all
  const active = only && more.length === 0 ? trace.setSpan(ROOT_CONTEXT, only) : ROOT_CONTEXT
  try {
    return await context.with(active, () => work(continued))
  } catch (error) {
    for (const span of all) fail(span, error)
    throw error
  } finally {
    for (const span of all) span.end()
  }
}

/** A span's context as W3C Trace Context Level 1 writes it, section 3.2. */
export function traceparentOf(span: Span): string {
  const { traceId, spanId, traceFlags } = span.spanContext()
  return `00-${traceId}-${spanId}-0${traceFlags & TraceFlags.SAMPLED}`
}

/** The context that a `traceparent` names; of one that names none, or of another form, the empty one. */
export function contextOf(traceparent: string | undefined): Context {
  const [, version, traceId = '', spanId = '', flags = '', rest] =
    /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/.exec(traceparent ?? '') ?? []
  // What comes after the flags is for versions that are still to come.
  if (version === undefined || version === 'ff' || (version === '00' && rest !== undefined)) return ROOT_CONTEXT
  const traceFlags = Number.parseInt(flags, 16) & TraceFlags.SAMPLED
  const remote = { traceId, spanId, traceFlags, isRemote: true }
  return isSpanContextValid(remote) ? trace.setSpanContext(ROOT_CONTEXT, remote) : ROOT_CONTEXT
}
