import { describe, expect, it } from 'vitest'
import { changedBalances } from '../../src/cache/changed.ts'
import type { Operation } from '../../src/core/request.ts'
import { hold, MemoryLedger, TENANT, transfer, update } from '../core/memory-ledger.ts'

describe('the balances that a block has changed', () => {
  it('are those of its wallets, once each, as they are after it', () => {
    const ledger = new MemoryLedger()
    const [anna, ben, idle] = [ledger.wallet({ funds: 500n }), ledger.wallet({ funds: 100n }), ledger.wallet()]
    const posting = ledger.post(
      ledger.request(transfer([anna, ben, 70n])),
      ledger.request(transfer([anna, ben, 30n])),
      ledger.request(hold([ben, anna, 25n])),
      ledger.request(transfer([idle, anna, 1n])),
      ledger.request(update(idle, { name: 'Idle' })),
    )
    const changed = changedBalances(posting, 7_000)
    const common = { tenantId: TENANT, currency: 'EUR', asOfUs: 7_000 }
    expect(changed).toHaveLength(2)
    expect(changed).toContainEqual({
      ...{ ...common, walletId: anna, posted: 400n, pendingIn: 25n, pendingOut: 0n },
      version: ledger.account(anna).sequence,
    })
    expect(changed).toContainEqual({
      ...{ ...common, walletId: ben, posted: 200n, pendingIn: 0n, pendingOut: 25n },
      version: ledger.account(ben).sequence,
    })
  })

  it('are nothing yet of a wallet that it opened', () => {
    const ledger = new MemoryLedger()
    const opening: Operation = {
      ...{ kind: 'wallet-open', holderId: 'somebody', currency: 'EUR', overdraftLimit: 0n, limits: {} },
    }
    const request = ledger.request(opening)
    const amounts = { posted: 0n, pendingIn: 0n, pendingOut: 0n }
    expect(changedBalances(ledger.post(request), 7_000)).toEqual([
      { tenantId: TENANT, walletId: request.id, currency: 'EUR', ...amounts, version: 0, asOfUs: 7_000 },
    ])
    expect(changedBalances(ledger.post(request), 8_000)).toEqual([])
  })

  it('are none of what moves wallets to another shard', () => {
    const ledger = new MemoryLedger()
    const [anna, ben] = [ledger.wallet({ funds: 500n }), ledger.wallet()]
    const posting = ledger.post(ledger.request(transfer([anna, ben, 70n])))
    const leaving: Operation = { kind: 'wallet-depart', walletId: anna, currency: 'EUR', changeId: 'x', toShard: 1 }
    const decisions = posting.decisions.map((each) => ({ ...each, request: { ...each.request, operation: leaving } }))
    expect(changedBalances({ ...posting, decisions }, 7_000)).toEqual([])
  })
})
