import { beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { seededRandom } from '../../bench/load.ts'
import { slotOf } from '../../src/core/ids.ts'
import { type Operation, requestOf, stepRequest } from '../../src/core/request.ts'
import { begunSaga, type Saga, type Step } from '../../src/core/saga.ts'
import { type ShardMap, shardOfSlot } from '../../src/core/shardMap.ts'
import { createBatcher } from '../../src/ledger/batcher.ts'
import { createPoster } from '../../src/ledger/poster.ts'
import { prepareShards } from '../../src/shards/map.ts'
import { newId } from '../../src/shards/newId.ts'
import { balanceOf } from '../ledger/books.ts'
import { seedFor } from '../ledger/seed.ts'
import { migratedDatabase } from '../support/database.ts'
import { TENANT } from '../support/ledger.ts'
import { startNode } from '../support/node.ts'
import { expectSettledBooks, inFlight, untilOver, withShards } from './books.ts'

/** Sagas are planted half way, as a node leaves them that dies there: posted by hand, with no runner. Then two nodes start. */

const FUNDS = 1_000_000n
const COPIES = 12
/** So long ago that it is given up: a shard that has not decided is not waited for. */
const LONG_AGO_US = 60_000_000
const OVER_MS_MAX = 180_000

let urls: string[]
let map: ShardMap

beforeAll(async () => {
  urls = [await migratedDatabase(), await migratedDatabase(), await migratedDatabase()]
  map = (await prepareShards(urls)).map
})

type Place = `${Step} ${0 | 1 | 2}`
type Plan = { readonly steps: readonly Place[]; readonly end: 'saga-finalize' | 'saga-release' | 'either' }

const done = 'saga-finalize'
const undone = 'saga-release'

/** From shard 0 to 1. */
const TWO: readonly Plan[] = [
  { steps: [], end: 'either' },
  { steps: ['commit 1'], end: done },
  { steps: ['cancel 1'], end: undone },
]
/** From shard 0 to 1 and to 2: shard 1 reserves, 2 commits. */
const THREE: readonly Plan[] = [
  { steps: [], end: 'either' },
  { steps: ['reserve 1'], end: 'either' },
  { steps: ['reserve 1', 'commit 2'], end: done },
  { steps: ['reserve 1', 'commit 2', 'finalize 1'], end: done },
  { steps: ['cancel 1'], end: undone },
  { steps: ['cancel 2'], end: undone },
  { steps: ['reserve 1', 'cancel 2'], end: undone },
  { steps: ['reserve 1', 'cancel 2', 'release 1'], end: undone },
]
const HOLD: readonly Plan[] = [
  { steps: [], end: 'either' },
  { steps: ['reserve 1'], end: done },
  { steps: ['cancel 1'], end: undone },
]
const CAPTURE: readonly Plan[] = TWO
/** What lets go can't fail. */
const RELEASE: readonly Plan[] = [
  { steps: [], end: done },
  { steps: ['commit 1'], end: done },
]

/** Posts by hand on all shards. */
function openPlanter(clockUs: () => number) {
  const posters = urls.map((url, shard) => createPoster({ url, shard, writer: 'planter', clockUs }))
  const batchers = posters.map((poster) => createBatcher({ post: (requests) => poster.post(requests) }))
  let count = 0

  async function ask(shard: number, operation: Operation) {
    const id = newId(map.shards.indexOf(shard))
    const outcome = await batchers[shard]?.submit(requestOf(id, TENANT, `planted ${clockUs()} ${count++}`, operation))
    if (outcome?.status !== 'decided' || outcome.record.refusal !== null)
      throw new Error(`not planted: ${outcome?.record.refusal}`)
    return outcome.record
  }

  return {
    async wallet(shard: number): Promise<string> {
      let holderId: string
      do holderId = `holder ${clockUs()} ${count++}`
      while (shardOfSlot(map, slotOf(TENANT, holderId)) !== shard)
      const id = newId(slotOf(TENANT, holderId))
      const open = { kind: 'wallet-open', holderId, currency: 'USD', overdraftLimit: 0n, limits: {} } as const
      await batchers[shard]?.submit(requestOf(id, TENANT, 'open', open))
      await ask(shard, { kind: 'top-up', walletId: id, amount: FUNDS, currency: 'USD' })
      return id
    },
    /** Begins a saga on shard 0 and takes it so far. */
    async plant(operation: Operation, steps: readonly Place[]): Promise<Saga> {
      const { tenantId, result } = await ask(0, operation)
      const saga = begunSaga(tenantId, result)
      if (!saga) throw new Error('it began no saga')
      for (const place of steps) {
        const [step = '', shard = ''] = place.split(' ')
        const request = stepRequest(newId(map.shards.indexOf(Number(shard))), saga, step as Step)
        const outcome = await batchers[Number(shard)]?.submit(request)
        expect(outcome?.record, place).toMatchObject({ kind: `saga-${step}`, refusal: null })
      }
      return saga
    },
    close: () => Promise.all(posters.map((poster) => poster.close())),
  }
}

describe('sagas that were left half way', () => {
  test.each([
    ['a moment ago', 0],
    ['long ago', LONG_AGO_US],
  ] as const)('%s are ended once each by two nodes that start together', async (name, agoUs) => {
    const random = seededRandom(seedFor(`two nodes, sagas of ${name}`))
    const now = () => Math.round((performance.timeOrigin + performance.now()) * 1000)
    const planter = openPlanter(() => now() - agoUs)
    const [payer, near, far] = await Promise.all([0, 1, 2].map(planter.wallet))
    if (!payer || !near || !far) throw new Error('no wallets')
    const draw = () => BigInt(1 + Math.floor(random() * 500))
    const leg = (to: string) => ({ from: payer, to, amount: draw(), currency: 'USD' })
    const remarks = {}
    const planted: { saga: Saga; plan: Plan }[] = []
    const plantAll = async (plans: readonly Plan[], operation: () => Operation | Promise<Operation>) => {
      const copies = Array.from({ length: COPIES }, () => plans).flat()
      await Promise.all(
        copies.map(async (plan) => planted.push({ saga: await planter.plant(await operation(), plan.steps), plan })),
      )
    }
    const hold = (): Operation => ({ kind: 'hold', leg: leg(near), expiresInSeconds: 3600, remarks })
    const held = async () => (await planter.plant(hold(), ['reserve 1', 'finalize 0'])).id
    await plantAll(TWO, () => ({ kind: 'transfer', legs: [leg(near)], remarks }))
    await plantAll(THREE, () => ({ kind: 'transfer', legs: [leg(near), leg(far)], remarks }))
    await plantAll(HOLD, hold)
    await plantAll(CAPTURE, async () => ({ kind: 'capture', holdId: await held(), amount: 1n }))
    await plantAll(RELEASE, async () => ({ kind: 'release', holdId: await held() }))
    await planter.close()
    expect(await withShards(urls, (shards) => Promise.all(shards.map(inFlight)))).toEqual([planted.length, 0, 0])

    const databaseUrl = urls.join(',')
    const nodes = await Promise.all([startNode({ databaseUrl }), startNode({ databaseUrl })])
    onTestFinished(async () => {
      await Promise.all(nodes.map((node) => node.kill()))
    })
    const ms = await untilOver(urls, OVER_MS_MAX)
    await withShards(urls, async ([first, second, third]) => {
      if (!first || !second || !third) throw new Error('no shards')
      const rows = await first<{ scope: string; kind: string }[]>`SELECT scope, kind FROM requests WHERE key = '§end'`
      const ends = Map.groupBy(rows, ({ scope }) => scope)
      const due = new Map([payer, near, far].map((id) => [id, FUNDS]))
      const counts = { completed: 0, compensated: 0 }
      for (const { saga, plan } of planted) {
        const [end, more] = ends.get(saga.id) ?? []
        expect(more).toBeUndefined()
        if (plan.end !== 'either') expect([saga.kind, plan.steps, end?.kind]).toEqual([saga.kind, plan.steps, plan.end])
        counts[end?.kind === done ? 'completed' : 'compensated'] += 1
        if (end?.kind !== done || saga.kind === 'hold' || saga.kind === 'let-go') continue
        for (const { from, to, amount } of saga.legs) {
          due.set(from, (due.get(from) ?? 0n) - (saga.captured ?? amount))
          due.set(to, (due.get(to) ?? 0n) + (saga.captured ?? amount))
        }
      }
      expect(await Promise.all([balanceOf(first, payer), balanceOf(second, near), balanceOf(third, far)])).toEqual([
        ...due.values(),
      ])
      const writers =
        await first`SELECT writer, count(*)::int AS blocks FROM blocks WHERE writer <> 'planter' GROUP BY 1`
      console.log(
        `${planted.length} sagas were over ${ms} ms after the nodes started: ${JSON.stringify({ counts, writers })}`,
      )
    })
    await expectSettledBooks(urls)
    expect(await Promise.all(nodes.map((node) => node.stop()))).toEqual([0, 0])
  })
})
