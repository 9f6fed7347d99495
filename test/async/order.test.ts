import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { seededRandom } from '../../bench/load.ts'
import { laterRequest, messageText } from '../../src/async/message.ts'
import { createSettle } from '../../src/async/settle.ts'
import { createShardWatch } from '../../src/async/shardWatch.ts'
import { type Request, walletsOf } from '../../src/core/request.ts'
import { firstShardMap } from '../../src/core/shardMap.ts'
import { createBatcher, QueueFull } from '../../src/ledger/batcher.ts'
import { RequestUndecided, type Result } from '../../src/ledger/poster.ts'
import { createSagas } from '../../src/saga/sagas.ts'
import { newId } from '../../src/shards/newId.ts'
import { createRouter } from '../../src/shards/router.ts'
import type { Shard } from '../../src/shards/shard.ts'
import { until } from '../bus/stage.ts'
import { seedFor } from '../ledger/seed.ts'

const TENANTS = [1, 2, 3].map((number) => `01970000-0000-7000-8000-00000000000${number}`)
const QUEUE_MAX = 60
const BATCH_MAX = 20

/** The real way from the queue to the batcher, over a poster that takes its time. */
function stage(random: () => number) {
  const decided: Request[] = []
  /** Wallets that are moving: what names them is turned back. */
  const moving = new Set<string>()
  /** Wallets that the ledger has to be told about: what names them is turned back without that. */
  const strange = new Set<string>()
  const turnedBack: Request[] = []
  const open = { blocks: 0 }
  const batcher = createBatcher({
    queueMax: QUEUE_MAX,
    batchMax: BATCH_MAX,
    async post(requests) {
      open.blocks += 1
      const results = requests.map((request): Result => {
        const { id, tenantId, operation, payload, peers } = request
        const names = (wallets: ReadonlySet<string>) => walletsOf(operation).some((wallet) => wallets.has(wallet))
        if (names(moving) || (names(strange) && !peers)) {
          turnedBack.push(request)
          return new RequestUndecided(names(moving) ? 'moving' : 'ask_peers')
        }
        decided.push(request)
        const record = { id, tenantId, kind: operation.kind, payload, refusal: null, result: null, timeUs: 1 }
        return { status: 'decided', record }
      })
      await sleep(random() * 4)
      open.blocks -= 1
      return results
    },
  })
  const shard = { number: 0, batcher, reader: { sagasInFlight: async () => [] } } as unknown as Shard
  const untilOpen = async () => {
    while (moving.size > 0) await sleep(5)
  }
  /** Whether the shards of strange wallets answer. */
  const peers = { areSilent: false }
  const read = async () => {
    while (peers.areSilent) await sleep(5)
    return undefined as never
  }
  const router = { ...createRouter([shard], firstShardMap(1)), untilOpen, read }
  const sagas = createSagas({ router, onTrouble: () => {} })
  onTestFinished(() => sagas.close())
  const settle = createSettle({
    ...{ sagas, router, watch: createShardWatch(async () => {}), onTrouble: () => {} },
    addEnds: async () => {},
    async knowsTenant() {
      await sleep(random() * 10)
      return true
    },
    count: () => {},
  })
  let keys = 0
  const topUp = (tenant: string, walletId: string) =>
    laterRequest(tenant, `${keys++}`, { kind: 'top-up', walletId, amount: 1n, currency: 'USD' })
  const pay = (tenant: string, from: string, to: string) => {
    const legs = [{ from, to, amount: 1n, currency: 'USD' }]
    return laterRequest(tenant, `${keys++}`, { kind: 'transfer', legs, remarks: {} })
  }
  const letterOf = (request: Request) => ({ text: messageText(request), attempts: 0, firstMs: null })
  const signal = new AbortController().signal
  return {
    ...{ decided, turnedBack, moving, strange, peers, open, batcher, topUp, pay },
    settle: (requests: readonly Request[]) => settle(requests.map(letterOf), signal),
  }
}

test('what is of one payer is decided in the order in which it was accepted, whatever has no room meanwhile', async () => {
  const random = seededRandom(seedFor('order'))
  const { decided, batcher, topUp, settle } = stage(random)
  const wallets = TENANTS.map(() => [newId(1), newId(2), newId(3)])
  const draw = () => {
    const tenant = Math.floor(random() * TENANTS.length)
    const payer = Math.floor(random() * 3)
    return topUp(TENANTS[tenant] ?? '', wallets[tenant]?.[payer] ?? '')
  }
  const accepted: Request[] = []
  let refused = 0
  let isOver = false
  // Those whom somebody waits for come in crowds, and fill the queue.
  async function crowd(): Promise<void> {
    while (!isOver) {
      const strangers = Array.from({ length: Math.floor(random() * 2 * QUEUE_MAX) }, () => topUp(newId(4), newId(5)))
      for (const one of strangers.map((request) => async () => await batcher.submit(request))) {
        one().catch((error) => {
          if (!(error instanceof QueueFull)) throw error
          refused += 1
        })
      }
      await sleep(random() * 20)
    }
  }
  const crowds = crowd()
  const batches: ReturnType<typeof settle>[] = []
  for (let batch = 0; batch < 25; batch++) {
    const requests = Array.from({ length: Math.floor(random() * 60) }, draw)
    accepted.push(...requests)
    batches.push(settle(requests))
    await sleep(random() * 10)
    if (batch % 4 === 3) await batches.shift()
  }
  const dispositions = await Promise.all(batches)
  isOver = true
  await crowds
  expect(new Set(dispositions.flat().map(({ fate }) => fate))).toEqual(new Set(['done']))
  expect(refused).toBeGreaterThan(0)
  const keysOf = (requests: readonly Request[]) =>
    Object.fromEntries(
      wallets.flat().map((wallet) => [wallet, requests.flatMap(({ scope, key }) => (scope === wallet ? key : []))]),
    )
  expect(keysOf(decided)).toEqual(keysOf(accepted))
})

test('what waits for a wallet that is moving goes on in order, and what comes later goes behind it', async () => {
  const random = seededRandom(seedFor('moving'))
  const { decided, moving, open, batcher, topUp, settle } = stage(random)
  const [tenant = ''] = TENANTS
  const [here, there] = [newId(1), newId(2)]
  moving.add(here)
  const draw = () => topUp(tenant, random() < 0.5 ? here : there)
  const accepted = Array.from({ length: 200 }, draw)
  const first = settle(accepted.slice(0, 100))
  const second = settle(accepted.slice(100, 150))
  const others = accepted.slice(0, 150).filter(({ scope }) => scope === there)
  await until(() => decided.length >= others.length && open.blocks === 0 && batcher.depth === 0)
  moving.clear()
  const third = settle(accepted.slice(150))
  await Promise.all([first, second, third])
  const keysOf = (requests: readonly Request[], wallet: string) =>
    requests.flatMap(({ scope, key }) => (scope === wallet ? key : []))
  for (const wallet of [here, there]) expect(keysOf(decided, wallet)).toEqual(keysOf(accepted, wallet))
})

test.each([
  ['the shard of a payee is asked', 'ask'],
  ['a payee moves', 'move'],
] as const)('while %s, what is behind of the same payer waits, and that of others does not', async (_, why) => {
  const { decided, turnedBack, moving, strange, peers, topUp, pay, settle } = stage(seededRandom(seedFor('payee')))
  const [tenant = ''] = TENANTS
  const [payer, payee, other] = [newId(1), newId(2), newId(3)]
  if (why === 'move') moving.add(payee)
  else strange.add(payee)
  peers.areSilent = true
  const [first, second, third] = [pay(tenant, payer, payee), topUp(tenant, payer), pay(tenant, payer, other)]
  const settling = [settle([first])]
  await until(() => turnedBack.length > 0)
  settling.push(settle([second, third, topUp(tenant, other)]))
  await until(() => decided.some(({ scope }) => scope === other))
  const ofPayer = () => decided.flatMap(({ scope, key }) => (scope === payer ? key : []))
  expect(ofPayer()).toEqual([])
  moving.clear()
  peers.areSilent = false
  expect((await Promise.all(settling)).flat().map(({ fate }) => fate)).toEqual(['done', 'done', 'done', 'done'])
  expect(ofPayer()).toEqual([first.key, second.key, third.key])
})
