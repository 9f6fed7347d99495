import { context, DiagLogLevel, diag, trace } from '@opentelemetry/api'
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks'
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-proto'
import { defaultResource, detectResources, envDetector, resourceFromAttributes } from '@opentelemetry/resources'
import {
  AlwaysOffSampler,
  AlwaysOnSampler,
  BatchSpanProcessor,
  ParentBasedSampler,
  type Sampler,
  type SpanExporter,
  TraceIdRatioBasedSampler,
  TracerProvider,
} from '@opentelemetry/sdk-trace'
import type { Sampling } from './sampling.ts'

export type TracingOptions = Sampling & {
  /** Names this node among those of the service. */
  readonly instance: string
  /** Told about what goes wrong with traces, not about each time that it does. */
  readonly onTrouble: (error: unknown) => void
}

/** As many as a block has requests. */
const LINKS_MAX = 1_000
/** Spans that wait to be sent; what comes when it is full is lost. */
const QUEUE_MAX = 4_096
const SEND_MS = 2_000
/** The receiver may be away when the node stops. */
const STOP_MS_MAX = 3_000
const TROUBLE_MS = 60_000

/**
 * Starts tracing in this process: spans go to an OTLP receiver, over HTTP as protobuf. Where it is, what is sent along, time limits and the
 * attributes of the service are read from the environment by the SDK itself, under its standard names (`OTEL_EXPORTER_OTLP_…`,
 * `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`). What can't be sent is dropped; nothing waits for it.
 */
export function startTracing({ instance, onTrouble, ...sampling }: TracingOptions): { stop(): Promise<void> } {
  let toldMs = Number.NEGATIVE_INFINITY
  const warn = (message: string) => {
    if (performance.now() - toldMs < TROUBLE_MS) return
    toldMs = performance.now()
    onTrouble(new Error(message))
  }
  const quiet = () => {}
  diag.setLogger({ error: warn, warn, info: quiet, debug: quiet, verbose: quiet }, DiagLogLevel.WARN)
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())
  const named = resourceFromAttributes({ 'service.name': 'zerosum', 'service.instance.id': instance })
  const provider = new TracerProvider({
    // The environment has the last word.
    resource: defaultResource()
      .merge(named)
      .merge(detectResources({ detectors: [envDetector] })),
    sampler: samplerOf(sampling),
    spanLimits: { linkCountLimit: LINKS_MAX },
    spanProcessors: [
      new BatchSpanProcessor({
        ...{ exporter: tellingOnce(new OTLPTraceExporter(), onTrouble) },
        ...{ maxQueueSize: QUEUE_MAX, scheduledDelayMillis: SEND_MS },
      }),
    ],
  })
  trace.setGlobalTracerProvider(provider)
  return {
    async stop() {
      let timer: NodeJS.Timeout | undefined
      const late = new Promise<void>((done) => {
        timer = setTimeout(done, STOP_MS_MAX)
      })
      // What is left is sent if it can be.
      await Promise.race([provider.shutdown().catch(onTrouble), late])
      clearTimeout(timer)
      trace.disable()
      context.disable()
      diag.disable()
    },
  }
}

function samplerOf({ sampler, ratio }: Sampling): Sampler {
  switch (sampler) {
    case 'always_on':
      return new AlwaysOnSampler()
    case 'always_off':
      return new AlwaysOffSampler()
    case 'traceidratio':
      return new TraceIdRatioBasedSampler(ratio)
    case 'parentbased_always_on':
      return new ParentBasedSampler({ root: new AlwaysOnSampler() })
    case 'parentbased_always_off':
      return new ParentBasedSampler({ root: new AlwaysOffSampler() })
    case 'parentbased_traceidratio':
      return new ParentBasedSampler({ root: new TraceIdRatioBasedSampler(ratio) })
    default:
      return sampler satisfies never
  }
}

/** An exporter that says when it begins to fail, once until it is well again. Each failure would be a line every few seconds, all night. */
function tellingOnce(exporter: SpanExporter, onTrouble: (error: unknown) => void): SpanExporter {
  let isFailing = false
  return {
    export(spans, done) {
      exporter.export(spans, ({ error }) => {
        if (error && !isFailing) onTrouble(error)
        isFailing = error !== undefined
        // Said already; whoever else is told says it again.
        done({ code: 0 })
      })
    },
    forceFlush: async () => await exporter.forceFlush?.(),
    shutdown: () => exporter.shutdown(),
  }
}
