import { randomUUID } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { ReadsSaturated } from '../../src/guard/readGuard.ts'
import { ConnectionLost, type Sql } from '../../src/postgres/connect.ts'
import { createDirectory, newKey, STRANGERS_MAX } from '../../src/tenants/directory.ts'

const tenant_id = randomUUID()
/** More than are remembered. */
const FLOOD = 11_000

/** Stands in for a database that has one key: whether it answers is up to the test. */
let answer: () => Promise<{ tenant_id: string; scopes: string[] }[]>
let asked: number
const found = async () => [{ tenant_id, scopes: ['wallets:read'] }]
const nothing = async () => []

function directoryOver() {
  const tag = () => {
    asked += 1
    return answer()
  }
  return createDirectory(Object.assign(tag, { begin: nothing, end: async () => {} }) as unknown as Sql)
}

beforeEach(() => {
  asked = 0
  vi.useFakeTimers({ toFake: ['Date'] })
})
afterEach(() => void vi.useRealTimers())

/** A known key, so long ago that it is to be looked up again. */
async function withKnownKey() {
  const directory = directoryOver()
  const key = newKey()
  answer = found
  await directory.authenticate(key)
  asked = 0
  return { directory, key, later: () => vi.advanceTimersByTime(11_000) }
}

describe('keys that somebody makes up', () => {
  test('are many: the real ones are remembered all the same, and believed when the database is away', async () => {
    const { directory, key, later } = await withKnownKey()
    answer = nothing
    for (let i = 0; i < FLOOD; i++) expect(await directory.authenticate(newKey())).toBeUndefined()
    expect(asked).toBe(FLOOD)
    expect(await directory.authenticate(key)).toMatchObject({ tenantId: tenant_id })
    expect(asked).toBe(FLOOD)
    later()
    answer = () => Promise.reject(new ConnectionLost('gone'))
    expect(await directory.authenticate(key)).toMatchObject({ tenantId: tenant_id })
  })

  test('and sent again are not looked up again for a while, but then', async () => {
    const { directory, later } = await withKnownKey()
    const madeUp = newKey()
    answer = nothing
    for (let i = 0; i < 3; i++) expect(await directory.authenticate(madeUp)).toBeUndefined()
    expect(asked).toBe(1)
    later()
    expect(await directory.authenticate(madeUp)).toBeUndefined()
    expect(asked).toBe(2)
  })

  test('wait to be looked up, so many at once; one more is refused at once, one that is known has room', async () => {
    const { directory, key, later } = await withKnownKey()
    const { promise, resolve } = Promise.withResolvers<[]>()
    answer = () => promise
    const [first = '', ...others] = Array.from({ length: STRANGERS_MAX }, newKey)
    const waiting = [first, ...others].map(directory.authenticate)
    expect(asked).toBe(STRANGERS_MAX)
    const oneMore = Promise.allSettled([directory.authenticate(newKey())])
    // Who comes with the same key waits with the first, however many these are.
    const same = directory.authenticate(first)
    later()
    const known = directory.authenticate(key)
    expect(asked).toBe(STRANGERS_MAX + 1)
    resolve([])
    expect(await oneMore).toMatchObject([{ reason: expect.any(ReadsSaturated) }])
    expect(await Promise.all([...waiting, same])).toEqual(Array(STRANGERS_MAX + 1).fill(undefined))
    // It was looked up, and nobody has it any more.
    expect(await known).toBeUndefined()
    expect(await directory.authenticate(newKey())).toBeUndefined()
  })
})

test('a known key is believed when there is no room to look it up again', async () => {
  const { directory, key, later } = await withKnownKey()
  later()
  answer = () => Promise.reject(new ReadsSaturated('full'))
  expect(await directory.authenticate(key)).toMatchObject({ tenantId: tenant_id })
  await expect(directory.authenticate(newKey())).rejects.toThrow(ReadsSaturated)
})
