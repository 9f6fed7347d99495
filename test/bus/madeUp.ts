import { ENTRIES, type LedgerEvent } from '../../src/bus/events.ts'

const ID = '0'.repeat(32)
const TIME = '2026-01-01T00:00:00.000000Z'

/** An event of an entry that is of the right form, and of no ledger. */
export const madeUpEntry = (number: number): LedgerEvent => ({
  ...{ topic: ENTRIES, key: 'key', id: `0.${number}.0`, place: { shard: 0, block: number, index: 0 } },
  ...{ source: 'test', type: 'zerosum.entry.v1', time: TIME, subject: 'x', tenant: `ten_${ID}` },
  data: {
    ...{ kind: 'top-up', step: null, transferId: `trf_${ID}`, holdId: null, memo: null, createdAt: TIME },
    ...{ id: 'ent_1', transactionId: `txn_${ID}`, walletId: `wal_${ID}`, sequence: 1, layer: 'posted' },
    ...{ amount: '1', currency: 'EUR', counterparty: null, statement: true },
    balance: { posted: '1', pendingIn: '0', pendingOut: '0', available: '1' },
  },
})
