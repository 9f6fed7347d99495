import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { connect } from '../../src/postgres/connect.ts'
import { createDirectory, type Directory, newKey } from '../../src/tenants/directory.ts'
import { openPassage, type Passage } from '../http/passage.ts'
import { migratedDatabase } from '../support/database.ts'

let url: string
let passage: Passage
let directory: Directory
let tenantId: string
let key: string

beforeEach(async () => {
  url = await migratedDatabase()
  passage = await openPassage(url)
  directory = createDirectory(passage.urlOf(url))
  tenantId = await directory.ensureTenant('alpha')
  key = newKey()
  await directory.addKey(tenantId, key, ['wallets:read'])
  await directory.authenticate(key)
  vi.useFakeTimers({ toFake: ['Date'] })
})

afterEach(async () => {
  vi.useRealTimers()
  await directory.close()
  await passage.close()
})

/** A caller does not wait for long: while the database takes its time, the key is believed, and looked up all the same. */
const untilRefused = () => expect.poll(() => directory.authenticate(key)).toBeUndefined()

const later = (seconds: number) => vi.advanceTimersByTime(seconds * 1000)

describe('a key that is known, when its database is', () => {
  test.each(['cut', 'silence'] as const)(
    'away (%s), is believed for an hour, and a key that is not is not',
    async (how) => {
      passage[how]()
      later(11)
      expect(await directory.authenticate(key)).toMatchObject({ tenantId })
      await expect(directory.authenticate(newKey())).rejects.toThrow()
      later(3590)
      await expect(directory.authenticate(key)).rejects.toThrow()
    },
  )

  test('back, is looked up again: one that was revoked meanwhile is refused', async () => {
    passage.cut()
    later(11)
    expect(await directory.authenticate(key)).toBeDefined()
    const sql = connect(url, { max: 1, role: null })
    await sql`UPDATE api_keys SET revoked_at = now()`
    await sql.end()
    passage.mend()
    await untilRefused()
  })

  test('there, is refused eleven seconds after it was revoked', async () => {
    const sql = connect(url, { max: 1, role: null })
    await sql`UPDATE api_keys SET revoked_at = now()`
    await sql.end()
    later(11)
    await untilRefused()
  })
})
