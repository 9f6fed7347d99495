import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { headerHash } from '../../src/core/block.ts'
import { merkleRoot } from '../../src/core/merkle.ts'
import { parseTime } from '../../src/core/time.ts'
import { type Api, type Block, type Client, ID, openApi, type PageOf, TIME, type Transfer } from '../support/api.ts'
import { expectProblem } from './problem.ts'

type BlockWithRequests = Block & {
  requests: { item: number; transactionId: string; kind: string; refusal: string | null; leaf: string }[]
}
type Transaction = {
  id: string
  kind: string
  shard: number
  block: number
  item: number
  createdAt: string
  entries: { id: string; account: string; sequence: number; currency: string; amount: string; layer: string }[]
}

let api: Api
let client: Client

beforeAll(async () => {
  api = await openApi()
  client = api.alpha
})
afterAll(() => api.close())

const block = async (number: number, caller = client) =>
  (await caller.get<BlockWithRequests>(`/v1/ledger/blocks/0/${number}`)).body
const transaction = (id: string) => client.get<Transaction>(`/v1/transactions/${id}`)

describe('the chain', () => {
  test('is listed newest first, numbered without a gap, each block naming the hash of the one before', async () => {
    const [a, b] = [await client.wallet(10), await client.wallet()]
    for (let i = 0; i < 5; i++) await client.pay(a, b, 1)
    const blocks = await client.all<Block>('/v1/ledger/blocks', 3)
    expect(blocks.map(({ number }) => number)).toEqual(blocks.map((_, i) => blocks.length - i))
    expect(blocks).toHaveLength(await api.blockCount())
    blocks.forEach((newer, i) => {
      expect(newer.previousHash).toBe(blocks[i + 1]?.hash ?? '0'.repeat(64))
      expect(newer.time).toMatch(TIME)
    })
    const times = blocks.map(({ time }) => time)
    expect(times).toEqual([...times].sort().reverse())
    expect(new Set(times).size).toBe(times.length)
  })

  test('can be recomputed from what the API says of it', async () => {
    await Promise.all(Array.from({ length: 5 }, () => client.wallet(1)))
    const count = await api.blockCount()
    for (let number = 1; number <= count; number++) {
      const { requests, hash, ...header } = await block(number)
      const timeUs = parseTime(header.time) ?? 0
      const hex = (text: string) => Buffer.from(text, 'hex')
      const computed = headerHash({
        ...header,
        timeUs,
        previousHash: hex(header.previousHash),
        root: hex(header.root),
      })
      expect(computed.toString('hex')).toBe(hash)
      // All requests so far are this tenant's, so all leaves are there.
      expect(requests.map(({ item }) => item)).toEqual(requests.map((_, i) => i))
      expect(requests).toHaveLength(header.requestCount)
      expect(merkleRoot(requests.map(({ leaf }) => hex(leaf))).toString('hex')).toBe(header.root)
    }
  })

  test("shows each tenant its own requests in a block, and not the other's", async () => {
    const [a, b] = await Promise.all([client.wallet(), api.beta.wallet()])
    const mine: string[] = []
    const theirs: string[] = []
    const count = await api.blockCount()
    for (let number = 1; number <= count; number++) {
      mine.push(...(await block(number)).requests.map(({ transactionId }) => transactionId))
      theirs.push(...(await block(number, api.beta)).requests.map(({ transactionId }) => transactionId))
    }
    expect(mine).toContain(`txn_${a.slice(4)}`)
    expect(theirs).toEqual([`txn_${b.slice(4)}`])
  })

  test('records what was refused too, without entries', async () => {
    const [a, b] = [await client.wallet(), await client.wallet()]
    const before = await api.blockCount()
    const problem = expectProblem(await client.pay(a, b, 1), 'insufficient_funds')
    const { requests, entryCount } = await block(before + 1)
    expect(requests).toMatchObject([
      { kind: 'transfer', refusal: 'insufficient_funds', transactionId: `txn_${problem.transferId?.slice(4)}` },
    ])
    expect(entryCount).toBe(0)
  })

  test.each(['?shard=1', '/1/1', '/0/0', '/0/999999999', '/0/99999999999999999999', '/x/1', '/0/x', '/0/-1', '/0/1.0'])(
    'has nothing at %s',
    async (place) => {
      expectProblem(await client.get(`/v1/ledger/blocks${place}`), 'not_found')
    },
  )

  test.each(['shard=-1', 'shard=4096', 'shard=x', 'shard=0&number=1'])('cannot be asked for %s', async (query) => {
    expectProblem(await client.get(`/v1/ledger/blocks?${query}`), 'validation_failed')
  })

  test('can be walked while blocks are added, without missing or repeating one', async () => {
    const top = await api.blockCount()
    const seen: number[] = []
    let cursor = ''
    do {
      const { body } = await client.get<PageOf<Block>>(`/v1/ledger/blocks?limit=5${cursor && `&cursor=${cursor}`}`)
      seen.push(...body.data.map(({ number }) => number))
      cursor = body.nextCursor ?? ''
      await client.wallet()
    } while (cursor)
    expect(seen).toEqual(Array.from({ length: top }, (_, i) => top - i))
  })
})

describe('a transaction', () => {
  test('shows its entries, which sum to zero, and where in the chain it is', async () => {
    const [a, b] = [await client.wallet(10), await client.wallet()]
    const { body: paid } = await client.pay(a, b, 4)
    const { status, body } = await transaction(`txn_${paid.id.slice(4)}`)
    expect({ status, body }).toEqual({
      status: 200,
      body: {
        id: expect.stringMatching(ID('txn')),
        ...{ kind: 'transfer', shard: 0, block: await api.blockCount(), item: 0, createdAt: paid.createdAt },
        entries: [
          {
            id: `ent_${a.slice(4)}_2`,
            ...{ account: a, sequence: 2, currency: 'USD', amount: '-4', layer: 'posted', balanceAfter: '6' },
          },
          {
            id: `ent_${b.slice(4)}_1`,
            ...{ account: b, sequence: 1, currency: 'USD', amount: '4', layer: 'posted', balanceAfter: '4' },
          },
        ],
      },
    })
    const { requests } = await block(body.block)
    expect(requests[body.item]).toMatchObject({ transactionId: body.id, kind: 'transfer', refusal: null })
  })

  test('of a top-up has the cash account by its name', async () => {
    const wallet = await client.wallet()
    const id = await client.topUp(wallet, 9)
    const { body } = await transaction(`txn_${id.slice(4)}`)
    expect(body.entries.map(({ account, amount }) => ({ account, amount }))).toEqual([
      { account: 'cash', amount: '-9' },
      { account: wallet, amount: '9' },
    ])
  })

  test('of several legs and currencies sums to zero in each', async () => {
    const [a, b] = [await client.wallet(10), await client.wallet()]
    const [c, d] = [await client.wallet(900, { currency: 'JPY' }), await client.wallet(0, { currency: 'JPY' })]
    const { body: paid } = await client.call<Transfer>('POST', '/v1/transfers', {
      legs: [
        { from: a, to: b, amount: '10', currency: 'USD' },
        { from: c, to: d, amount: '900', currency: 'JPY' },
      ],
    })
    const { entries } = (await transaction(`txn_${paid.id.slice(4)}`)).body
    for (const currency of ['USD', 'JPY']) {
      const amounts = entries.filter((entry) => entry.currency === currency).map(({ amount }) => BigInt(amount))
      expect(amounts).toHaveLength(2)
      expect(amounts.reduce((sum, amount) => sum + amount, 0n)).toBe(0n)
    }
  })

  test('is not what was refused, or moved nothing', async () => {
    const [a, b] = [await client.wallet(), await client.wallet()]
    const { transferId = '' } = expectProblem(await client.pay(a, b, 1))
    expectProblem(await transaction(`txn_${transferId.slice(4)}`), 'not_found')
    expectProblem(await transaction(`txn_${a.slice(4)}`), 'not_found')
    expectProblem(await transaction('txn_00000000000070008000000000000000'), 'not_found')
    expectProblem(await transaction('x'), 'not_found')
  })
})
