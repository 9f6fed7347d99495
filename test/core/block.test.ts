import { describe, expect, test } from 'vitest'
import {
  type BlockHeader,
  blockTimeUs,
  type ChainHead,
  canonicalItem,
  GENESIS_HASH,
  headerHash,
  type Item,
  sealBlock,
} from '../../src/core/block.ts'
import { leafHash, merkleRoot } from '../../src/core/merkle.ts'
import type { Decision } from '../../src/core/post.ts'
import { requestOf } from '../../src/core/request.ts'
import type { Entry } from '../../src/core/workspace.ts'

const TENANT = idOf(1)
const ANNA = idOf(2)
const BEN = idOf(3)
const FIRST = idOf(4)
const SECOND = idOf(5)

function idOf(n: number): string {
  return `00000000-0000-7000-8000-00000000000${n}`
}

const ENTRIES: readonly Entry[] = [
  {
    ...{ accountId: ANNA, sequence: 7, currency: 'EUR', amount: -1250n, layer: 'posted' },
    ...{ posted: 9_223_372_036_854_775_807n, pendingOut: 3n, pendingIn: 0n },
  },
  {
    ...{ accountId: BEN, sequence: 1, currency: 'EUR', amount: 1250n, layer: 'posted' },
    ...{ posted: 1250n, pendingOut: 0n, pendingIn: 4n },
  },
]

/** Two requests as they were decided, one accepted and one refused; written out, so that they depend on nothing. */
function decisions(): [Decision, Decision] {
  const leg = { from: ANNA, to: BEN, amount: 1250n, currency: 'EUR' }
  const paying = requestOf(FIRST, TENANT, 'key "1"', { kind: 'transfer', legs: [leg], remarks: { memo: 'für dich' } })
  const releasing = requestOf(SECOND, TENANT, 'key 2', { kind: 'release', holdId: BEN })
  const timeUs = 1_700_000_000_000_001
  return [
    {
      request: paying,
      record: {
        id: FIRST,
        tenantId: TENANT,
        kind: 'transfer',
        payload: paying.payload,
        refusal: null,
        result: null,
        timeUs,
      },
      entries: ENTRIES,
    },
    {
      request: releasing,
      record: {
        ...{ id: SECOND, tenantId: TENANT, kind: 'release', payload: releasing.payload, timeUs },
        ...{ refusal: 'hold_not_found', result: '{"note":1}' },
      },
      entries: [],
    },
  ]
}

const HEAD: ChainHead = { number: 0, hash: GENESIS_HASH, timeUs: 0 }
const SEAL = { shard: 2, writer: 'writer-1', timeUs: 1_700_000_000_000_001 }

const ITEM: Item = {
  ...{ id: FIRST, tenantId: TENANT, scope: ANNA, key: 'k', kind: 'transfer', payload: '{"a":1}' },
  ...{ refusal: null, result: null, entries: ENTRIES },
}

describe('the canonical form of an item', () => {
  test('is this very text', () => {
    expect(canonicalItem(ITEM)).toBe(
      `[1,"${FIRST}","${TENANT}","${ANNA}","k","transfer","{\\"a\\":1}",null,null,[` +
        `["${ANNA}",7,"EUR","-1250","posted","9223372036854775807","3","0"],` +
        `["${BEN}",1,"EUR","1250","posted","1250","0","4"]]]`,
    )
  })

  const changes: Partial<Item>[] = [
    { id: SECOND },
    { tenantId: SECOND },
    { scope: BEN },
    { key: 'k2' },
    { kind: 'top-up' },
    { payload: '{"a": 1}' },
    { refusal: 'same_wallet' },
    { result: '' },
    { entries: [] },
    { entries: ENTRIES.toReversed() },
    ...(
      [
        { accountId: BEN },
        { sequence: 8 },
        { currency: 'USD' },
        { amount: 1250n },
        { layer: 'pending' },
        { posted: 1n },
        { pendingOut: 4n },
        { pendingIn: 1n },
      ] satisfies Partial<Entry>[]
    ).map((change) => ({ entries: ENTRIES.map((e, i) => (i === 0 ? { ...e, ...change } : e)) })),
  ]

  test.each(changes)('is another when a field is another (%#)', (change) => {
    expect(canonicalItem({ ...ITEM, ...change })).not.toBe(canonicalItem(ITEM))
  })

  test('tells every field of an item and of an entry, but for the time, which the header tells', () => {
    const changed = changes.flatMap((change) => Object.keys(change))
    expect(Object.keys(ITEM).filter((field) => !changed.includes(field))).toEqual([])
    const lines = JSON.parse(canonicalItem(ITEM))[9]
    expect(lines.map((line: unknown[]) => line.length)).toEqual(ENTRIES.map((entry) => Object.keys(entry).length))
  })

  test('does not let text move from one field to the next', () => {
    const a = canonicalItem({ ...ITEM, scope: 'x","y', key: 'z' })
    const b = canonicalItem({ ...ITEM, scope: 'x', key: 'y","z' })
    expect(a).not.toBe(b)
  })
})

describe('a block', () => {
  // these two were computed without this code, from the text of the canonical forms
  test('has this very hash, so that no change of the canonical form goes unnoticed', () => {
    const block = sealBlock(HEAD, decisions(), SEAL)
    expect(block.root.toString('hex')).toBe('bc109f08a6638f80d60117775c11d7358b63771a3831aefc72087bfef6c774ca')
    expect(block.hash.toString('hex')).toBe('4e1d3df0b42d16d3b3971609771a96ea981bdc3eb0ddacaa7621423113cb404c')
  })

  test('follows the head and says what it holds', () => {
    const head = { number: 41, hash: Buffer.alloc(32, 9), timeUs: SEAL.timeUs - 1 }
    const block = sealBlock(head, decisions(), SEAL)
    expect(block).toMatchObject({ ...SEAL, number: 42, previousHash: head.hash, requestCount: 2, entryCount: 2 })
    expect(block.hash).toEqual(headerHash(block))
    const items = block.decisions.map(({ request: { scope, key }, record, entries }) => ({
      ...record,
      scope,
      key,
      entries,
    }))
    expect(block.leaves).toEqual(items.map((item) => leafHash(canonicalItem(item))))
    expect(block.root).toEqual(merkleRoot(block.leaves))
  })

  const HEADER: Omit<BlockHeader, 'hash'> = sealBlock(HEAD, decisions(), SEAL)
  const changes: Partial<BlockHeader>[] = [
    { shard: 3 },
    { number: 2 },
    { previousHash: Buffer.alloc(32, 1) },
    { root: Buffer.alloc(32, 1) },
    { timeUs: SEAL.timeUs + 1 },
    { writer: 'writer-2' },
    { requestCount: 3 },
    { entryCount: 3 },
  ]

  test.each(changes)('has another hash when a field of the header is another (%#)', (change) => {
    expect(headerHash({ ...HEADER, ...change })).not.toEqual(headerHash(HEADER))
  })

  test('has a hash over every field of the header but the hash itself', () => {
    const { decisions: _decisions, leaves: _leaves, hash: _hash, ...header } = sealBlock(HEAD, decisions(), SEAL)
    expect(Object.keys(header).sort()).toEqual(changes.flatMap((change) => Object.keys(change)).sort())
  })

  test('has another hash when an item is another, is missing, or stands elsewhere', () => {
    const [paying, releasing] = decisions()
    const lists: Decision[][] = [
      [paying, releasing],
      [releasing, paying],
      [paying],
      [paying, releasing, releasing],
      [paying, { ...releasing, record: { ...releasing.record, refusal: 'hold_expired' } }],
      [paying, { ...releasing, record: { ...releasing.record, result: null } }],
      [paying, { ...releasing, request: { ...releasing.request, key: 'another' } }],
      [paying, { ...releasing, request: { ...releasing.request, scope: ANNA } }],
      [{ ...paying, entries: ENTRIES.slice(1) }, releasing],
    ]
    const hashes = lists.map((list) => sealBlock(HEAD, list, SEAL).hash.toString('hex'))
    expect(new Set(hashes).size).toBe(lists.length)
  })

  test('is chained: another block before it is another hash of it', () => {
    const heads = [HEAD, { ...HEAD, hash: Buffer.alloc(32, 1) }, { ...HEAD, number: 1 }]
    const hashes = heads.map((head) => sealBlock(head, decisions(), SEAL).hash.toString('hex'))
    expect(new Set(hashes).size).toBe(3)
  })

  test('is never empty', () => {
    expect(() => sealBlock(HEAD, [], SEAL)).toThrow('a block without requests')
  })

  test('is never as old as the block before', () => {
    for (const timeUs of [SEAL.timeUs, SEAL.timeUs + 1]) {
      expect(() => sealBlock({ ...HEAD, timeUs }, decisions(), SEAL)).toThrow('is not after')
    }
    expect(sealBlock({ ...HEAD, timeUs: SEAL.timeUs - 1 }, decisions(), SEAL).timeUs).toBe(SEAL.timeUs)
  })
})

test.each([
  ['the clock', 1_000, 2_000, 2_000],
  ['a microsecond after the block before, when the clock stands still', 1_000, 1_000, 1_001],
  ['a microsecond after the block before, when the clock went back', 1_000, 5, 1_001],
])('the time of a block is %s', (_what, before, clock, expected) => {
  expect(blockTimeUs({ ...HEAD, timeUs: before }, clock)).toBe(expected)
})
