import { expect, onTestFinished, test } from 'vitest'
import { type Operation, type Request, requestOf } from '../../src/core/request.ts'
import { type Saga, sagaJson } from '../../src/core/saga.ts'
import { firstShardMap } from '../../src/core/shardMap.ts'
import { QueueFull } from '../../src/ledger/batcher.ts'
import { createSagas } from '../../src/saga/sagas.ts'
import { newId } from '../../src/shards/newId.ts'
import { createRouter, type Router } from '../../src/shards/router.ts'
import type { Shard } from '../../src/shards/shard.ts'
import { TENANT } from '../support/ledger.ts'

/** Shards by the last digit of an id's slot; they accept what begins there, and never answer a step. */
function silentShards(breakerOf: (shard: number) => 'open' | 'closed' = () => 'closed'): Router {
  const shardOf = (id: string) => Number(id.at(-1))
  const shards = [0, 1].map((number) => {
    const submit = async (request: Request) => {
      const { id, tenantId, payload, operation } = request
      const { kind } = operation
      if (kind !== 'transfer') return await new Promise<never>(() => {})
      const legs = operation.legs.map((leg) => ({ ...leg, fromShard: shardOf(leg.from), toShard: shardOf(leg.to) }))
      const saga: Saga = { id, tenantId, kind: 'move', as: kind, shard: number, legs }
      const isAcross = legs.some(({ fromShard, toShard }) => fromShard !== toShard)
      const result = isAcross ? JSON.stringify({ saga: sagaJson(saga) }) : null
      const record = { ...{ id, tenantId, kind, payload, result }, refusal: null, timeUs: Date.now() * 1000 }
      return { status: 'decided' as const, record }
    }
    const batcher = {
      submit,
      get breaker() {
        return breakerOf(number)
      },
    }
    return { number, batcher, reader: { sagasInFlight: async () => [] } } as unknown as Shard
  })
  const shard = (number: number) => shards[number] as Shard
  const router = createRouter(shards, firstShardMap(2))
  return { ...router, shardOf, shard, forId: (id) => shard(shardOf(id)), forHolder: () => shard(0) }
}

test('sagas that wait for a shard hold up neither transfers within it nor within others, only more sagas to it', async () => {
  const sagas = createSagas({ router: silentShards(), onTrouble: () => {} })
  onTestFinished(() => sagas.close())
  const pay = (from: number, to: number) => {
    const leg = { from: newId(from), to: newId(to), amount: 1n, currency: 'USD' }
    const operation: Operation = { kind: 'transfer', legs: [leg], remarks: {} }
    return sagas.submit(requestOf(newId(from), TENANT, 'key', operation), 0)
  }
  const begun = await Promise.all(Array.from({ length: 5_000 }, () => pay(0, 1)))
  expect(new Set(begun.map(({ end }) => end))).toEqual(new Set(['pending']))
  await expect(pay(0, 1)).rejects.toThrow(QueueFull)
  for (const [from, to] of [
    [0, 0],
    [1, 1],
  ] as const) {
    expect((await pay(from, to)).end).toBeUndefined()
  }
  expect((await pay(1, 0)).end).toBe('pending')
})

test('whoever waits for a saga waits no longer than until it is known that a shard of it takes nothing', async () => {
  let isSilent = false
  const sagas = createSagas({
    router: silentShards((shard) => (isSilent && shard === 1 ? 'open' : 'closed')),
    onTrouble: () => {},
  })
  onTestFinished(() => sagas.close())
  const leg = { from: newId(0), to: newId(1), amount: 1n, currency: 'USD' }
  const pay = () =>
    sagas.submit(
      requestOf(newId(0), TENANT, 'key', { kind: 'transfer', legs: [leg], remarks: {} }),
      Number.MAX_SAFE_INTEGER / 2,
    )
  let isTold = false
  const waiting = pay().then((settled) => {
    isTold = true
    return settled
  })
  await new Promise((done) => setTimeout(done, 600))
  expect(isTold).toBe(false)
  isSilent = true
  expect((await waiting).end).toBe('pending')
  expect((await pay()).end).toBe('pending')
})
