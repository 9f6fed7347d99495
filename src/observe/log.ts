import { trace } from '@opentelemetry/api'
import { type DestinationStream, destination, type Logger, pino, stdTimeFunctions } from 'pino'
import { pretty } from './pretty.ts'

/** How lines look: JSON for machines, text for people; or none at all. */
export const LOG_FORMS = ['pretty', 'json', 'silent'] as const
export type LogForm = (typeof LOG_FORMS)[number]

/** The least that a line must be to be written. */
export const LOG_LEVELS = ['debug', 'info', 'warn', 'error'] as const
export type LogLevel = (typeof LOG_LEVELS)[number]

/** Where this node says what it does; docs/operations/observability.md lists the fields. */
export type Log = {
  readonly logger: Logger
  /** Something went wrong that is seen to, by and by: one line at `warn`. */
  trouble(msg: string, error: unknown): void
  /** Writes what is still held back. Nothing should be logged after it. */
  close(): Promise<void>
}

export type LogOptions = {
  form: LogForm
  level: LogLevel
  /** Takes lines, instead of the standard output. */
  stream?: DestinationStream
}

/** So much is written at once: a pipe takes it whole or not at all, so lines stay whole. Less of it waits for a while. */
const WRITE_BYTES_MAX = 4096
const WRITE_BYTES = 2048
const WAIT_MS_MAX = 250
/** What is kept for a reader of the standard output that does not read. What is more is lost, and counted. */
const HELD_BYTES_MAX = 8 * 1024 * 1024
const CLOSE_MS_MAX = 2_000

/**
 * Opens the log. Lines are written in the background, JSON some together, so that no request waits for them: at the end of the process, also
 * by an exception that nobody caught, they are all written, then some of them twice; what kill -9 cuts off is the last quarter of a second.
 */
export function openLog({ form, level, stream }: LogOptions): Log {
  const linesTo = (out: DestinationStream) => (form === 'pretty' ? pretty(out) : out)
  const out = stream || form === 'silent' ? undefined : standardOutput(form === 'pretty' ? 0 : WRITE_BYTES, linesTo)
  const logger = pino(
    {
      level: form === 'silent' ? 'silent' : level,
      base: null,
      timestamp: stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { err: errorFields },
      mixin: spanFields,
    },
    linesTo(stream ?? out ?? process.stdout),
  )
  return {
    logger,
    trouble: (msg, err) => logger.warn({ err }, msg),
    async close() {
      if (!out) return
      await new Promise<void>((done) => {
        setTimeout(done, CLOSE_MS_MAX).unref()
        out.flush(() => done())
      })
    },
  }
}

/** @param together so many bytes are written at once, if they come soon; people are shown each line as it comes */
function standardOutput(together: number, linesTo: (out: DestinationStream) => DestinationStream) {
  const out = destination({
    ...{ dest: 1, sync: false, minLength: together, maxWrite: WRITE_BYTES_MAX, maxLength: HELD_BYTES_MAX },
    periodicFlush: WAIT_MS_MAX,
  })
  let lost = 0
  out.on('drop', () => {
    lost += 1
  })
  out.on('drain', () => {
    if (lost === 0) return
    const line = { level: 'warn', time: new Date().toISOString(), lost, msg: 'log lines were lost: nobody read them' }
    lost = 0
    linesTo(out).write(`${JSON.stringify(line)}\n`)
  })
  return out
}

/** Of the span that is active, if one is. */
function spanFields(): { traceId?: string; spanId?: string } {
  const span = trace.getActiveSpan()?.spanContext()
  return span ? { traceId: span.traceId, spanId: span.spanId } : {}
}

type ErrorFields = { type: string; code?: string; message: string; stack?: string; cause?: ErrorFields }

const CAUSES_MAX = 4

/**
 * What is told of an error: what it is, what it says, where it was, and why. Nothing else that it carries: PostgreSQL's `detail`, say, has the
 * values of a row in it.
 */
export function errorFields(error: unknown, depth = 0): ErrorFields {
  if (!(error instanceof Error)) return { type: typeof error, message: scrubbed(String(error)) }
  const { code } = error as { code?: unknown }
  return {
    type: error.constructor.name,
    ...(typeof code === 'string' ? { code } : {}),
    message: scrubbed(error.message),
    ...(error.stack === undefined ? {} : { stack: scrubbed(error.stack) }),
    ...(error.cause === undefined || depth >= CAUSES_MAX ? {} : { cause: errorFields(error.cause, depth + 1) }),
  }
}

/** The text without what must not be told, wherever it came from: passwords in URLs, API keys, secrets of webhooks, what is quoted of a body. */
function scrubbed(text: string): string {
  return text
    .replace(/(\w+:\/\/)[^\s/@]*@/g, '$1…@')
    .replace(/\b(Bearer\s+)\S+/gi, '$1…')
    .replace(/\bzs_(test|live)_\w+/g, 'zs_$1_…')
    .replace(/\bwhsec_[\w+/=]+/g, 'whsec_…')
    .replace(/(Unexpected token|in JSON|is not valid JSON)[^\n]*/g, 'not valid JSON')
}
