import { LRUCache } from 'lru-cache'
import { type Account, systemAccountId } from '../core/account.ts'
import type { Hold } from '../core/hold.ts'
import { homesOf, type PostingContext, systemEnd } from '../core/move.ts'
import type { Posting } from '../core/post.ts'
import { accountsOf, isRelocation } from '../core/relocation.ts'
import type { Request, RequestRecord, SagaStepOperation } from '../core/request.ts'
import { PART_KEY } from '../core/saga.ts'
import { type Movement, movementsOf, type Transfer } from '../core/transfer.ts'
import { recordName, type State } from '../core/workspace.ts'
import type { Loaded, Wanted } from './sql/loadState.ts'

/** How much is remembered. Each must hold more than two blocks can touch: what is in flight may not fall out. */
const ACCOUNTS_MAX = 250_000
const OTHERS_MAX = 50_000

/** What Map and LRUCache have in common. */
type Store<V> = { get(key: string): V | undefined; has(key: string): boolean; set(key: string, value: V): unknown }

/**
 * What a poster remembers of the ledger: the state after the last block it sent. It is true only as long as nobody else
 * adds a block; the chain's compare-and-swap finds out, and then all of it is forgotten.
 */
export class Memory implements State {
  readonly #accounts: Store<Account>
  readonly #holds: Store<Hold>
  readonly #transfers: Store<Transfer>
  readonly #records: Store<RequestRecord>

  /** @param size `bounded` for what lives long; `unbounded` for what is filled with one batch and dropped */
  constructor(size: 'bounded' | 'unbounded') {
    const store = <V extends object>(max: number): Store<V> => (size === 'bounded' ? new LRUCache({ max }) : new Map())
    this.#accounts = store(ACCOUNTS_MAX)
    this.#holds = store(OTHERS_MAX)
    this.#transfers = store(OTHERS_MAX)
    this.#records = store(OTHERS_MAX)
  }

  account(id: string): Account | undefined {
    return this.#accounts.get(id)
  }

  hold(id: string): Hold | undefined {
    return this.#holds.get(id)
  }

  transfer(id: string): Transfer | undefined {
    return this.#transfers.get(id)
  }

  record(tenantId: string, scope: string, key: string): RequestRecord | undefined {
    return this.#records.get(recordName(tenantId, scope, key))
  }

  /**
   * What the database must be asked for before a batch can be decided: all that it names and that is not remembered.
   * What is remembered is used by asking for it, so that what is learned meanwhile doesn't push it out.
   */
  wantedBy(requests: readonly Request[], { shard, shardOf }: Pick<PostingContext, 'shard' | 'shardOf'>): Wanted {
    const accounts = new Set<string>()
    const holds = new Set<string>()
    const transfers = new Set<string>()
    const records: Pick<Request, 'tenantId' | 'scope' | 'key'>[] = []
    const wantRecord = (tenantId: string, scope: string, key: string) => {
      if (!this.#records.get(recordName(tenantId, scope, key))) records.push({ tenantId, scope, key })
    }
    const wantAccount = (id: string) => {
      if (!this.#accounts.get(id)) accounts.add(id)
    }
    const wantMovements = (tenantId: string, movements: readonly Pick<Movement, 'from' | 'to' | 'currency'>[]) => {
      for (const movement of movements) {
        const { from, to, currency } = movement
        const homes = homesOf(movement, { shardOf })
        for (const end of [from, to]) {
          const place = systemEnd(tenantId, end, currency, shard, homes)
          const id = place ? systemAccountId(place) : end
          if (id !== null) wantAccount(id)
        }
      }
    }
    const wantStep = (tenantId: string, { kind, saga }: SagaStepOperation) => {
      wantMovements(
        tenantId,
        saga.legs.filter(({ fromShard, toShard }) => fromShard === shard || toShard === shard),
      )
      const isEnd = kind === 'saga-finalize' || kind === 'saga-release'
      if (!isEnd) return
      if (saga.shard !== shard) wantRecord(tenantId, saga.id, PART_KEY)
      else {
        const holdId = saga.kind === 'hold' ? saga.id : saga.holdId
        if (holdId !== undefined && !this.#holds.get(holdId)) holds.add(holdId)
        if (saga.reverses !== undefined && !this.#transfers.get(saga.reverses)) transfers.add(saga.reverses)
      }
    }
    for (const { tenantId, scope, key, operation } of requests) {
      wantRecord(tenantId, scope, key)
      if ('saga' in operation) wantStep(tenantId, operation)
      wantMovements(tenantId, operation.kind === 'hold' ? [operation.leg] : movementsOf(operation))
      if (operation.kind === 'wallet-update') wantAccount(operation.walletId)
      if (isRelocation(operation)) for (const id of accountsOf(operation, tenantId, shard)) wantAccount(id)
      if ('holdId' in operation) {
        const hold = this.#holds.get(operation.holdId)
        if (hold) wantMovements(tenantId, [hold])
        else holds.add(operation.holdId)
      }
      if ('transferId' in operation) {
        const transfer = this.#transfers.get(operation.transferId)
        if (transfer) wantMovements(tenantId, transfer.movements)
        else transfers.add(operation.transferId)
      }
    }
    return {
      accounts: [...accounts],
      holds: [...holds],
      transfers: [...transfers],
      records,
    }
  }

  /** Adds what was read. What is remembered already stays: it may be younger than what the database could show. */
  learn({ accounts, holds, transfers, records }: Loaded): void {
    for (const account of accounts) if (!this.#accounts.has(account.id)) this.#accounts.set(account.id, account)
    for (const hold of holds) if (!this.#holds.has(hold.id)) this.#holds.set(hold.id, hold)
    for (const transfer of transfers) {
      if (!this.#transfers.has(transfer.id)) this.#transfers.set(transfer.id, transfer)
    }
    for (const [name, record] of records) if (!this.#records.has(name)) this.#records.set(name, record)
  }

  /** Moves on to the state after a posting. */
  apply({ accounts, holds, transfers, records }: Posting['changes']): void {
    for (const [id, account] of accounts) this.#accounts.set(id, account)
    for (const [id, hold] of holds) this.#holds.set(id, hold)
    for (const [id, transfer] of transfers) this.#transfers.set(id, transfer)
    for (const [name, record] of records) this.#records.set(name, record)
  }
}
