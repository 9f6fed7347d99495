import { systemAccountId } from './account.ts'
import type { Item } from './block.ts'
import { departedOf, holdPairs } from './relocation.ts'
import type { Payload } from './request.ts'
import { begunSaga, linesOf, type Saga, type Step, sagaOf } from './saga.ts'
import { OUTSIDE, recordedMovements } from './transfer.ts'
import type { Entry, Layer } from './workspace.ts'

/** What an entry must be, by the request that made it; `ends` as in Workspace.move. */
export type DueLine = Pick<Entry, 'accountId' | 'amount' | 'currency' | 'layer'> & { readonly ends: boolean }

/** The entries that an accepted request makes; `undefined` if what is stored of it can't be understood. */
export function dueLines(
  { kind, tenantId, result }: Pick<Item, 'kind' | 'tenantId' | 'result'>,
  payload: Payload,
  shard: number,
): DueLine[] | undefined {
  try {
    const saga = begunSaga(tenantId, result)
    if (saga) return sagaLines(saga, 'begin', shard)
    switch (kind) {
      case 'transfer':
      case 'top-up':
      case 'withdrawal':
      case 'reversal': {
        const movements = recordedMovements(kind, payload, result === null ? null : JSON.parse(result)) ?? []
        if (movements.length === 0) return undefined
        return movements.flatMap(({ from, to, amount, currency }) => {
          const outside = () => systemAccountId({ tenantId, shard, kind: OUTSIDE, currency })
          return pair(from ?? outside(), to ?? outside(), amount, currency, 'posted')
        })
      }
      case 'hold': {
        const [leg] = payload.legs ?? []
        return leg && pair(leg.from, leg.to, BigInt(leg.amount), leg.currency, 'pending')
      }
      case 'capture':
      case 'release':
      case 'expiry': {
        const { from, to, amount, currency } = endedHoldOf(result)
        const ending = pair(from, to, -BigInt(amount), currency, 'pending', true)
        if (kind !== 'capture') return ending
        return [...ending, ...pair(from, to, BigInt(payload.amount ?? amount), currency, 'posted')]
      }
      case 'wallet-open':
      case 'wallet-update':
      case 'saga-cancel':
      case 'map-close':
      case 'map-depart':
      case 'map-abandon':
      case 'map-open':
        return []
      case 'saga-reserve':
      case 'saga-commit':
      case 'saga-finalize':
      case 'saga-release':
        return payload.saga && sagaLines(sagaOf(tenantId, payload.saga), stepOf(kind), shard)
      case 'wallet-depart': {
        const { walletId, toShard } = payload
        if (walletId === undefined || toShard === undefined) return undefined
        const { currency, posted } = departedOf(result)
        return carried(walletId, endOn(shard, { tenantId, currency }, null, toShard), posted, currency)
      }
      case 'wallet-arrive': {
        const { wallet, fromShard } = payload
        if (wallet === undefined || fromShard === undefined) return undefined
        const { id, currency, posted } = wallet
        return carried(endOn(shard, { tenantId, currency }, null, fromShard), id, BigInt(posted), currency)
      }
      case 'hold-move': {
        const { hold, before, after } = payload
        if (!hold || !before || !after) return undefined
        const { from, to, amount, currency } = hold
        return holdPairs({ before, after }, shard).flatMap(({ homes, isEnding }) =>
          pair(
            endOn(shard, { tenantId, currency }, from, homes.from),
            endOn(shard, { tenantId, currency }, to, homes.to),
            isEnding ? -BigInt(amount) : BigInt(amount),
            currency,
            'pending',
            isEnding,
          ),
        )
      }
      default:
        kind satisfies never
        return undefined
    }
  } catch {
    return undefined
  }
}

function stepOf(kind: `saga-${Step}`): Step {
  return kind.slice('saga-'.length) as Step
}

/** The entries of a step of a saga on this shard: what lives elsewhere is behind a transit account. */
function sagaLines(saga: Saga, step: Step | 'begin', shard: number): DueLine[] {
  const { tenantId } = saga
  return linesOf(saga, step, shard).flatMap(({ line, leg, amount }) => {
    const { currency } = leg
    const isEnding = line === 'unreserve'
    return pair(
      endOn(shard, { tenantId, currency }, leg.from, leg.fromShard),
      endOn(shard, { tenantId, currency }, leg.to, leg.toShard),
      isEnding ? -amount : amount,
      currency,
      line === 'post' ? 'posted' : 'pending',
      isEnding,
    )
  })
}

/** What stands on a shard for a wallet: itself, or, if it lives elsewhere, the account for money between there and here. */
function endOn(
  shard: number,
  { tenantId, currency }: { tenantId: string; currency: string },
  wallet: string | null,
  home: number,
): string {
  if (wallet !== null && home === shard) return wallet
  return systemAccountId({ tenantId, shard, kind: 'transit', currency, peer: home })
}

/** What a wallet holds, from one place to another; a debt goes the other way. */
function carried(from: string, to: string, posted: bigint, currency: string): DueLine[] {
  return posted === 0n ? [] : pair(from, to, posted, currency, 'posted')
}

function pair(from: string, to: string, amount: bigint, currency: string, layer: Layer, ends = false): DueLine[] {
  return [
    { accountId: from, amount: -amount, currency, layer, ends },
    { accountId: to, amount, currency, layer, ends },
  ]
}

/** What the end of a hold recorded of it; amounts are decimal strings. */
export type EndedHold = {
  readonly from: string
  readonly to: string
  readonly amount: string
  readonly currency: string
  readonly expiresAtUs: number
  readonly status: string
  readonly captured: string
}

/**
 * Reads the result of an accepted capture, release or expiry.
 * @throws TypeError or SyntaxError if it is none
 */
export function endedHoldOf(result: string | null): EndedHold {
  const { hold } = JSON.parse(result ?? 'null') as { hold?: EndedHold }
  if (!hold) throw new TypeError('not the result of the end of a hold')
  return hold
}
