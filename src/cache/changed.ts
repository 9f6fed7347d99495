import { type Account, posted } from '../core/account.ts'
import type { Posting } from '../core/post.ts'
import { isRelocation } from '../core/relocation.ts'
import type { CachedBalance } from './cache.ts'

/**
 * The balances that a block has changed, as they are after it; of wallets that it opened, the first. What `onBlock` is told is what goes in.
 *
 * What moves wallets between shards changes none: a wallet's entries bring it to zero where it leaves and back where it arrives, and what the cache
 * has of it is true all the way. In a block that moves a wallet nothing else happens to it.
 * @param timeUs of the block, microseconds since 1970
 */
export function changedBalances({ decisions, changes }: Posting, timeUs: number): CachedBalance[] {
  const changed = new Set<string>()
  for (const { request, entries } of decisions) {
    if (isRelocation(request.operation)) continue
    if (request.operation.kind === 'wallet-open') changed.add(request.id)
    for (const { accountId } of entries) changed.add(accountId)
  }
  return [...changed].flatMap((id) => {
    const account = changes.accounts.get(id)
    return account?.kind === 'wallet' ? [balanceOf(account, timeUs)] : []
  })
}

function balanceOf(account: Account, asOfUs: number): CachedBalance {
  return {
    tenantId: account.tenantId,
    walletId: account.id,
    currency: account.currency,
    posted: posted(account),
    pendingIn: account.creditsPending,
    pendingOut: account.debitsPending,
    version: account.sequence,
    asOfUs,
  }
}
