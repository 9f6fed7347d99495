import { posted } from './account.ts'
import { fits, isMoving } from './mapChange.ts'
import { endsOf, type PostingContext, type Verdict } from './move.ts'
import { departedJson, type Homes, holdPairs, type RelocationOperation } from './relocation.ts'
import type { Request } from './request.ts'
import type { Workspace } from './workspace.ts'

type Of<Kind extends RelocationOperation['kind']> = Extract<RelocationOperation, { readonly kind: Kind }>

/** Takes a step of a change of the map. It counts from the next batch on. */
export function changeMap(
  work: Workspace,
  operation: Of<'map-close' | 'map-depart' | 'map-abandon' | 'map-open'>,
  { shard, open, map }: PostingContext,
): Verdict {
  const { kind, change } = operation
  const isUnderWay = open?.change.id === change.id
  switch (kind) {
    case 'map-close':
      if (open || !map || !fits(map, change)) return 'outdated'
      break
    case 'map-depart':
      if (!isUnderWay || shard !== change.from) return 'outdated'
      break
    case 'map-abandon':
      // Not seen here: the change is over before it began.
      return {}
    case 'map-open':
      if (!isUnderWay || (operation.isMoved && shard === change.from) !== (open.phase === 'departing'))
        return 'outdated'
      break
    default:
      return kind satisfies never
  }
  if (work.isLayoutChanged) return 'outdated'
  work.isLayoutChanged = true
  return {}
}

/** A wallet leaves: what it holds goes to the account for money between this shard and that one. */
export function depart(
  work: Workspace,
  { tenantId }: Request,
  { walletId, currency, changeId, toShard }: Of<'wallet-depart'>,
  { shard, open }: PostingContext,
): Verdict {
  if (open?.change.id !== changeId || open.phase !== 'departing') return 'outdated'
  const wallet = work.account(walletId)
  if (wallet?.kind !== 'wallet' || wallet.tenantId !== tenantId || !isMoving(open, walletId)) {
    throw new Error(`${walletId} is no wallet that leaves shard ${shard}`)
  }
  if (wallet.debitsPending + wallet.creditsPending !== 0n) {
    throw new Error(`the wallet ${walletId} leaves with something pending`)
  }
  const amount = posted(wallet)
  if (amount !== 0n) {
    const transit = work.systemAccount({ tenantId, shard, kind: 'transit', currency, peer: toShard })
    work.move(wallet, -amount, 'posted')
    work.move(transit, amount, 'posted')
  }
  const { status, overdraftLimit, limits, sequence } = wallet
  return {
    result: {
      wallet: departedJson({
        currency,
        status,
        overdraftLimit: overdraftLimit ?? 0n,
        limits,
        sequence,
        posted: amount,
      }),
    },
  }
}

/** A wallet comes: its account is opened, or goes on, where its entries had come to; what it holds comes by entries. */
export function arrive(
  work: Workspace,
  { tenantId }: Request,
  { wallet, changeId, fromShard }: Of<'wallet-arrive'>,
  { shard, open }: PostingContext,
): Verdict {
  if (open?.change.id !== changeId || open.change.to !== shard) return 'outdated'
  const { id, currency, status, overdraftLimit, limits, sequence, posted: amount } = wallet
  const account = work.arrive({
    ...{ id, tenantId, kind: 'wallet', currency, status, overdraftLimit, limits, sequence },
    ...{ debitsPosted: 0n, creditsPosted: 0n, debitsPending: 0n, creditsPending: 0n },
  })
  if (amount !== 0n) {
    const transit = work.systemAccount({ tenantId, shard, kind: 'transit', currency, peer: fromShard })
    work.move(transit, -amount, 'posted')
    work.move(account, amount, 'posted')
  }
  return {}
}

/** An open hold, one of whose ends moves: what is pending on this shard for it goes between its ends as they are after that. */
export function moveHold(
  work: Workspace,
  { hold, changeId, before, after }: Of<'hold-move'>,
  { shard, open }: PostingContext,
): Verdict {
  if (open?.change.id !== changeId) return 'outdated'
  for (const { homes, isEnding } of holdPairs({ before, after }, shard)) {
    const { payer, payee } = endsOf(work, hold.tenantId, hold, { shard, shardOf: among(hold.from, homes) })
    const amount = isEnding ? -hold.amount : hold.amount
    work.move(payer, -amount, 'pending', isEnding)
    work.move(payee, amount, 'pending', isEnding)
  }
  if (before.from !== after.from && before.from === shard) work.holds.set(hold.id, { ...hold, status: 'moved' })
  if (before.from !== after.from && after.from === shard) work.holds.set(hold.id, hold)
  return {}
}

function among(from: string, homes: Homes): (id: string) => number {
  return (id) => (id === from ? homes.from : homes.to)
}
