import http from 'node:http'
import https from 'node:https'
import { isIPv6, type LookupFunction } from 'node:net'
import { hostOf, type Target } from './target.ts'

/** What came of a call. */
export type Reply = {
  /** `null`: there was no answer. */
  readonly status: number | null
  readonly retryAfter: string | null
  /** Why there was no answer, in a few words. */
  readonly error: string | null
  /** The first characters of the answer's body. */
  readonly response: string | null
  /** Only if the call was not made, because its host could not be reached lately: for so long it will not be called. */
  readonly putOffMs?: number
  /** Somebody else tries right now whether it can be. */
  readonly isBeingTried?: boolean
}

export type SendOptions = {
  /** Ends the call; what was answered until then counts. */
  readonly signal: AbortSignal
  /** Told when there is a connection over which the call can be made: for `https:` one with a certificate that is right. */
  readonly onReached?: () => void
  /** Certificates to trust instead of the usual ones, for tests. */
  readonly ca?: string | undefined
}

/** So much of an answer is read. */
const RESPONSE_BYTES_MAX = 1024
const HEADER_BYTES_MAX = 16 * 1024
/** An address that does not connect in that time is left for the next, if there is one. */
const CONNECTING = { autoSelectFamily: true, autoSelectFamilyAttemptTimeout: 2_000 }

/**
 * Posts once, to one of the addresses of the target, over a connection of its own. Redirects are not followed. Never rejects.
 */
export function send(
  { url, addresses }: Target,
  { headers, body }: { headers: Record<string, string>; body: string },
  { signal, onReached = () => {}, ca }: SendOptions,
): Promise<Reply> {
  const { request } = url.protocol === 'https:' ? https : http
  return new Promise((resolve) => {
    const call = request({
      method: 'POST',
      protocol: url.protocol,
      hostname: hostOf(url),
      port: url.port || undefined,
      path: url.pathname + url.search,
      headers: { ...headers, host: url.host, 'content-length': Buffer.byteLength(body) },
      // No connection is shared, and no proxy of the environment is asked to look the name up again.
      agent: false,
      lookup: pinned(addresses),
      ...CONNECTING,
      maxHeaderSize: HEADER_BYTES_MAX,
      signal,
      ...(ca === undefined ? {} : { ca }),
    })
    let isAnswered = false
    const fail = (error: string) => {
      if (isAnswered) return
      resolve({ status: null, retryAfter: null, error, response: null })
      call.destroy()
    }
    call.on('socket', (socket) => socket.once(url.protocol === 'https:' ? 'secureConnect' : 'connect', onReached))
    call.on('error', (error) => fail(signal.aborted ? 'there was no answer in time' : nameOf(error)))
    call.on('close', () => fail('the connection was closed without an answer'))
    call.on('response', (response) => {
      isAnswered = true
      const chunks: Buffer[] = []
      let length = 0
      response.on('data', (chunk: Buffer) => {
        chunks.push(chunk)
        length += chunk.length
        if (length >= RESPONSE_BYTES_MAX) response.destroy()
      })
      response.on('error', () => {}) // what came before it counts
      response.on('close', () => {
        const text = readable(Buffer.concat(chunks).subarray(0, RESPONSE_BYTES_MAX))
        const retryAfter = response.headers['retry-after'] ?? null
        resolve({ status: response.statusCode ?? null, retryAfter, error: null, response: text })
      })
    })
    call.end(body)
  })
}

/** Knows these addresses alone, whatever name it is asked for. */
function pinned(addresses: readonly string[]): LookupFunction {
  const all = addresses.map((address) => ({ address, family: isIPv6(address) ? 6 : 4 }))
  return (_name, options, answer) => {
    const [first] = all
    if (options.all) answer(null, all)
    else answer(null, first?.address ?? '', first?.family ?? 4)
  }
}

/** Text that can be kept and shown, of whatever bytes came. */
function readable(bytes: Buffer): string {
  return new TextDecoder().decode(bytes).replace(/[^\P{Cc}\n\t]/gu, '�')
}

function nameOf(error: NodeJS.ErrnoException): string {
  const { code = '' } = error
  if (code === 'ECONNREFUSED') return 'the connection was refused'
  if (/^E[A-Z]+$/.test(code)) return `the connection failed (${code})`
  if (code.startsWith('HPE_')) return 'the answer is not HTTP'
  if (/CERT|SSL|TLS|ISSUER|SIGNATURE/.test(code)) return `the certificate or TLS is not right (${code})`
  return 'the connection failed'
}
