import { describe, expect, it } from 'vitest'
import { LIFETIMES, lifetimeMs } from '../../src/cache/cache.ts'
import { createMemoryCache } from '../../src/cache/memoryCache.ts'
import { balanceAt, describeCache, missing } from './contract.ts'

describeCache('in memory', async () => {
  let nowMs = 1
  const cache = createMemoryCache({ now: () => nowMs })
  return {
    cache,
    other: cache,
    async age() {
      nowMs += LIFETIMES.balanceMs * 2
    },
    close: () => cache.close(),
  }
})

describe('the balance cache in memory', () => {
  it('holds so many wallets and no more, those that were read last', async () => {
    const cache = createMemoryCache({ entriesMax: 2 })
    await cache.write([balanceAt('a', 1), balanceAt('b', 1)])
    await cache.read('a')
    await cache.write([balanceAt('c', 1)])
    expect(await Promise.all(['a', 'b', 'c'].map((id) => cache.read(id)))).toEqual([
      balanceAt('a', 1),
      undefined,
      balanceAt('c', 1),
    ])
  })

  it('remembers that there is none for seconds, a balance for minutes', async () => {
    let nowMs = 1
    const cache = createMemoryCache({ now: () => nowMs })
    await cache.write([balanceAt('a', 1), missing('b')])
    nowMs += LIFETIMES.missingMs * 2
    expect(await cache.read('b')).toBeUndefined()
    expect(await cache.read('a')).toEqual(balanceAt('a', 1))
  })
})

describe('the lifetime of an entry', () => {
  it('is its kind of time, give or take a fifth', () => {
    const lifetimes = { balanceMs: 1_000, missingMs: 100 }
    const lives = [0, 0.5, 0.999_999].map((chance) => lifetimeMs(balanceAt('a', 1), lifetimes, chance))
    expect(lives).toEqual([800, 1_000, 1_200])
    expect([0, 0.5].map((chance) => lifetimeMs(missing('a'), lifetimes, chance))).toEqual([80, 100])
    expect(lifetimeMs(balanceAt('a', 1), { balanceMs: 0, missingMs: 0 })).toBe(1)
  })
})
