import { randomUUID } from 'node:crypto'
import { STATUS_CODES } from 'node:http'
import type { Duplex } from 'node:stream'
import { ZerosumError } from '../errors.ts'
import { guardingHeaders } from './headers.ts'
import { problemOf } from './problems.ts'

/** Answers what never became a request, and closes its connection. @param isSecure whether the node speaks TLS itself */
export function answerBrokenRequest({ code }: { code?: string }, socket: Duplex, isSecure: boolean): void {
  // Each chunk that comes after the first broken one is broken too, and that one was answered.
  if (!socket.writable) return
  if (code === 'ECONNRESET') {
    socket.destroy()
    return
  }
  const id = randomUUID()
  const problem = problemOf(errorOf(code), { id, url: '/' })
  const body = JSON.stringify(problem)
  const headers = {
    connection: 'close',
    'content-type': 'application/problem+json',
    'content-length': Buffer.byteLength(body),
    'x-correlation-id': id,
    ...guardingHeaders(isSecure),
  }
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  socket.end(`HTTP/1.1 ${problem.status} ${STATUS_CODES[problem.status]}\r\n${lines.join('')}\r\n${body}`)
  // Closed at once, what the other side still sends would be answered with a reset, and the problem be lost. But it may go on for ever.
  setTimeout(() => socket.destroy(), LINGER_MS).unref()
}

const LINGER_MS = 2_000

function errorOf(code: string | undefined): ZerosumError {
  switch (code) {
    case 'HPE_HEADER_OVERFLOW':
      return new ZerosumError('headers_too_large')
    case 'HPE_CHUNK_EXTENSIONS_OVERFLOW':
      return new ZerosumError('payload_too_large')
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new ZerosumError('request_timeout')
    default:
      return new ZerosumError('bad_request', 'This is not HTTP/1.1.')
  }
}
