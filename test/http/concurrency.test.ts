import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { Agent, request } from 'node:http'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Api, type Client, clientOf, type Entry, openApi } from '../support/api.ts'
import { sendTo } from '../support/node.ts'
import { expectProblem } from './problem.ts'
import { decided } from './stage.ts'

let api: Api
let client: Client
let url: string
const agent = new Agent({ keepAlive: true, maxSockets: 1_000 })

beforeAll(async () => {
  api = await openApi()
  url = await api.app.listen({ host: '127.0.0.1', port: 0 })
  client = clientOf(sendTo(url, agent), api.alpha.apiKey)
})
afterAll(async () => {
  agent.destroy()
  await api.close()
})

const pay = (from: string, to: string, amount: number, key: string = randomUUID()) =>
  decided(() => client.pay(from, to, amount, { key }))

test('of a thousand transfers at once out of a wallet that can pay for half, exactly half go through', async () => {
  const [from, to] = [await client.wallet(500), await client.wallet()]
  const answers = await Promise.all(Array.from({ length: 1_000 }, () => pay(from, to, 1)))
  const refused = answers.filter(({ status }) => status !== 201)
  expect(refused).toHaveLength(500)
  for (const answer of refused) expectProblem(answer, 'insufficient_funds')
  expect([await client.available(from), await client.available(to)]).toEqual([0n, 500n])

  const accepted = answers.filter(({ status }) => status === 201).map(({ body }) => body.id)
  expect(new Set(accepted).size).toBe(500)
  const entries = await client.all<Entry>(`/v1/wallets/${from}/entries`)
  const paid = entries.filter(({ kind }) => kind === 'transfer')
  expect(paid.map(({ transferId }) => transferId).sort()).toEqual(accepted.sort())
  expect(paid.map(({ balanceAfter }) => balanceAfter)).toEqual(paid.map((_, i) => `${i}`))
})

test('money that goes round in circles is neither lost nor made', async () => {
  const wallets = await Promise.all(Array.from({ length: 6 }, () => client.wallet(20)))
  const answers = await Promise.all(
    Array.from({ length: 600 }, (_, i) => {
      const from = wallets[(i * 7) % 6] ?? ''
      const to = wallets[(i * 7 + 1 + (i % 5)) % 6] ?? ''
      return pay(from, to, 1 + (i % 13))
    }),
  )
  for (const answer of answers) if (answer.status !== 201) expectProblem(answer, 'insufficient_funds')
  const balances = await Promise.all(wallets.map((wallet) => client.available(wallet)))
  expect(balances.reduce((sum, balance) => sum + balance, 0n)).toBe(120n)
  expect(balances.every((balance) => balance >= 0n)).toBe(true)
  const [sums] = await api.query<{ entries: string; accounts: string }>(`
    SELECT (SELECT sum(amount) FROM entries)::text AS entries,
           (SELECT sum(credits_posted - debits_posted) FROM accounts)::text AS accounts`)
  expect(sums).toEqual({ entries: '0', accounts: '0' })
})

test('callers who hang up before the answer do not disturb the others, and their transfers happen once', async () => {
  const [from, to] = [await client.wallet(100), await client.wallet()]
  const hasty = new Agent({ keepAlive: false })
  const body = JSON.stringify({ from, to, amount: '1', currency: 'USD' })
  await Promise.all(
    Array.from({ length: 20 }, async (_, i) => {
      const headers = {
        authorization: `Bearer ${api.alpha.apiKey}`,
        'content-type': 'application/json',
        'idempotency-key': `hasty ${i}`,
        'content-length': `${body.length}`,
      }
      const call = request(new URL('/v1/transfers', url), { method: 'POST', agent: hasty, headers })
      call.on('error', () => {})
      call.end(body)
      await once(call, 'finish')
      call.destroy()
      await pay(from, to, 1)
    }),
  )
  for (let i = 0; i < 20; i++) expect((await pay(from, to, 1, `hasty ${i}`)).status).toBe(201)
  expect(await client.available(to)).toBe(40n)
})
