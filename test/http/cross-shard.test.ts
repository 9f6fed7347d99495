import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { systemAccountId } from '../../src/core/account.ts'
import { formatId } from '../../src/core/ids.ts'
import type { ErrorCode } from '../../src/errors.ts'
import type { Answer, BatchResult, Entry, Hold, Transfer } from '../support/api.ts'
import { expectProblem } from './problem.ts'
import { expectAtRest, leg, openShards, type Placement, type Shards, Story } from './story.ts'

const MOST = 9_223_372_036_854_775_807n

let two: Shards
let three: Shards

beforeAll(async () => {
  ;[two, three] = await Promise.all([openShards(2), openShards(3)])
})
afterAll(() => Promise.all([two.close(), three.close()]))

type Plot = (story: Story) => Promise<unknown>

const TOGETHER: Placement = { a: 0, b: 0, c: 0, d: 0 }
const OVER_TWO: readonly Placement[] = [
  { a: 0, b: 1, c: 0, d: 1 },
  { a: 1, b: 0, c: 1, d: 0 },
  { a: 0, b: 1, c: 1, d: 0 },
  { a: 1, b: 1, c: 0, d: 0 },
]
const OVER_THREE: readonly Placement[] = [
  { a: 0, b: 1, c: 2, d: 1 },
  { a: 2, b: 0, c: 1, d: 2 },
]

async function told(shards: Shards, placement: Placement, plot: Plot): Promise<unknown[]> {
  const story = await Story.begin(shards, placement)
  await plot(story)
  return await story.end()
}

/** Within one shard, between two and between three: the client sees the same. */
async function expectSameEverywhere(plot: Plot): Promise<void> {
  const together = await told(two, TOGETHER, plot)
  const places = [
    ...OVER_TWO.map((place) => [two, place] as const),
    ...OVER_THREE.map((place) => [three, place] as const),
  ]
  const apart = await Promise.all(
    places.map(async ([shards, placement]) => ({ placement, seen: await told(shards, placement, plot) })),
  )
  for (const { placement, seen } of apart) expect(seen, `with ${JSON.stringify(placement)}`).toEqual(together)
}

function same(name: string, plot: Plot): void {
  test(name, () => expectSameEverywhere(plot))
}

const setStatus = (story: Story, wallet: string, status: string) =>
  story.call('PATCH', `/v1/wallets/${wallet}`, { status })
const setLimits = (story: Story, wallet: string, limits: object) =>
  story.call('PATCH', `/v1/wallets/${wallet}`, { limits })
const reverse = (story: Story, id: string, body: object = {}, key?: string) =>
  story.ask<Transfer>(`/v1/transfers/${id}/reverse`, body, key === undefined ? {} : { key })
const hold = (story: Story, walletId: string, to: string, amount: number, more: object = {}, key?: string) =>
  story.ask<Hold>(
    '/v1/holds',
    { walletId, to, amount: `${amount}`, currency: 'USD', ...more },
    key === undefined ? {} : { key },
  )
const capture = (story: Story, id: string, body: object = {}, key?: string) =>
  story.ask<Hold>(`/v1/holds/${id}/capture`, body, key === undefined ? {} : { key })
const release = (story: Story, id: string, key?: string) =>
  story.ask<Hold>(`/v1/holds/${id}/release`, {}, key === undefined ? {} : { key })

/** An id, as it was answered with 200 or 201. */
async function made(answer: Promise<Answer<unknown>>): Promise<string> {
  const { status, body, text } = await answer
  if (status >= 300 || status === 202) throw new Error(`not done: ${status} ${text}`)
  return (body as { id: string }).id
}

describe('between shards as within one, a transfer', () => {
  same('goes through, with all that the client said about it', async (story) => {
    const [a, b] = [await story.wallet('a', 100), await story.wallet('b', 5)]
    const more = { memo: 'lunch', metadata: { z: '1', a: '2' }, effectiveAt: '2026-01-01T00:00:00Z' }
    expect(await made(story.pay(a, b, 30, {}, more))).toMatch(/^trf_/)
    await made(story.pay(b, a, 35))
    await made(story.pay(a, b, 105))
  })

  same('may be one of many', async (story) => {
    const [a, b, c] = [await story.wallet('a', 100), await story.wallet('b', 100), await story.wallet('c', 100)]
    for (let i = 1; i <= 5; i++) {
      await made(story.pay(a, b, i))
      await made(story.pay(b, c, i * 2))
      await made(story.pay(c, a, i * 3))
    }
  })

  same('leaves the payer wallet so that it can be emptied and closed', async (story) => {
    const [a, b] = [await story.wallet('a', 100), await story.wallet('b')]
    await made(story.pay(a, b, 100))
    await made(setStatus(story, a, 'closed'))
    expectProblem(await setStatus(story, b, 'closed'), 'wallet_not_empty')
    expectProblem(await story.pay(b, a, 1), 'wallet_closed')
  })
})

/** Each makes the wallets and asks for what is refused; whose shard sees it. */
const REFUSALS: readonly [ErrorCode, string, Plot][] = [
  [
    'currency_mismatch',
    "by the payer's wallet",
    async (story) => {
      const [a, b] = [await story.wallet('a', 9), await story.wallet('b', 9, { currency: 'JPY' })]
      return await story.ask('/v1/transfers', leg(a, b, 1, 'JPY'))
    },
  ],
  [
    'currency_mismatch',
    "by the payee's wallet",
    async (story) => {
      const [a, b] = [await story.wallet('a', 9), await story.wallet('b', 9, { currency: 'JPY' })]
      return await story.ask('/v1/transfers', leg(a, b, 1, 'USD'))
    },
  ],
  [
    'from_not_found',
    "on the payer's shard",
    async (story) => {
      return await story.pay(await story.nobody('a'), await story.wallet('b'), 1)
    },
  ],
  [
    'to_not_found',
    "on the payee's shard",
    async (story) => {
      return await story.pay(await story.wallet('a', 9), await story.nobody('b'), 1)
    },
  ],
  [
    'from_not_found',
    "for another tenant's wallet",
    async (story) => {
      return await story.pay(await story.strangersWallet('a', 9), await story.wallet('b'), 1)
    },
  ],
  [
    'to_not_found',
    "for another tenant's wallet",
    async (story) => {
      return await story.pay(await story.wallet('a', 9), await story.strangersWallet('b'), 1)
    },
  ],
  [
    'wallet_closed',
    'of a closed payer',
    async (story) => {
      const [a, b] = [await story.wallet('a'), await story.wallet('b')]
      await setStatus(story, a, 'closed')
      return await story.pay(a, b, 1)
    },
  ],
  [
    'wallet_closed',
    'of a closed payee',
    async (story) => {
      const [a, b] = [await story.wallet('a', 9), await story.wallet('b')]
      await setStatus(story, b, 'closed')
      return await story.pay(a, b, 1)
    },
  ],
  [
    'wallet_frozen',
    'of a frozen payer',
    async (story) => {
      const [a, b] = [await story.wallet('a', 9), await story.wallet('b')]
      await setStatus(story, a, 'frozen')
      return await story.pay(a, b, 1)
    },
  ],
  [
    'wallet_frozen',
    'of a frozen payee',
    async (story) => {
      const [a, b] = [await story.wallet('a', 9), await story.wallet('b')]
      await setStatus(story, b, 'frozen')
      return await story.pay(a, b, 1)
    },
  ],
  [
    'limit_exceeded',
    'by what the payer may send',
    async (story) => {
      const [a, b] = [await story.wallet('a', 9, { limits: { transferMax: '5' } }), await story.wallet('b')]
      await made(story.pay(a, b, 3))
      return await story.pay(a, b, 6)
    },
  ],
  [
    'limit_exceeded',
    'by what the payee may hold',
    async (story) => {
      const [a, b] = [await story.wallet('a', 9), await story.wallet('b', 2, { limits: { balanceMax: '5' } })]
      await made(story.pay(a, b, 3))
      return await story.pay(a, b, 1)
    },
  ],
  [
    'insufficient_funds',
    'of a payer who has too little',
    async (story) => {
      const [a, b] = [await story.wallet('a', 9, { overdraftLimit: '1' }), await story.wallet('b')]
      await made(story.pay(a, b, 10))
      return await story.pay(a, b, 1)
    },
  ],
  [
    'balance_overflow',
    'of a payer who has sent too much in all',
    async (story) => {
      const [a, b] = [await story.wallet('a', 1, { overdraftLimit: `${MOST}` }), await story.wallet('b')]
      await made(story.ask('/v1/withdrawals', { walletId: a, amount: `${MOST}`, currency: 'USD' }))
      return await story.pay(a, b, 1)
    },
  ],
  [
    'balance_overflow',
    'of a payee who has got too much in all',
    async (story) => {
      const [a, b] = [await story.wallet('a', 0, { overdraftLimit: `${MOST}` }), await story.wallet('b', MOST)]
      return await story.pay(a, b, 1)
    },
  ],
]

describe('between shards as within one, what two wallets refuse', () => {
  test.each(REFUSALS)('is %s %s', async (code, _, plot) => {
    await expectSameEverywhere(async (story) => {
      const problem = expectProblem((await plot(story)) as Answer<unknown>, code)
      expect(problem.transferId).toMatch(/^trf_/)
    })
  })

  // Holds meet the same checks; those that only the payee's shard knows are the ones that can go wrong.
  const holdRefusals: readonly [ErrorCode, Plot][] = [
    [
      'currency_mismatch',
      async (story) => hold(story, await story.wallet('a', 9), await story.wallet('b', 0, { currency: 'JPY' }), 1),
    ],
    ['to_not_found', async (story) => hold(story, await story.wallet('a', 9), await story.nobody('b'), 1)],
    ['to_not_found', async (story) => hold(story, await story.wallet('a', 9), await story.strangersWallet('b'), 1)],
    ['from_not_found', async (story) => hold(story, await story.nobody('a'), await story.wallet('b'), 1)],
    [
      'limit_exceeded',
      async (story) =>
        hold(story, await story.wallet('a', 9), await story.wallet('b', 0, { limits: { balanceMax: '1' } }), 2),
    ],
    [
      'limit_exceeded',
      async (story) =>
        hold(story, await story.wallet('a', 9, { limits: { transferMax: '1' } }), await story.wallet('b'), 2),
    ],
    ['insufficient_funds', async (story) => hold(story, await story.wallet('a', 9), await story.wallet('b'), 10)],
    [
      'balance_overflow',
      async (story) =>
        hold(story, await story.wallet('a', 0, { overdraftLimit: '9' }), await story.wallet('b', MOST), 1),
    ],
    [
      'wallet_frozen',
      async (story) => {
        const [a, b] = [await story.wallet('a', 9), await story.wallet('b')]
        await setStatus(story, b, 'frozen')
        return await hold(story, a, b, 1)
      },
    ],
    [
      'wallet_closed',
      async (story) => {
        const [a, b] = [await story.wallet('a', 9), await story.wallet('b')]
        await setStatus(story, b, 'closed')
        return await hold(story, a, b, 1)
      },
    ],
  ]
  test.each(holdRefusals)('is %s for a hold (%#)', async (code, plot) => {
    await expectSameEverywhere(async (story) => expectProblem((await plot(story)) as Answer<unknown>, code))
  })
})

describe('between shards as within one, a transfer of several legs', () => {
  const legs = (story: Story, list: object[], key?: string) =>
    story.ask<Transfer>('/v1/transfers', { legs: list, memo: 'split' }, key === undefined ? {} : { key })

  same('goes through whole', async (story) => {
    const [a, b, c] = [await story.wallet('a', 100), await story.wallet('b', 50), await story.wallet('c', 10)]
    await made(legs(story, [leg(a, b, 60), leg(b, c, 50), leg(c, a, 10), leg(a, c, 20)]))
  })

  same('may take from one for many, and from many for one', async (story) => {
    const [a, b, c] = [await story.wallet('a', 100), await story.wallet('b', 10), await story.wallet('c', 10)]
    await made(legs(story, [leg(a, b, 60), leg(a, c, 40)]))
    await made(legs(story, [leg(b, a, 70), leg(c, a, 50)]))
  })

  same('may exchange currencies', async (story) => {
    const yen = { currency: 'JPY' }
    const [a, b] = [await story.wallet('a', 100), await story.wallet('b')]
    const [c, d] = [await story.wallet('c', 15_000, yen), await story.wallet('d', 0, yen)]
    await made(legs(story, [leg(a, b, 100), leg(c, d, 15_000, 'JPY')]))
  })

  same('from a wallet to itself is refused, wherever that wallet is', async (story) => {
    const [a, b, c] = [await story.wallet('a', 100), await story.wallet('b', 9), await story.wallet('c')]
    expectProblem(await legs(story, [leg(a, c, 1), leg(b, b, 1)]), 'same_wallet')
  })

  test.each([0, 1, 2])('moves nothing when the payer of leg %i has too little', async (short) => {
    await expectSameEverywhere(async (story) => {
      const funds = (leg: number) => (leg === short ? 9 : 100)
      const [a, b] = [await story.wallet('a', funds(0)), await story.wallet('b', funds(1))]
      const [c, d] = [await story.wallet('c', funds(2)), await story.wallet('d')]
      expectProblem(await legs(story, [leg(a, d, 10), leg(b, d, 10), leg(c, d, 10)]), 'insufficient_funds')
    })
  })

  test.each([0, 1, 2])('moves nothing when the payee of leg %i may hold no more', async (full) => {
    await expectSameEverywhere(async (story) => {
      const limits = (leg: number) => (leg === full ? { limits: { balanceMax: '9' } } : {})
      const a = await story.wallet('a', 100)
      const [b, c, d] = [
        await story.wallet('b', 0, limits(0)),
        await story.wallet('c', 0, limits(1)),
        await story.wallet('d', 0, limits(2)),
      ]
      expectProblem(await legs(story, [leg(a, b, 10), leg(a, c, 10), leg(a, d, 10)]), 'limit_exceeded')
    })
  })

  test.each([0, 1, 2])('moves nothing when the payee of leg %i is frozen', async (frozen) => {
    await expectSameEverywhere(async (story) => {
      const wallets = [await story.wallet('a', 100), await story.wallet('b', 100), await story.wallet('c', 100)]
      const [a = '', b = '', c = ''] = wallets
      await setStatus(story, wallets[(frozen + 1) % 3] ?? '', 'frozen')
      expectProblem(await legs(story, [leg(a, b, 10), leg(b, c, 10), leg(c, a, 10)]), 'wallet_frozen')
    })
  })
})

describe('between shards as within one, a batch', () => {
  const batch = (story: Story, transfers: object[]) =>
    story.ask<{ results: BatchResult[] }>('/v1/transfers/batch', { transfers }, { key: null })
  const item = (from: string, to: string, amount: number, idempotencyKey: string) => ({
    ...leg(from, to, amount),
    idempotencyKey,
  })

  same('decides each of its items on its own', async (story) => {
    const [a, b, c] = [await story.wallet('a', 100), await story.wallet('b'), await story.wallet('c', 5)]
    await setStatus(story, b, 'frozen')
    const { body } = await batch(story, [
      item(a, c, 60, '1'),
      item(a, b, 10, '2'),
      item(a, c, 100, '3'),
      item(a, await story.nobody('b'), 1, '4'),
      item(a, a, 1, '5'),
      { idempotencyKey: '6', legs: [leg(a, c, 1), leg(c, a, 2)] },
    ])
    expect(body.results.map(({ status, problem }) => problem?.code ?? status)).toEqual([
      ...[201, 'wallet_frozen', 'insufficient_funds', 'to_not_found', 'same_wallet', 201],
    ])
  })

  same('that comes again has no effect and gets the same answers', async (story) => {
    const [a, b, c] = [await story.wallet('a', 100), await story.wallet('b'), await story.wallet('c')]
    await setStatus(story, c, 'frozen')
    const items = [item(a, b, 60, '1'), item(a, c, 1, '2'), item(a, b, 60, '3')]
    await batch(story, items)
    const { body } = await batch(story, items)
    expect(body.results.map(({ status, replayed }) => [status, replayed])).toEqual([
      [201, true],
      [422, true],
      [422, true],
    ])
  })

  same('with one key twice moves money once', async (story) => {
    const [a, b] = [await story.wallet('a', 100), await story.wallet('b')]
    await batch(story, [item(a, b, 10, 'k'), item(a, b, 10, 'k'), item(a, b, 20, 'k')])
  })

  test('takes a thousand transfers to another shard, and as many as the money is enough for', async () => {
    const story = await Story.begin(two, { a: 0, b: 1 })
    const [a, b] = [await story.wallet('a', 600), await story.wallet('b')]
    const { body } = await batch(
      story,
      Array.from({ length: 1_000 }, (_, i) => item(a, b, 1, `${i}`)),
    )
    expect(body.results.map(({ status }) => status)).toEqual([...Array(600).fill(201), ...Array(400).fill(422)])
    expect([await story.client.available(a), await story.client.available(b)]).toEqual([0n, 600n])
    await expectAtRest(two, story.tenantId)
  })

  test('may have transfers of a hundred legs over three shards', async () => {
    const story = await Story.begin(three, { a: 0, b: 1, c: 2 })
    const [a, b, c] = [await story.wallet('a', 100), await story.wallet('b', 100), await story.wallet('c')]
    const legs = Array.from({ length: 100 }, (_, i) => leg(i % 2 === 0 ? a : b, c, 1))
    const { body } = await batch(story, [
      { legs, idempotencyKey: '1' },
      { legs, idempotencyKey: '2' },
      { legs, idempotencyKey: '3' },
    ])
    expect(body.results.map(({ status }) => status).sort()).toEqual([201, 201, 422])
    expect(await story.client.available(c)).toBe(200n)
    await expectAtRest(three, story.tenantId)
  })
})

describe('between shards as within one, a hold', () => {
  const parties = async (story: Story) => [await story.wallet('a', 100), await story.wallet('b', 7)] as const

  same('keeps money from being spent, and from being closed away', async (story) => {
    const [a, b] = await parties(story)
    await made(hold(story, a, b, 60))
    expectProblem(await story.pay(a, b, 41), 'insufficient_funds')
    expectProblem(await story.pay(b, a, 8), 'insufficient_funds')
    await made(story.pay(b, a, 7))
    expectProblem(await setStatus(story, b, 'closed'), 'wallet_not_empty')
  })

  same('counts against what the payee may hold', async (story) => {
    const [a, b] = await parties(story)
    await setLimits(story, b, { balanceMax: '67' })
    await made(hold(story, a, b, 60))
    expectProblem(await story.pay(a, b, 1), 'limit_exceeded')
  })

  same('can be captured in full, once', async (story) => {
    const [a, b] = await parties(story)
    const id = await made(hold(story, a, b, 60))
    expectProblem(await capture(story, id, { amount: '61' }), 'exceeds_hold')
    await made(capture(story, id))
    expectProblem(await capture(story, id), 'hold_already_captured')
    expectProblem(await release(story, id), 'hold_already_captured')
  })

  same('can be captured in part, and the rest is free', async (story) => {
    const [a, b] = await parties(story)
    const id = await made(hold(story, a, b, 60))
    await made(capture(story, id, { amount: '25' }))
    await made(story.pay(a, b, 75))
  })

  same('can be released, once', async (story) => {
    const [a, b] = await parties(story)
    const id = await made(hold(story, a, b, 60))
    await made(release(story, id))
    expectProblem(await release(story, id), 'hold_already_released')
    expectProblem(await capture(story, id), 'hold_already_released')
    await made(story.pay(a, b, 100))
  })

  same('expires by itself', async (story) => {
    const [a, b] = await parties(story)
    const id = await made(hold(story, a, b, 60, { expiresInSeconds: 1 }))
    await until(async () => {
      const { body } = await story.client.get<Hold>(`/v1/holds/${id}`)
      return body.status === 'expired' && (await story.client.balance(b)).pendingIn === '0'
    })
    // Nobody was told of its end: its last step comes after all that can be seen of it.
    await story.untilAtRest()
    expectProblem(await capture(story, id), 'hold_expired')
    expectProblem(await release(story, id), 'hold_expired')
  })

  same('waits while the payee is frozen, and letting go does not', async (story) => {
    const [a, b] = await parties(story)
    const [id, other] = [await made(hold(story, a, b, 60)), await made(hold(story, a, b, 40))]
    await setStatus(story, b, 'frozen')
    expectProblem(await capture(story, id, {}, 'c'), 'wallet_frozen')
    expectProblem(await capture(story, id, {}, 'c'), 'wallet_frozen')
    await made(release(story, other))
    await setStatus(story, b, 'active')
    expectProblem(await capture(story, id, {}, 'c'), 'wallet_frozen')
    await made(capture(story, id))
  })

  same('waits while the payer is frozen', async (story) => {
    const [a, b] = await parties(story)
    const id = await made(hold(story, a, b, 60))
    await setStatus(story, a, 'frozen')
    expectProblem(await capture(story, id), 'wallet_frozen')
    await made(release(story, id))
  })

  same('is answered the same when its calls come again', async (story) => {
    const [a, b] = await parties(story)
    const id = await made(hold(story, a, b, 60, {}, 'h'))
    await made(capture(story, id, { amount: '10' }, 'c'))
    await made(hold(story, a, b, 60, {}, 'h'))
    await made(capture(story, id, { amount: '10' }, 'c'))
    expectProblem(await capture(story, id, { amount: '11' }, 'c'), 'idempotency_key_reused')
    expectProblem(await release(story, id, 'c'), 'idempotency_key_reused')
    expectProblem(await hold(story, a, b, 61, {}, 'h'), 'idempotency_key_reused')
  })

  same('is not there for another tenant', async (story) => {
    const [a, b] = await parties(story)
    const id = await made(hold(story, a, b, 60))
    const stranger = (await Story.begin(two, TOGETHER)).client
    for (const what of ['capture', 'release']) story.see(await stranger.call('POST', `/v1/holds/${id}/${what}`, {}))
    story.see(await stranger.get(`/v1/holds/${id}`))
  })

  test.each(OVER_TWO.slice(0, 2))('is captured or released, when both are asked at once (%j)', async (place) => {
    for (let round = 0; round < 4; round++) {
      const story = await Story.begin(two, place)
      const [a, b] = await parties(story)
      const id = await made(hold(story, a, b, 60))
      const ask = (what: string) => story.client.call<Hold>('POST', `/v1/holds/${id}/${what}`, {})
      const answers = await Promise.all(['capture', 'release', 'capture', 'release'].map(ask))
      expect(answers.filter(({ status }) => status === 200)).toHaveLength(1)
      const { body } = await story.client.get<Hold>(`/v1/holds/${id}`)
      expect(await story.client.available(b)).toBe(7n + BigInt(body.captured))
      await story.end()
    }
  })
})

describe('between shards as within one, a reversal', () => {
  same('takes a transfer back in full, once', async (story) => {
    const [a, b] = [await story.wallet('a', 100), await story.wallet('b')]
    const id = await made(story.pay(a, b, 60, {}, { memo: 'rent' }))
    const reversal = await made(reverse(story, id))
    expectProblem(await reverse(story, id), 'already_reversed')
    expectProblem(await reverse(story, reversal), 'transfer_not_found')
  })

  same('takes it back in parts, never more than was moved', async (story) => {
    const [a, b] = [await story.wallet('a', 100), await story.wallet('b', 50)]
    const id = await made(story.pay(a, b, 60))
    expectProblem(await reverse(story, id, { amount: '61' }), 'exceeds_reversible')
    await made(reverse(story, id, { amount: '20' }))
    expectProblem(await reverse(story, id, { amount: '41' }), 'exceeds_reversible')
    await made(reverse(story, id))
    expectProblem(await reverse(story, id, { amount: '1' }), 'already_reversed')
  })

  same('of several legs is in full only', async (story) => {
    const [a, b, c] = [await story.wallet('a', 100), await story.wallet('b', 50), await story.wallet('c', 50)]
    const id = await made(story.ask('/v1/transfers', { legs: [leg(a, b, 60), leg(b, c, 50), leg(a, c, 5)] }))
    expectProblem(await reverse(story, id, { amount: '10' }), 'exceeds_reversible')
    await made(reverse(story, id))
    expectProblem(await reverse(story, id), 'already_reversed')
  })

  same('refused for lack of money is possible again when the money is there', async (story) => {
    const [a, b, c] = [await story.wallet('a', 100), await story.wallet('b'), await story.wallet('c')]
    const id = await made(story.pay(a, b, 60))
    await made(story.pay(b, c, 1))
    expectProblem(await reverse(story, id, {}, 'r'), 'insufficient_funds')
    expectProblem(await reverse(story, id, {}, 'r'), 'insufficient_funds')
    story.see(await story.client.get(`/v1/transfers/${id}`))
    await made(reverse(story, id, { amount: '59' }))
    expectProblem(await reverse(story, id, { amount: '2' }), 'exceeds_reversible')
    await made(story.pay(c, b, 1))
    await made(reverse(story, id))
  })

  same('of several legs that one of them refuses takes nothing back, and is possible later', async (story) => {
    const [a, b, c] = [await story.wallet('a', 100), await story.wallet('b'), await story.wallet('c')]
    const id = await made(story.ask('/v1/transfers', { legs: [leg(a, b, 60), leg(a, c, 40)] }))
    await setStatus(story, b, 'frozen')
    expectProblem(await reverse(story, id), 'wallet_frozen')
    await setStatus(story, b, 'active')
    await made(reverse(story, id))
  })

  same('of what was refused is refused', async (story) => {
    const [a, b] = [await story.wallet('a', 100), await story.wallet('b')]
    await setStatus(story, b, 'frozen')
    const { transferId = '' } = expectProblem(await story.pay(a, b, 60), 'wallet_frozen')
    expectProblem(await reverse(story, transferId), 'transfer_not_found')
  })

  test.each(OVER_TWO.slice(0, 2))('asked ten times at once gives no more than the whole (%j)', async (place) => {
    const story = await Story.begin(two, place)
    const [a, b] = [await story.wallet('a', 100), await story.wallet('b', 500)]
    const id = await made(story.pay(a, b, 100))
    const ask = () => story.client.call('POST', `/v1/transfers/${id}/reverse`, { amount: '30' })
    const answers = await Promise.all(Array.from({ length: 10 }, ask))
    expect(answers.map(({ status }) => status).sort()).toEqual([...Array(3).fill(201), ...Array(7).fill(422)])
    expect([await story.client.available(a), await story.client.available(b)]).toEqual([90n, 510n])
    await story.end()
  })
})

describe('between shards as within one, a key', () => {
  same('gets the answer again that it got, whatever that was', async (story) => {
    const [a, b, c] = [await story.wallet('a', 100), await story.wallet('b'), await story.wallet('c')]
    await setStatus(story, c, 'frozen')
    for (let i = 0; i < 2; i++) {
      const replayed = i === 0 ? undefined : 'true'
      const paid = await story.pay(a, b, 10, { key: 'accepted' })
      const refused = await story.pay(a, b, 1_000, { key: 'refused here' })
      const compensated = await story.pay(a, c, 10, { key: 'refused there' })
      for (const { headers } of [paid, refused, compensated]) expect(headers['idempotency-replayed']).toBe(replayed)
      await setStatus(story, c, 'active')
    }
    expectProblem(await story.pay(a, b, 11, { key: 'accepted' }), 'idempotency_key_reused')
    expectProblem(await story.pay(a, b, 11, { key: 'refused here' }), 'idempotency_key_reused')
    expectProblem(await story.pay(a, c, 11, { key: 'refused there' }), 'idempotency_key_reused')
    expectProblem(await hold(story, a, b, 10, {}, 'accepted'), 'idempotency_key_reused')
  })

  same('that ten callers send at once moves money once', async (story) => {
    const [a, b] = [await story.wallet('a', 100), await story.wallet('b')]
    const answers = await Promise.all(Array.from({ length: 10 }, () => story.client.pay(a, b, 10, { key: 'k' })))
    expect(new Set(answers.map(({ text }) => text)).size).toBe(1)
    expect(answers.filter(({ headers }) => headers['idempotency-replayed'] === 'true')).toHaveLength(9)
    const [answer] = answers
    if (answer) story.see({ ...answer, headers: {} })
  })

  same('that ten callers send at once is refused to all, and moves nothing', async (story) => {
    const [a, b] = [await story.wallet('a', 100), await story.wallet('b')]
    await setStatus(story, b, 'frozen')
    const answers = await Promise.all(Array.from({ length: 10 }, () => story.client.pay(a, b, 10, { key: 'k' })))
    expect(new Set(answers.map(({ body }) => (body as { transferId?: string }).transferId)).size).toBe(1)
    for (const answer of answers) expectProblem(answer, 'wallet_frozen')
  })
})

describe('of two reasons, one on each shard, the one that comes first in the list is said', () => {
  const across = { a: 0, b: 1, c: 0, d: 1 }
  const both: readonly [ErrorCode, string, (story: Story, a: string, b: string) => Promise<unknown>][] = [
    ['wallet_frozen', 'not insufficient_funds', (story, _, b) => setStatus(story, b, 'frozen')],
    ['wallet_closed', 'not insufficient_funds', (story, _, b) => setStatus(story, b, 'closed')],
    [
      'wallet_closed',
      'not wallet_frozen',
      async (story, a, b) => {
        await setStatus(story, a, 'frozen')
        await setStatus(story, b, 'closed')
      },
    ],
  ]
  test.each(both)("the payee's %s, %s", async (code, _, setUp) => {
    for (const place of [across, TOGETHER]) {
      const story = await Story.begin(two, place)
      const [a, b] = [await story.wallet('a', 10), await story.wallet('b')]
      await setUp(story, a, b)
      expectProblem(await story.pay(a, b, 11), code)
      await story.end()
    }
  })

  test.each([
    ['currency_mismatch', 'JPY'],
    ['to_not_found', undefined],
  ] as const)("the payee's %s, not the payer's wallet_closed", async (code, currency) => {
    for (const place of [across, TOGETHER]) {
      const story = await Story.begin(two, place)
      const a = await story.wallet('a')
      const b = currency ? await story.wallet('b', 0, { currency }) : await story.nobody('b')
      await setStatus(story, a, 'closed')
      expectProblem(await story.pay(a, b, 11), code)
      await story.end()
    }
  })
})

describe('what a client can tell two shards by', () => {
  const across = { a: 0, b: 1, c: 0, d: 1 }

  test('a transfer that the payee refused reads `compensated`, one that the payer refused `refused`', async () => {
    const story = await Story.begin(two, across)
    const [a, b] = [await story.wallet('a', 10), await story.wallet('b')]
    const here = expectProblem(await story.pay(a, b, 11), 'insufficient_funds')
    await setStatus(story, b, 'frozen')
    const there = expectProblem(await story.pay(a, b, 1), 'wallet_frozen')
    const read = async (id?: string) => (await story.client.get<Transfer>(`/v1/transfers/${id}`)).body
    expect(await read(here.transferId)).toMatchObject({ status: 'refused', refusal: 'insufficient_funds' })
    const compensated = { status: 'compensated', refusal: 'wallet_frozen', completedAt: null }
    expect(await read(there.transferId)).toMatchObject(compensated)
    await story.end()
  })

  // Where the wallets are on one shard, the limit comes first.
  const both: readonly [ErrorCode, ErrorCode, (story: Story, a: string, b: string) => Promise<unknown>][] = [
    ['insufficient_funds', 'limit_exceeded', (story, _, b) => setLimits(story, b, { balanceMax: '1' })],
  ]
  test.each(both)('balances are asked for on the first shard first: %s comes before %s', async (here, there, setUp) => {
    for (const [place, code] of [
      [across, here],
      [TOGETHER, there],
    ] as const) {
      const story = await Story.begin(two, place)
      const [a, b] = [await story.wallet('a', 10), await story.wallet('b')]
      await setUp(story, a, b)
      expectProblem(await story.pay(a, b, 11), code)
      await story.end()
    }
  })

  test('a leg spends what an earlier leg brings on one shard only; the money is not there before all have agreed', async () => {
    for (const [shards, place, done] of [
      [two, TOGETHER, true],
      [two, { a: 0, b: 1, c: 0 }, true],
      [two, { a: 0, b: 0, c: 1 }, false],
      [three, { a: 0, b: 1, c: 2 }, false],
    ] as const) {
      const story = await Story.begin(shards, place)
      const [a, b, c] = [await story.wallet('a', 10), await story.wallet('b'), await story.wallet('c')]
      const answer = await story.ask('/v1/transfers', { legs: [leg(a, b, 10), leg(b, c, 10)] })
      if (done) expect(answer.status, JSON.stringify(place)).toBe(201)
      else expectProblem(answer, 'insufficient_funds')
      await story.end()
    }
  })

  test('a refusal names the leg, whichever shard refuses', async () => {
    const story = await Story.begin(two, { a: 0, b: 1 })
    const [a, b] = [await story.wallet('a', 10), await story.wallet('b')]
    const here = await story.ask('/v1/transfers', { legs: [leg(a, b, 1), leg(a, b, 10)] })
    expect(expectProblem(here, 'insufficient_funds').leg).toBe(1)
    const there = await story.ask('/v1/transfers', { legs: [leg(a, b, 1), leg(b, a, 10)] })
    expect(expectProblem(there, 'insufficient_funds').leg).toBe(1)
    await story.end()
  })

  test('the trail has a transaction for each step, on its own shard, and each of them sums to zero', async () => {
    const story = await Story.begin(two, across)
    const [a, b] = [await story.wallet('a', 10), await story.wallet('b')]
    const id = await made(story.pay(a, b, 4))
    const last = async (wallet: string) => (await story.client.all<Entry>(`/v1/wallets/${wallet}/entries`))[0]
    const read = async (transactionId?: string) =>
      (await story.client.get<Transaction>(`/v1/transactions/${transactionId}`)).body
    const lines = ({ kind, shard, entries }: Transaction) => ({
      ...{ kind, shard },
      lines: entries.map(({ account, amount, layer }) => `${account} ${amount} ${layer}`),
    })
    expect(lines(await read(`txn_${id.slice(4)}`))).toEqual({
      ...{ kind: 'transfer', shard: 0, lines: [`${a} -4 pending`, 'transit:1 4 pending'] },
    })
    const paid = await read((await last(a))?.transactionId)
    expect(lines(paid)).toEqual({
      ...{ kind: 'saga-finalize', shard: 0 },
      lines: [`${a} 4 pending`, 'transit:1 -4 pending', `${a} -4 posted`, 'transit:1 4 posted'],
    })
    const got = await read((await last(b))?.transactionId)
    expect(lines(got)).toEqual({
      ...{ kind: 'saga-commit', shard: 1, lines: ['transit:0 -4 posted', `${b} 4 posted`] },
    })
    const stranger = (await Story.begin(two, across)).client
    for (const transaction of [paid, got]) {
      expectProblem(await stranger.get(`/v1/transactions/${transaction.id}`), 'not_found')
    }
    await story.end()
  })
})

test('nobody can pay into a transit account, though its id can be worked out', async () => {
  const story = await Story.begin(two, { a: 0, b: 1 })
  const [a, b] = [await story.wallet('a', 10), await story.wallet('b')]
  await made(story.pay(a, b, 4))
  for (const [shard, peer] of [
    [0, 1],
    [1, 0],
  ] as const) {
    const place = { tenantId: story.tenantId, shard, kind: 'transit', currency: 'USD', peer } as const
    const transit = formatId('wal', systemAccountId(place))
    expectProblem(await story.pay(a, transit, 1), 'to_not_found')
    expectProblem(await story.pay(transit, b, 1), 'from_not_found')
    expectProblem(await hold(story, b, transit, 1), 'to_not_found')
    expectProblem(await story.client.get(`/v1/wallets/${transit}/balance`), 'not_found')
  }
  await story.end()
})

type Transaction = {
  id: string
  kind: string
  shard: number
  entries: { account: string; amount: string; layer: string }[]
}

async function until(isSo: () => Promise<boolean>): Promise<void> {
  for (let i = 0; i < 1_200; i++) {
    if (await isSo()) return
    await sleep(50)
  }
  throw new Error('it did not happen within a minute')
}
