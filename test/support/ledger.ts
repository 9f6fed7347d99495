import { randomBytes } from 'node:crypto'
import { slotOf, uuidv7 } from '../../src/core/ids.ts'
import type { Leg } from '../../src/core/leg.ts'
import type { Outcome } from '../../src/core/post.ts'
import { type Operation, type Request, requestOf } from '../../src/core/request.ts'
import { type Batcher, createBatcher } from '../../src/ledger/batcher.ts'
import { createPoster, type Poster } from '../../src/ledger/poster.ts'

export const TENANT = '00000000-0000-7000-8000-00000000000a'

const entropy = () => randomBytes(8).toString('hex')

/** A request with a fresh id; without a key, a fresh key too. */
export function ask(operation: Operation, key = entropy(), tenantId = TENANT): Request {
  return requestOf(uuidv7(Date.now(), entropy(), 0), tenantId, key, operation)
}

export function transferOf(from: string, to: string, amount: bigint, currency = 'USD'): Operation {
  return { kind: 'transfer', legs: [{ from, to, amount, currency }], remarks: {} }
}

export function legsOf(...legs: Leg[]): Operation {
  return { kind: 'transfer', legs, remarks: {} }
}

export function holdOf(from: string, to: string, amount: bigint, expiresInSeconds = 3600): Operation {
  return { kind: 'hold', leg: { from, to, amount, currency: 'USD' }, expiresInSeconds, remarks: {} }
}

/** A poster and batcher on one database, as a node has them. */
export type Ledger = {
  poster: Poster
  batcher: Batcher
  /** Asks one thing; its outcome once it is on disk. */
  ask(operation: Operation, key?: string): Promise<Outcome>
  /** Opens a wallet with that much in it; its id. */
  wallet(balance?: bigint, currency?: string): Promise<string>
  close(): Promise<void>
}

export function openLedger(url: string, writer = 'test'): Ledger {
  const clockUs = () => Math.round((performance.timeOrigin + performance.now()) * 1000)
  const poster = createPoster({ url, shard: 0, writer, clockUs })
  const batcher = createBatcher({ post: (requests) => poster.post(requests) })
  return {
    poster,
    batcher,
    ask: async (operation, key) => await batcher.submit(ask(operation, key)),
    async wallet(balance = 0n, currency = 'USD') {
      const holderId = `holder-${entropy()}`
      const id = uuidv7(Date.now(), entropy(), slotOf(TENANT, holderId))
      const open: Operation = { kind: 'wallet-open', holderId, currency, overdraftLimit: 0n, limits: {} }
      await batcher.submit(requestOf(id, TENANT, 'open', open))
      if (balance > 0n) await batcher.submit(ask({ kind: 'top-up', walletId: id, amount: balance, currency }))
      return id
    },
    close: () => poster.close(),
  }
}
