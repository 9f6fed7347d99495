import { expect, onTestFinished, test, vi } from 'vitest'
import { runKeys } from '../../src/tenants/command.ts'
import { createDirectory, newKey } from '../../src/tenants/directory.ts'
import { migratedDatabase } from '../support/database.ts'
import { startCommand } from '../support/node.ts'

test('keys list shows keys by their ids and never the keys; keys revoke takes one away, and no other', async () => {
  const databaseUrl = await migratedDatabase()
  const open = () => {
    const directory = createDirectory(databaseUrl)
    onTestFinished(() => directory.close())
    return directory
  }
  const directory = open()
  const [key, kept] = [newKey(), newKey()]
  const acme = await directory.ensureTenant('acme')
  await directory.addKey(acme, key, ['wallets:read'])
  await directory.addCertificate(acme, 'DNS:pay.acme.example', ['wallets:read'])
  await directory.addKey(await directory.ensureTenant('beta'), kept, ['wallets:read', 'admin'])
  const printed: string[] = []
  for (const method of ['log', 'error'] as const) {
    const spy = vi.spyOn(console, method).mockImplementation((text) => void printed.push(String(text)))
    onTestFinished(() => spy.mockRestore())
  }
  const keys = async (...args: string[]) => {
    printed.length = 0
    return { code: await runKeys(directory, args), output: printed.join('\n') }
  }

  const { code, output } = await startCommand(['keys', 'list'], { databaseUrl }).ended
  expect(code, output).toBe(0)
  expect(output).toContain('DNS:pay.acme.example')
  expect(output).toContain('wallets:read,admin')
  for (const each of [key, kept]) {
    expect(output).toContain(`…${each.slice(-4)}`)
    expect(output).not.toContain(each)
  }
  const mine = (await keys('list', 'acme')).output.split('\n')
  expect(mine).toHaveLength(2)
  const [id = ''] = mine.find((line) => line.includes(`…${key.slice(-4)} `))?.split(' ') ?? []
  expect(id).toMatch(/^[0-9a-f]{12}$/)

  expect(await directory.authenticate(key)).toBeDefined()
  expect(await keys('revoke', id)).toEqual({ code: 0, output: expect.stringContaining('within ten seconds') })
  expect(await keys('revoke', id)).toEqual({ code: 1, output: expect.stringContaining('revoked before') })
  expect(await keys('revoke', 'f'.repeat(64))).toEqual({ code: 1, output: expect.stringContaining('No key') })
  for (const wrong of [[], [id.slice(0, 11)], [`${id}%`], [id, id]]) {
    expect(await keys('revoke', ...wrong)).toEqual({ code: undefined, output: '' })
  }
  expect((await keys('list', 'acme')).output).toMatch(new RegExp(`^${id}.*, revoked 20`, 'm'))

  // Another node.
  const other = open()
  expect(await other.authenticate(key)).toBeUndefined()
  expect(await other.authenticate(kept)).toBeDefined()
  expect(await other.authenticateCertificate('DNS:pay.acme.example')).toBeDefined()
})
