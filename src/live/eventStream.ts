import { once } from 'node:events'
import type { OutgoingHttpHeaders, ServerResponse } from 'node:http'

/** One event of a stream; `data` is sent as JSON. */
export type StreamEvent = { readonly event: string; readonly id: number; readonly data: unknown }

export type EventStreamOptions = {
  headers: OutgoingHttpHeaders
  /** What there is to send; asked for more when the reader has taken what there was. It is to end when `ending` does. */
  events: AsyncIterable<readonly StreamEvent[]>
  /** Ends the stream; and is ended when the reader has gone. */
  ending: AbortController
  heartbeatMs?: number
  /** How long a reader may leave what was sent where it is, before he is cut off. */
  stallMsMax?: number
}

/** When a reader who has lost the stream is to ask again. */
const RETRY_MS = 2_000
/** Proxies close what is silent for a minute, or for half of one. */
const HEARTBEAT_MS = 15_000
const STALL_MS_MAX = 10_000
/** How long a stream that is over may take to say so. */
const END_MS_MAX = 1_000

/**
 * Answers with server-sent events (HTML Living Standard, 9.2) until there are no more, the reader has gone, or `ending` says so. Returns when
 * nothing is sent any more. Never more waits to be sent than what `events` gives at once.
 * @throws what `events` throws, after the stream is closed
 */
export async function streamEvents(
  response: ServerResponse,
  { headers, events, ending, heartbeatMs = HEARTBEAT_MS, stallMsMax = STALL_MS_MAX }: EventStreamOptions,
): Promise<void> {
  const { signal } = ending
  let stall: NodeJS.Timeout | undefined
  const drained = () => {
    clearTimeout(stall)
    stall = undefined
  }
  const write = (text: string): void => {
    if (signal.aborted || response.write(text)) return
    stall ??= setTimeout(() => response.destroy(), stallMsMax)
  }
  response.on('drain', drained)
  response.once('close', () => {
    drained()
    ending.abort()
  })
  // He went before this began.
  if (response.destroyed) ending.abort()
  // The reader's trouble; 'close' comes after it.
  response.on('error', () => {})
  signal.addEventListener('abort', () => end(response), { once: true })
  const heartbeat = setInterval(() => {
    if (!response.writableNeedDrain) write(':\n\n')
  }, heartbeatMs)
  try {
    response.writeHead(200, { ...headers, ...HEADERS })
    write(`retry: ${RETRY_MS}\n\n`)
    for await (const some of signal.aborted ? [] : events) {
      if (signal.aborted) break
      write(some.map(textOf).join(''))
      // Also when it is over: then there is no drain to wait for.
      if (response.writableNeedDrain) await once(response, 'drain', { signal }).catch(() => {})
    }
  } finally {
    clearInterval(heartbeat)
    ending.abort()
    end(response)
  }
}

const HEADERS = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-store, no-transform',
  // nginx and those that follow it: pass on what comes as it comes.
  'x-accel-buffering': 'no',
  // When the stream is over, so is its connection: a server that stops need not wait for it.
  connection: 'close',
}

function textOf({ event, id, data }: StreamEvent): string {
  return `event: ${event}\nid: ${id}\ndata: ${JSON.stringify(data)}\n\n`
}

/** Who doesn't take the end is cut off. */
function end(response: ServerResponse): void {
  if (response.writableEnded || response.destroyed) return
  const timer = setTimeout(() => response.destroy(), END_MS_MAX)
  response.once('close', () => clearTimeout(timer))
  response.end()
}
