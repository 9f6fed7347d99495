import type { BlockHeader } from '../core/block.ts'
import type { Hold } from '../core/hold.ts'
import type { RequestRecord } from '../core/request.ts'
import type { Sql } from '../postgres/connect.ts'
import { type Balance, readBalance, readBalanceAt } from './sql/balances.ts'
import { findBlock, listBlockRequests, listBlocks } from './sql/blocks.ts'
import { listChangedWallets, readHead } from './sql/chainHead.ts'
import { findTransaction, type HistoryEntry, listEntries, listEntriesAfter, type Transaction } from './sql/history.ts'
import { readHasStayed, readLayout, readLayoutBlock, type StoredLayout } from './sql/layout.ts'
import { findHold, findRecord, findReversal, listExpiredHolds } from './sql/records.ts'
import { type BegunSaga, findBegunSagas, findSagaEnd, listSagasInFlight, type SagaPlace } from './sql/sagas.ts'
import { readVitals, type Vitals } from './sql/vitals.ts'
import { findWallet, listWallets, type Wallet } from './sql/wallets.ts'

/** A place in a list: how many, and after which one (`null` is from the newest). */
export type Page<Before> = { readonly limit: number; readonly before: Before | null }

/** Everything that is read from one shard, committed state only. What belongs to another tenant is not there. */
export type Reader = {
  wallet(tenantId: string, id: string): Promise<Wallet | undefined>
  wallets(tenantId: string, holderId: string, page: Page<string>): Promise<Wallet[]>
  balance(tenantId: string, walletId: string): Promise<Balance | undefined>
  /** @param atUs microseconds since 1970, in the past */
  balanceAt(tenantId: string, walletId: string, atUs: number): Promise<Balance | undefined>
  /** The caller has made sure that the wallet is the tenant's. */
  entries(walletId: string, page: Page<number>): Promise<HistoryEntry[]>
  /** The same entries from number `after` + 1 to number `upTo`, oldest first. */
  entriesAfter(walletId: string, range: { after: number; upTo: number; limit: number }): Promise<HistoryEntry[]>
  /** A transfer, top-up, withdrawal or reversal, refused ones too, and the last reversal of it. */
  transfer(tenantId: string, id: string): Promise<{ record: RequestRecord; reversedBy: string | undefined } | undefined>
  transaction(tenantId: string, id: string): Promise<Transaction | undefined>
  hold(tenantId: string, id: string): Promise<Hold | undefined>
  expiredHolds(nowUs: number, limit: number): Promise<{ id: string; tenantId: string }[]>
  blocks(page: Page<number>): Promise<BlockHeader[]>
  block(number: number): Promise<BlockHeader | undefined>
  blockRequests(tenantId: string, block: number): ReturnType<typeof listBlockRequests>
  /** The record of the last step of a saga that began here; `undefined` while it is not over. */
  sagaEnd(tenantId: string, id: string): Promise<RequestRecord | undefined>
  /** Sagas that began here before a time, microseconds since 1970, and are not over, the oldest first. */
  sagasInFlight(page: { beforeUs: number; after: SagaPlace | undefined; limit: number }): Promise<SagaPlace[]>
  begunSagas(ids: readonly string[]): Promise<BegunSaga[]>
  /** The number of the last block. */
  headNumber(): Promise<number>
  /** The wallets that blocks from number `after` + 1 to number `upTo` have changed, with the number of the last entry in them. */
  changedWallets(range: { after: number; upTo: number; limit: number }): ReturnType<typeof listChangedWallets>
  /** Where things are, as this shard's chain says. */
  layout(): Promise<StoredLayout>
  /** The number of the block that changed that last. */
  layoutBlock(): Promise<number>
  /** Whether a slot that was on this shard by the map of an epoch has not begun to leave since. */
  hasStayed(slot: number, epoch: number): Promise<boolean>
  /** How the shard is. */
  vitals(): Promise<Vitals>
  /** @throws if the database does not answer */
  ping(): Promise<void>
}

/** The reader of a shard, over a pool of its own. */
export function createReader(sql: Sql, shard: number): Reader {
  return {
    wallet: (tenantId, id) => findWallet(sql, tenantId, id),
    wallets: (tenantId, holderId, page) => listWallets(sql, { tenantId, holderId, ...page }),
    balance: (tenantId, walletId) => readBalance(sql, tenantId, walletId),
    balanceAt: (tenantId, walletId, atUs) => readBalanceAt(sql, { tenantId, walletId, atUs }),
    entries: (walletId, page) => listEntries(sql, { walletId, ...page }),
    entriesAfter: (walletId, range) => listEntriesAfter(sql, { walletId, ...range }),
    async transfer(tenantId, id) {
      const kinds = ['transfer', 'top-up', 'withdrawal', 'reversal'] as const
      const [record, reversedBy] = await Promise.all([findRecord(sql, { tenantId, id, kinds }), findReversal(sql, id)])
      return record && { record, reversedBy }
    },
    transaction: (tenantId, id) => findTransaction(sql, tenantId, id),
    hold: (tenantId, id) => findHold(sql, tenantId, id),
    expiredHolds: (nowUs, limit) => listExpiredHolds(sql, { nowUs, limit }),
    blocks: (page) => listBlocks(sql, shard, page),
    block: (number) => findBlock(sql, shard, number),
    blockRequests: (tenantId, block) => listBlockRequests(sql, { tenantId, block }),
    sagaEnd: (tenantId, id) => findSagaEnd(sql, tenantId, id),
    sagasInFlight: (page) => listSagasInFlight(sql, page),
    begunSagas: (ids) => findBegunSagas(sql, ids),
    headNumber: async () => (await readHead(sql)).number,
    changedWallets: (range) => listChangedWallets(sql, range),
    layout: () => readLayout(sql, shard),
    layoutBlock: () => readLayoutBlock(sql),
    hasStayed: (slot, epoch) => readHasStayed(sql, { shard, slot, epoch }),
    vitals: () => readVitals(sql),
    async ping() {
      await sql`SELECT 1`
    },
  }
}
