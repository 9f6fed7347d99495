import { randomUUID } from 'node:crypto'
import { expect, onTestFinished, test } from 'vitest'
import { openedAccount } from '../../src/core/account.ts'
import { requestOf, stepRequest } from '../../src/core/request.ts'
import { begunSaga } from '../../src/core/saga.ts'
import { Memory } from '../../src/ledger/memory.ts'
import { createPoster, type Result } from '../../src/ledger/poster.ts'
import { newId } from '../../src/shards/newId.ts'
import { migratedDatabase, storeMap } from '../support/database.ts'
import { ask, TENANT, transferOf } from '../support/ledger.ts'

const accountOf = (id: string) =>
  openedAccount({ id, tenantId: TENANT, kind: 'wallet', currency: 'USD', overdraftLimit: 0n, limits: {} })

test('what a batch names is not pushed out of memory by what is loaded for it', () => {
  const memory = new Memory('bounded')
  const ids = Array.from({ length: 250_000 }, () => randomUUID())
  const learn = (accounts: string[]) =>
    memory.learn({ accounts: accounts.map(accountOf), holds: [], transfers: [], records: new Map() })
  learn(ids)
  const [oldest = ''] = ids
  const stranger = randomUUID()
  const request = ask(transferOf(oldest, stranger, 1n))
  const wanted = memory.wantedBy([request], { shard: 0, shardOf: () => 0 })
  expect(wanted.accounts).toEqual([stranger])
  learn([stranger])
  expect(memory.account(oldest)?.id).toBe(oldest)
})

test('what waited for a saga goes on when another node has ended it', async () => {
  const url = await migratedDatabase()
  await storeMap(
    url,
    Array.from({ length: 4096 }, (_, slot) => (slot < 2048 ? 0 : 1)),
  )
  const clockUs = () => Date.now() * 1000
  const open = (writer: string) => {
    const poster = createPoster({ url, shard: 0, writer, clockUs })
    onTestFinished(() => poster.close())
    return async (...requests: Parameters<typeof poster.post>[0]): Promise<Result> => {
      const [result] = await poster.post(requests)
      if (result === undefined) throw new Error('no result')
      return result
    }
  }
  const [one, other] = [open('one'), open('other')]
  const payer = newId(5)
  const payee = newId(3_000)
  const wallet = { kind: 'wallet-open', holderId: 'a', currency: 'USD', overdraftLimit: 100n, limits: {} } as const
  await one(requestOf(payer, TENANT, 'open', wallet))
  // Nobody else writes: from here on it leads, and keeps the state in memory.
  for (let i = 0; i < 6; i++) {
    await one(requestOf(newId(5), TENANT, `${i}`, { kind: 'top-up', walletId: payer, amount: 1n, currency: 'USD' }))
  }
  const id = newId(5)
  const begun = await one(requestOf(id, TENANT, 'pay', transferOf(payer, payee, 10n)))
  const saga = 'record' in begun ? begunSaga(TENANT, begun.record.result) : undefined
  if (!saga) throw new Error('no saga began')
  const reverse = () => one(requestOf(newId(5), TENANT, 'back', { kind: 'reversal', transferId: id }))
  expect(await reverse()).toMatchObject({ why: 'busy' })

  expect(await other(stepRequest(newId(5), saga, 'finalize'))).toMatchObject({ status: 'decided' })
  expect(await one(stepRequest(newId(5), saga, 'finalize'))).toMatchObject({ status: 'replayed' })
  expect(await reverse()).toMatchObject({ status: 'decided', record: { refusal: null } })
})
