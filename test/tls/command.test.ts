import { expect, test } from 'vitest'
import { createDirectory } from '../../src/tenants/directory.ts'
import { migratedDatabase } from '../support/database.ts'
import { startCommand } from '../support/node.ts'

const NAME = 'URI:spiffe://acme/payments'

test('keys create --certificate lets a name work for a tenant, once; what names no certificate is refused', async () => {
  const databaseUrl = await migratedDatabase()
  const create = (...args: string[]) => startCommand(['keys', 'create', ...args], { databaseUrl }).ended
  expect(await create('acme', '--certificate', NAME, 'wallets:read')).toEqual({ code: 0, output: '' })
  expect(await create('beta', '--certificate', NAME)).toMatchObject({
    code: 1,
    output: expect.stringContaining('stays whose it was'),
  })
  const wrong = [['--certificate'], ['--certificate', 'payments'], ['--certificate', NAME, 'everything']]
  const ended = await Promise.all(wrong.map((args) => create('acme', ...args)))
  expect(ended.map(({ code }) => code)).toEqual([2, 2, 2])
  const directory = createDirectory(databaseUrl)
  try {
    expect(await directory.authenticateCertificate(NAME)).toEqual({
      tenantId: await directory.ensureTenant('acme'),
      scopes: new Set(['wallets:read']),
    })
    expect(await directory.authenticate(NAME)).toBeUndefined()
  } finally {
    await directory.close()
  }
})
