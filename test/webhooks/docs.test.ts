import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { EVENT_TYPES } from '../../src/webhooks/eventTypes.ts'
import { DELAYS_MS } from '../../src/webhooks/schedule.ts'
import { newSecret, sign } from '../../src/webhooks/signature.ts'

type Verify = (secret: string, headers: Record<string, string>, body: string | Buffer) => void

let page: string
let directory: string
let verify: Verify

beforeAll(async () => {
  page = await readFile(new URL('../../docs/webhooks.md', import.meta.url), 'utf8')
  const [, snippet = ''] = /```js\n([\s\S]*?)```/.exec(page) ?? []
  directory = await mkdtemp(join(tmpdir(), 'zerosum-docs-'))
  const file = join(directory, 'verify.mjs')
  await writeFile(file, snippet)
  const module = (await import(pathToFileURL(file).href)) as { verify: Verify }
  verify = module.verify
})
afterAll(() => rm(directory, { recursive: true, force: true }))

describe('the snippet in docs/webhooks.md', () => {
  const secret = newSecret()
  const body = '{"type":"a.b","data":"ü"}'
  const headersOf = (secrets: string[], secondsAgo = 0) => {
    const timestamp = Math.floor(Date.now() / 1000) - secondsAgo
    const signature = sign(secrets, { id: 'msg_1', timestamp, body })
    return { 'webhook-id': 'msg_1', 'webhook-timestamp': `${timestamp}`, 'webhook-signature': signature }
  }

  it('believes what was signed with the secret, as text or as bytes', () => {
    verify(secret, headersOf([secret]), body)
    verify(secret, headersOf([secret]), Buffer.from(body))
  })

  it('believes what was signed with the secret and others', () => {
    verify(secret, headersOf([newSecret(), secret, newSecret()]), body)
  })

  it('believes nothing else', () => {
    const headers = headersOf([secret])
    const { 'webhook-signature': signature } = headers
    expect(() => verify(secret, headersOf([newSecret()]), body)).toThrow('not from Zerosum')
    expect(() => verify(secret, headers, `${body} `)).toThrow('not from Zerosum')
    expect(() => verify(secret, { ...headers, 'webhook-id': 'msg_2' }, body)).toThrow('not from Zerosum')
    expect(() => verify(secret, { ...headers, 'webhook-signature': '' }, body)).toThrow('not from Zerosum')
    expect(() => verify(secret, { ...headers, 'webhook-signature': signature.replace('v1', 'v2') }, body)).toThrow(
      'not',
    )
    expect(() => verify(secret, headersOf([secret], 301), body)).toThrow('too old')
    expect(() => verify(secret, headersOf([secret], -310), body)).toThrow('too new')
    expect(() => verify(secret, {}, body)).toThrow('too old')
  })
})

it('docs/webhooks.md says when it is tried again as the schedule has it', () => {
  const hours = DELAYS_MS.slice(3).map((ms) => ms / 3_600_000)
  expect(DELAYS_MS.slice(0, 3)).toEqual([5_000, 300_000, 1_800_000])
  expect(page).toContain(`5 seconds, 5 minutes, 30 minutes, ${hours.slice(0, -1).join(', ')} and ${hours.at(-1)} hours`)
})

it('docs/webhooks.md lists the types of events that there are', () => {
  const [, table = ''] = /\| type \| `data` \|\n\|---\|---\|\n([\s\S]*?)\n\n/.exec(page) ?? []
  expect(table.split('\n').map((line) => /^\| `([a-z.]+)` \|/.exec(line)?.[1])).toEqual([...EVENT_TYPES])
})
