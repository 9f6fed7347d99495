import { connect } from 'node:net'

const ANSWER_MS_MAX = 30_000

/**
 * Sends one command to a Redis server of the loopback over a connection of its own, in its own protocol (RESP 2), so
 * that the tests' server can be asked without the client that the tests are about.
 * @returns a simple or bulk string or a number, as text; `null` if there is no value
 * @throws Error with what the server says, or if there is no answer within `timeoutMs`
 */
export function askRedis(port: number, args: readonly string[], timeoutMs = ANSWER_MS_MAX): Promise<string | null> {
  const parts = args.map((arg) => `$${Buffer.byteLength(arg)}\r\n${arg}\r\n`)
  return new Promise((done, fail) => {
    const socket = connect({ port, host: '127.0.0.1' })
    const timer = setTimeout(() => socket.destroy(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs)
    let received = Buffer.alloc(0)
    socket.on('connect', () => socket.write(`*${parts.length}\r\n${parts.join('')}`))
    socket.on('data', (chunk) => {
      received = Buffer.concat([received, chunk])
      const answer = parsed(received)
      if (answer === undefined) return
      socket.end()
      if (answer instanceof Error) fail(answer)
      else done(answer)
    })
    socket.on('error', fail)
    socket.on('close', () => {
      clearTimeout(timer)
      // Heard only if nothing was answered before.
      fail(new Error('the connection was closed'))
    })
  })
}

/** @returns `undefined` while it is not whole; an Error if the server says so */
function parsed(received: Buffer): string | null | undefined | Error {
  const lineEnd = received.indexOf('\r\n')
  if (lineEnd < 0) return undefined
  const line = received.toString('utf8', 1, lineEnd)
  switch (received.toString('latin1', 0, 1)) {
    case '+':
    case ':':
      return line
    case '-':
      return new Error(line)
    case '$': {
      const length = Number(line)
      if (length < 0) return null
      const start = lineEnd + 2
      return received.length < start + length + 2 ? undefined : received.toString('utf8', start, start + length)
    }
    default:
      return new Error(`not an answer that is understood here: ${received.toString('utf8', 0, 40)}`)
  }
}
