import { AsyncLocalStorage } from 'node:async_hooks'
import { type Context, context, ROOT_CONTEXT, TraceFlags, trace } from '@opentelemetry/api'

/** Makes spans active that others have begun; to be called once, before `withSpan`. @returns what ends it */
export function carrySpans(): () => void {
  const storage = new AsyncLocalStorage<Context>()
  context.setGlobalContextManager({
    active: () => storage.getStore() ?? ROOT_CONTEXT,
    with: (active, work, self, ...args) => storage.run(active, () => work.apply(self as never, args)),
    bind: (_, target) => target,
    enable() {
      return this
    },
    disable() {
      return this
    },
  })
  return () => context.disable()
}

/** Does something within a span of these ids. */
export function withSpan<T>(traceId: string, spanId: string, isSampled: boolean, work: () => T): T {
  const traceFlags = isSampled ? TraceFlags.SAMPLED : TraceFlags.NONE
  return context.with(trace.setSpanContext(ROOT_CONTEXT, { traceId, spanId, traceFlags }), work)
}
