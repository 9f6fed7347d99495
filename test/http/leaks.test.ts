import { randomUUID } from 'node:crypto'
import { expect, onTestFinished, test } from 'vitest'
import { freePorts } from '../services/ports.ts'
import { clientOf } from '../support/api.ts'
import { migratedDatabase } from '../support/database.ts'
import { startCommand, startNode } from '../support/node.ts'

const newKeyOf = async (databaseUrl: string): Promise<string> => {
  const { code, output } = await startCommand(['keys', 'create', 'acme'], { databaseUrl }).ended
  expect(code).toBe(0)
  return /zs_test_\w+/.exec(output)?.[0] ?? 'none'
}

test('a node prints no key, password, body or name of a holder, whatever is asked of it', async () => {
  const databaseUrl = await migratedDatabase()
  const key = await newKeyOf(databaseUrl)
  const node = await startNode({ databaseUrl })
  onTestFinished(() => node.kill())
  const client = clientOf(node.send, key)
  const holderId = `holder-${randomUUID()}`
  const wallet = await client.wallet(100, { holderId, name: 'Jane Roe', metadata: { iban: 'DE02120300000000202051' } })
  const wrongKey = `zs_test_${'w'.repeat(31)}`
  await clientOf(node.send, wrongKey).get('/v1/wallets')
  await client.get(`/v1/wallets?holderId=${holderId}&apiKey=${key}`)
  await client.call('POST', '/v1/transfers', undefined, { raw: `{"from":"${wallet}","memo":"for Jane Roe"` })
  await client.pay(wallet, wallet, 1)
  await client.get(`/v1/wallets/${key}`)
  await node.stop()
  const { password } = new URL(databaseUrl)
  const secrets = [key, wrongKey, holderId, 'Jane Roe', 'DE02120300000000202051', ...(password ? [password] : [])]
  for (const secret of secrets) expect(node.output()).not.toContain(secret)
})

test('a database that can not be reached is told of without its password', async () => {
  const [port] = await freePorts(1)
  const databaseUrl = `postgres://zerosum:correct-horse@127.0.0.1:${port}/ledger`
  const { code, output } = await startCommand(['start'], { databaseUrl }).ended
  expect(code).toBe(1)
  expect(output).toMatch(/ECONNREFUSED/)
  expect(output).not.toContain('correct-horse')
})
