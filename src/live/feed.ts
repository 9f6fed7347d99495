import type { Posting } from '../core/post.ts'

/** A wallet has changed. `version`: the number of its last entry, if whoever says so knows it. */
export type News = { readonly walletId: string; readonly version: number }

/** Called when a wallet may have changed. @param version up to which entry at least; without one, anything may have happened */
export type Wake = (version?: number) => void

/**
 * Says which wallets may have news, and nothing of what that is: who is woken reads it from the ledger. A feed may wake too often, and when it
 * has trouble too seldom; so nobody relies on it alone.
 */
export type Feed = {
  /** Listens for a wallet's changes, whichever node makes them. @returns what ends that */
  watch(walletId: string, wake: Wake): () => void
  /** What this node has posted itself. To be called when it is committed and not before. Returns at once, never throws. */
  tell(news: readonly News[]): void
  /** No one is woken any more. */
  close(): Promise<void>
}

/** The wallets whose entries a block has added to. What the poster's `onBlock` is told is what goes in. */
export function newsOf({ decisions, changes }: Pick<Posting, 'decisions' | 'changes'>): News[] {
  const versions = new Map<string, number>()
  for (const { entries } of decisions) {
    for (const { accountId, sequence } of entries) versions.set(accountId, sequence)
  }
  return [...versions].flatMap(([walletId, version]) =>
    changes.accounts.get(walletId)?.kind === 'wallet' ? [{ walletId, version }] : [],
  )
}
