import { describe, expect, test } from 'vitest'
import { auditBlock, type StoredItem, type StoredLine } from '../../src/core/audit.ts'
import { GENESIS_HASH, sealBlock } from '../../src/core/block.ts'
import { digestUuid } from '../../src/core/ids.ts'
import { post } from '../../src/core/post.ts'
import { type Operation, requestOf } from '../../src/core/request.ts'
import type { SagaJson } from '../../src/core/saga.ts'
import { MemoryState } from './memory-state.ts'

const TENANT = digestUuid('a tenant')
const [ANNA, CLEO, DAN] = ['anna', 'cleo', 'dan'].map((name) => digestUuid(name)) as [string, string, string]
const shardOf = (id: string) => (id === CLEO || id === DAN ? 1 : 0)
const leg = { from: ANNA, to: CLEO, amount: 50n, currency: 'EUR' }

/** What anna can ask for between shards, in order. */
const OPERATIONS: Operation[] = [
  { kind: 'wallet-open', holderId: 'anna', currency: 'EUR', overdraftLimit: 1_000n, limits: {} },
  { kind: 'transfer', legs: [leg], remarks: {} },
  { kind: 'hold', leg, expiresInSeconds: 60, remarks: {} },
]

/** The finding on a block of these, when what the last one recorded of its saga is changed and everything sealed anew. */
function findingAfter(count: number, change: (saga: SagaJson) => void) {
  const requests = OPERATIONS.slice(0, count).map((operation, i) =>
    requestOf(i === 0 ? ANNA : digestUuid(`request ${i}`), TENANT, `key ${i}`, operation),
  )
  const { decisions } = post(new MemoryState(), requests, { nowUs: 1_000, shard: 0, shardOf })
  const changed = decisions.map((decision, i) => {
    if (i < count - 1) return decision
    expect(decision.record.refusal).toBeNull()
    const result = JSON.parse(decision.record.result ?? '') as { saga: SagaJson }
    change(result.saga)
    return { ...decision, record: { ...decision.record, result: JSON.stringify(result) } }
  })
  const head = { number: 0, hash: GENESIS_HASH, timeUs: 0 }
  const block = sealBlock(head, changed, { shard: 0, writer: 'test', timeUs: 1_000 })
  const items: StoredItem[] = changed.map(({ request, record }, item) => ({
    ...{ ...record, scope: request.scope, key: request.key, item, target: null },
    leaf: block.leaves[item] ?? Buffer.alloc(0),
    arrivedAt: null,
    opened: item === 0 ? { tenantId: TENANT, kind: 'wallet', currency: 'EUR', overdraftLimit: '1000' } : null,
  }))
  const last = new Map<string, StoredLine>()
  const lines = changed.flatMap(({ entries }, item) =>
    entries.map((entry, line) => {
      const overdraftLimit = entry.accountId === ANNA ? 1_000n : null
      const account = { currency: entry.currency, overdraftLimit }
      const previous = last.get(entry.accountId) ?? null
      const stored: StoredLine = { ...entry, item, line, previous, isPreviousLater: false, account }
      last.set(entry.accountId, stored)
      return stored
    }),
  )
  return auditBlock(block, items, lines)
}

describe('the audit of a block', () => {
  test.each([2, 3])('finds nothing wrong with sagas as they were begun (%i requests)', (count) => {
    expect(findingAfter(count, () => {})).toBeUndefined()
  })

  const changes: [string, (saga: SagaJson) => void][] = [
    ['pays another wallet', (saga) => saga.legs.map((leg) => Object.assign(leg, { to: DAN }))],
    ['pays another amount', (saga) => saga.legs.map((leg) => Object.assign(leg, { amount: '51' }))],
    ['is another saga', (saga) => Object.assign(saga, { id: DAN })],
    ['has another coordinator', (saga) => Object.assign(saga, { shard: 1 })],
    ['is said to be of another kind of request', (saga) => Object.assign(saga, { as: 'release' })],
  ]
  test.each(changes)('finds a saga that %s than was asked for', (_, change) => {
    for (const count of [2, 3]) {
      expect(findingAfter(count, change)?.problem).toContain('of the saga that it began')
      expect(findingAfter(count, change)?.transaction).toBe(digestUuid(`request ${count - 1}`))
    }
  })
})
