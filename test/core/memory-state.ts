import type { Account } from '../../src/core/account.ts'
import type { Hold } from '../../src/core/hold.ts'
import type { Posting } from '../../src/core/post.ts'
import type { RequestRecord } from '../../src/core/request.ts'
import type { Transfer } from '../../src/core/transfer.ts'
import { recordName, type State } from '../../src/core/workspace.ts'

/** The state of a ledger in memory. Frozen all through: who changes it, throws. */
export class MemoryState implements State {
  readonly accounts: ReadonlyMap<string, Account>
  readonly holds: ReadonlyMap<string, Hold>
  readonly transfers: ReadonlyMap<string, Transfer>
  readonly records: ReadonlyMap<string, RequestRecord>

  constructor({ accounts, holds, transfers, records }: Maps = EMPTY) {
    this.accounts = accounts
    this.holds = holds
    this.transfers = transfers
    this.records = records
  }

  account(id: string): Account | undefined {
    return this.accounts.get(id)
  }

  hold(id: string): Hold | undefined {
    return this.holds.get(id)
  }

  transfer(id: string): Transfer | undefined {
    return this.transfers.get(id)
  }

  record(tenantId: string, scope: string, key: string): RequestRecord | undefined {
    return this.records.get(recordName(tenantId, scope, key))
  }

  /** The state after a batch; this one stays as it is. */
  after({ accounts, holds, transfers, records }: Posting['changes']): MemoryState {
    return new MemoryState({
      accounts: merged(this.accounts, accounts),
      holds: merged(this.holds, holds),
      transfers: merged(this.transfers, transfers),
      records: merged(this.records, records),
    })
  }
}

type Maps = Pick<MemoryState, 'accounts' | 'holds' | 'transfers' | 'records'>

const EMPTY: Maps = { accounts: new Map(), holds: new Map(), transfers: new Map(), records: new Map() }

function merged<T>(before: ReadonlyMap<string, T>, changed: ReadonlyMap<string, T>): ReadonlyMap<string, T> {
  const after = new Map(before)
  for (const [id, value] of changed) after.set(id, deepFreeze(value))
  return after
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value)
    for (const part of Object.values(value)) deepFreeze(part)
  }
  return value
}
