import type { News, Wake } from './feed.ts'

/** Who waits for which wallet on this node. */
export type Watchers = {
  /** @returns what ends it */
  add(walletId: string, wake: Wake): () => void
  wake(news: readonly News[]): void
  /** Whatever they wait for: something may have been missed. */
  wakeAll(): void
  readonly size: number
  clear(): void
}

/** @param onFirst told when there is somebody who waits, after nobody did */
export function createWatchers(onFirst: () => void = () => {}): Watchers {
  const byWallet = new Map<string, Set<Wake>>()
  return {
    add(walletId, wake) {
      // The same function may wait twice: each time is one of its own.
      const mine: Wake = (version) => wake(version)
      const isFirst = byWallet.size === 0
      const there = byWallet.get(walletId) ?? new Set()
      byWallet.set(walletId, there.add(mine))
      if (isFirst) onFirst()
      return () => {
        there.delete(mine)
        if (there.size === 0 && byWallet.get(walletId) === there) byWallet.delete(walletId)
      }
    },
    wake(news) {
      for (const { walletId, version } of news) {
        for (const wake of byWallet.get(walletId) ?? []) wake(version)
      }
    },
    wakeAll() {
      for (const there of byWallet.values()) for (const wake of there) wake()
    },
    get size() {
      return byWallet.size
    },
    clear() {
      byWallet.clear()
    },
  }
}
