import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type { BalanceCache, Cached, CachedBalance, Missing } from '../../src/cache/cache.ts'

/** An adapter, and what a test must be able to do to it. */
export type CacheStage = {
  readonly cache: BalanceCache
  /** Another one over the same store; the same one if there is no store outside. */
  readonly other: BalanceCache
  /** Lets all that was written so far grow too old, the entries of balances included. */
  age(): Promise<void>
  close(): Promise<void>
}

export const TENANT = '0197c2a4-0000-7000-8000-00000000000a'
export const OTHER_TENANT = '0197c2a4-0000-7000-8000-00000000000b'

/** A balance as it may be; `posted` tells by itself which version it is of. */
export function balanceAt(walletId: string, version: number, fields: Partial<CachedBalance> = {}): CachedBalance {
  const amounts = { posted: BigInt(version) * 100n, pendingIn: 0n, pendingOut: 0n }
  return { tenantId: TENANT, walletId, currency: 'USD', ...amounts, version, asOfUs: 1_000 + version, ...fields }
}

export function missing(walletId: string, asOfUs = 1, tenantId = TENANT): Missing {
  return { tenantId, walletId, missing: true, asOfUs }
}

/** What every adapter of the port does. */
export function describeCache(name: string, open: () => Promise<CacheStage>): void {
  describe(`the balance cache ${name}`, () => {
    let stage: CacheStage
    let cache: BalanceCache
    let id: string
    beforeAll(async () => {
      stage = await open()
      cache = stage.cache
    })
    afterAll(() => stage?.close())
    beforeEach(() => {
      id = randomUUID()
    })

    /** What is there after these were written, one after the other. */
    async function readAfter(...entries: Cached[]): Promise<Cached | undefined> {
      for (const entry of entries) await cache.write([entry])
      return await cache.read(id)
    }

    it('has nothing of what it was never given', async () => {
      expect(await cache.read(id)).toBeUndefined()
    })

    it('gives back what it was given, to the last digit', async () => {
      const most = { posted: 2n ** 63n - 1n, pendingIn: 2n ** 63n - 1n, pendingOut: 2n ** 62n + 1n }
      const large = balanceAt(id, 2 ** 49, { ...most, asOfUs: 1_795_000_000_123_456 })
      expect(await readAfter(large)).toEqual(large)
      expect(await stage.other.read(id)).toEqual(large)
      id = randomUUID()
      const negative = balanceAt(id, 0, { posted: -(2n ** 63n), currency: 'JPY', tenantId: OTHER_TENANT })
      expect(await readAfter(negative)).toEqual(negative)
    })

    it('keeps the higher version, in whichever order they come', async () => {
      expect(await readAfter(balanceAt(id, 1), balanceAt(id, 2))).toEqual(balanceAt(id, 2))
      expect(await readAfter(balanceAt(id, 1))).toEqual(balanceAt(id, 2))
      // As text, 9 would be more than 10.
      expect(await readAfter(balanceAt(id, 10), balanceAt(id, 9))).toEqual(balanceAt(id, 10))
      // What was seen later but has fewer entries was read from something that lags.
      expect(await readAfter(balanceAt(id, 7, { asOfUs: 1e15 }))).toEqual(balanceAt(id, 10))
    })

    it('keeps what was seen later of one version', async () => {
      const early = balanceAt(id, 3, { asOfUs: 999_999 })
      const late = balanceAt(id, 3, { asOfUs: 1_000_000 })
      expect(await readAfter(late, early)).toEqual(late)
      await cache.forget([id])
      expect(await readAfter(early, late)).toEqual(late)
    })

    it('keeps a wallet that is there before word that there is none, in whichever order they come', async () => {
      expect(await readAfter(missing(id))).toEqual(missing(id))
      expect(await readAfter(balanceAt(id, 0))).toEqual(balanceAt(id, 0))
      expect(await readAfter(missing(id, 1e15))).toEqual(balanceAt(id, 0))
    })

    it('does the same within one batch, and writes the rest of it', async () => {
      const [second, third] = [randomUUID(), randomUUID()]
      await cache.write([balanceAt(second, 5)])
      await cache.write([
        ...[balanceAt(id, 1), balanceAt(id, 3), balanceAt(id, 2)],
        ...[balanceAt(second, 4), balanceAt(third, 1)],
      ])
      expect(await cache.read(id)).toEqual(balanceAt(id, 3))
      expect(await cache.read(second)).toEqual(balanceAt(second, 5))
      expect(await cache.read(third)).toEqual(balanceAt(third, 1))
    })

    it('takes batches of any size, none included', async () => {
      await cache.write([])
      await cache.forget([])
      const ids = Array.from({ length: 1_001 }, () => randomUUID())
      await cache.write(ids.map((each) => balanceAt(each, 1)))
      const there = await Promise.all(ids.map((each) => cache.read(each)))
      expect(there).toEqual(ids.map((each) => balanceAt(each, 1)))
      await cache.forget(ids)
      const gone = await Promise.all(ids.map((each) => cache.read(each)))
      expect(gone.filter((entry) => entry !== undefined)).toEqual([])
    })

    it('forgets what it is told to, and takes anything after that', async () => {
      await cache.write([balanceAt(id, 9)])
      await cache.forget([id, randomUUID()])
      expect(await cache.read(id)).toBeUndefined()
      expect(await readAfter(balanceAt(id, 8))).toEqual(balanceAt(id, 8))
    })

    it('repairs what is there, and adds nothing: what comes late may be long out of date', async () => {
      const [second, unknown] = [randomUUID(), randomUUID()]
      await cache.write([balanceAt(id, 3), balanceAt(second, 5)])
      await cache.repair([balanceAt(id, 4), balanceAt(second, 4), balanceAt(unknown, 9)])
      expect(await cache.read(id)).toEqual(balanceAt(id, 4))
      expect(await cache.read(second)).toEqual(balanceAt(second, 5))
      expect(await cache.read(unknown)).toBeUndefined()
      await cache.write([missing(unknown, 1)])
      await cache.repair([balanceAt(unknown, 9)])
      expect(await cache.read(unknown)).toEqual(balanceAt(unknown, 9))
    })

    it('agrees on the newest when many write at once', async () => {
      const versions = Array.from({ length: 60 }, (_, i) => ((i * 37) % 60) + 1)
      await Promise.all(
        versions.map((version, i) => (i % 2 === 0 ? cache : stage.other).write([balanceAt(id, version)])),
      )
      expect(await cache.read(id)).toEqual(balanceAt(id, 60))
      expect(await stage.other.read(id)).toEqual(balanceAt(id, 60))
    })

    it('lets entries go when they are too old, and takes older ones after that', async () => {
      const absent = randomUUID()
      await cache.write([balanceAt(id, 9), missing(absent)])
      expect(await cache.read(id)).toBeDefined()
      await stage.age()
      expect(await cache.read(id)).toBeUndefined()
      expect(await cache.read(absent)).toBeUndefined()
      expect(await readAfter(balanceAt(id, 8))).toEqual(balanceAt(id, 8))
    })

    it('is not asked for what is no id', async () => {
      const long = 'x'.repeat(10_000)
      await cache.write([balanceAt(id, 1)])
      expect(await cache.read(long)).toBeUndefined()
    })
  })
}
