import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, it } from 'vitest'
import { type LogOptions, openLog } from '../../src/observe/log.ts'
import { openApi } from '../support/api.ts'
import { carrySpans, withSpan } from './spans.ts'

const TRACE = '0af7651916cd43dd8448eb211c80319c'
const SPAN = 'b7ad6b7169203331'

/** A log, and what it has written. */
function logInto(options: Partial<LogOptions> = {}) {
  const texts: string[] = []
  const stream = { write: (text: string) => void texts.push(text) }
  const log = openLog({ form: 'json', level: 'info', stream, ...options })
  return { log, texts, last: () => JSON.parse(texts.at(-1) ?? '') }
}

describe('the log', () => {
  const endSpans = carrySpans()
  afterAll(endSpans)

  it('writes one JSON line with time, level and message', () => {
    const { log, last, texts } = logInto()
    log.logger.info({ shard: 1 }, 'block')
    expect(last()).toEqual({ level: 'info', time: expect.stringMatching(/^\d{4}-.*Z$/), shard: 1, msg: 'block' })
    expect(texts[0]).toMatch(/^[^\n]+\n$/)
  })

  it('names the trace that a line belongs to', () => {
    const { log, last } = logInto()
    withSpan(TRACE, SPAN, false, () => log.trouble('it broke', new Error('why')))
    expect(last()).toMatchObject({ level: 'warn', traceId: TRACE, spanId: SPAN, msg: 'it broke' })
  })

  it('says nothing below its level, and nothing at all if it is silent', () => {
    const { log, texts } = logInto({ level: 'warn' })
    log.logger.info('too much')
    const silent = logInto({ form: 'silent' })
    silent.log.logger.error('nobody is to hear it')
    expect([...texts, ...silent.texts]).toEqual([])
  })

  it('tells of an error what it says and why, and nothing else that it carries', () => {
    const { log, texts, last } = logInto()
    const cause = Object.assign(new Error('the row is refused'), {
      code: '23514',
      detail: 'Key (name)=(alice)',
      where: 'alice',
    })
    log.trouble('it broke', new Error('no block', { cause }))
    expect(last().err).toMatchObject({
      type: 'Error',
      message: 'no block',
      cause: { code: '23514', message: 'the row is refused' },
    })
    expect(texts.join()).not.toContain('alice')
    log.trouble('it broke', 'without an error')
    expect(last().err).toEqual({ type: 'string', message: 'without an error' })
  })

  it.each([
    'connect to postgres://app:s3cret@db.example/shard0 failed',
    'redis://:s3cret@cache:6379',
    'authorization: Bearer s3cret',
    'no key zs_live_s3cret0000000000',
    'signed with whsec_s3cret+/==',
    `Unexpected token 's', "s3cret" is not valid JSON`,
  ])('leaves secrets out of what errors say: %s', (text) => {
    const { log, texts } = logInto()
    log.trouble('it broke', new Error('outer', { cause: new Error(text) }))
    expect(texts.join()).not.toContain('s3cret')
  })

  it('ends a chain of causes that has no end', () => {
    const { log, last } = logInto()
    const error = new Error('round and round')
    error.cause = error
    log.trouble('it broke', error)
    expect(JSON.stringify(last()).length).toBeLessThan(20_000)
  })

  it('writes for people, and nothing that steers their terminal', () => {
    const { log, texts } = logInto({ form: 'pretty' })
    log.logger.info({ route: '/v1/\u001b[2Jx', status: 200 }, 'request')
    log.trouble('it broke', new Error('why\u0007'))
    expect(texts[0]).toMatch(/^\d\d:\d\d:\d\d\.\d{3} INFO {2}request route=\/v1\/\?\[2Jx status=200\n$/)
    expect(texts[1]).toMatch(/ WARN {2}it broke\n {2}Error: why\?\n {6}at /)
  })

  it('has written everything when the process ends, also by an exception', async () => {
    const source = `
      import { openLog } from ${JSON.stringify(fileURLToPath(new URL('../../src/observe/log.ts', import.meta.url)))}
      const { logger } = openLog({ form: 'json', level: 'info' })
      for (let i = 0; i < 5000; i++) logger.info({ i }, 'line')
      setImmediate(() => { throw new Error('nobody catches it') })`
    const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', source], {
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    let text = ''
    child.stdout.setEncoding('utf8').on('data', (chunk) => {
      text += chunk
    })
    const [code] = await once(child, 'close')
    expect(code).not.toBe(0)
    const numbers = text
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line).i)
    // What was being written just then may come late, and twice.
    expect([...new Set(numbers)].sort((a, b) => a - b)).toEqual(Array.from({ length: 5000 }, (_, i) => i))
  })

  it.each(['json', 'pretty'])('as %s goes on when its reader goes away', async (form) => {
    const source = `
      import { openLog } from ${JSON.stringify(fileURLToPath(new URL('../../src/observe/log.ts', import.meta.url)))}
      const log = openLog({ form: '${form}', level: 'info' })
      const timer = setInterval(() => log.logger.info('line'), 1)
      process.stdin.on('end', async () => {
        clearInterval(timer)
        await log.close()
        process.exit(7)
      }).resume()`
    const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', source], {
      stdio: ['pipe', 'pipe', 'ignore'],
    })
    const exit = once(child, 'exit')
    await once(child.stdout, 'data')
    child.stdout.destroy()
    await new Promise((done) => setTimeout(done, 500))
    child.stdin.end()
    expect(await exit).toEqual([7, null])
  })

  it.each(['json', 'pretty'])(
    'as %s keeps so much for a reader that does not read, and counts the rest',
    async (form) => {
      const source = `
      import { openLog } from ${JSON.stringify(fileURLToPath(new URL('../../src/observe/log.ts', import.meta.url)))}
      const log = openLog({ form: '${form}', level: 'info' })
      const text = 'x'.repeat(1000)
      for (let i = 0; i < 20_000; i++) log.logger.info(text)
      setTimeout(() => log.close(), 500)`
      const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', source], {
        stdio: ['ignore', 'pipe', 'ignore'],
      })
      let text = ''
      child.stdout.setEncoding('utf8').on('data', (chunk) => {
        text += chunk
      })
      expect(await once(child, 'close')).toEqual([0, null])
      expect(text).toContain('log lines were lost: nobody read them')
      expect(text.length).toBeLessThan(10 * 1024 * 1024)
    },
  )

  it('tells of a call that fails unexpectedly, once why and once how it was answered', async () => {
    const { log, texts } = logInto()
    const api = await openApi({
      observed: { logger: log.logger },
      wrapRouter: (router) => ({
        ...router,
        readHolder: () => Promise.reject(new Error('a bug')),
      }),
    })
    try {
      const answer = await withSpan(TRACE, SPAN, true, async () => await api.alpha.get('/v1/wallets?holderId=x'))
      expect(answer.status).toBe(500)
      const lines = texts.map((text) => JSON.parse(text))
      const correlationId = answer.headers['x-correlation-id']
      expect(lines).toMatchObject([
        {
          level: 'error',
          correlationId,
          msg: 'a request failed unexpectedly',
          err: { message: 'a bug' },
          traceId: TRACE,
        },
        {
          level: 'warn',
          correlationId,
          msg: 'request',
          status: 500,
          code: 'internal_error',
          traceId: TRACE,
          spanId: SPAN,
        },
      ])
    } finally {
      await api.close()
    }
  })
})
