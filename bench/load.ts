import { slotOf, slotOfId } from '../src/core/ids.ts'
import { type Request, requestOf } from '../src/core/request.ts'
import { newId } from '../src/shards/newId.ts'

/** Seeded random numbers in [0, 1): mulberry32. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}

/** Who pays whom: picks two different places in a list of `count` accounts. */
export type Pick = () => { from: number; to: number }

/** Every account as likely as any other. */
export function uniform(count: number, random: () => number): Pick {
  return () => different(count, random, () => Math.floor(random() * count))
}

/** The k-th account with a likelihood of 1/k (Zipf, s = 1), both as payer and payee. */
export function zipf(count: number, random: () => number): Pick {
  const cumulative = new Float64Array(count)
  let sum = 0
  for (let k = 0; k < count; k++) {
    sum += 1 / (k + 1)
    cumulative[k] = sum
  }
  const draw = () => {
    const target = random() * sum
    let low = 0
    let high = count - 1
    while (low < high) {
      const middle = (low + high) >> 1
      if ((cumulative[middle] ?? sum) < target) low = middle + 1
      else high = middle
    }
    return low
  }
  return () => different(count, random, draw)
}

/** Everybody pays one account. */
export function oneHot(count: number, random: () => number): Pick {
  return () => ({ from: 1 + Math.floor(random() * (count - 1)), to: 0 })
}

function different(count: number, random: () => number, draw: () => number): { from: number; to: number } {
  const from = draw()
  let to = draw()
  if (to === from) to = (from + 1 + Math.floor(random() * (count - 1))) % count
  return { from, to }
}

/** Opens the wallet of the n-th holder. */
export function openWallet(tenantId: string, holder: number): Request {
  const holderId = `holder-${holder}`
  const id = newId(slotOf(tenantId, holderId))
  return requestOf(id, tenantId, `open-${holder}`, {
    ...{ kind: 'wallet-open', holderId, currency: 'USD', overdraftLimit: 0n, limits: {} },
  })
}

/** Funds a wallet. */
export function topUp(tenantId: string, walletId: string, amount: bigint): Request {
  const id = newId(slotOfId(walletId))
  return requestOf(id, tenantId, 'fund', { kind: 'top-up', walletId, amount, currency: 'USD' })
}

/** Moves an amount under a key of its own. */
export function transfer(tenantId: string, from: string, to: string, amount: bigint): Request {
  const id = newId(slotOfId(from))
  const legs = [{ from, to, amount, currency: 'USD' }]
  return requestOf(id, tenantId, `pay-${id}`, { kind: 'transfer', legs, remarks: {} })
}
