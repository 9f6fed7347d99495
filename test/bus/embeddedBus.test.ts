import { describe } from 'vitest'
import { busOf } from './consumer.ts'
import { busContract } from './contract.ts'
import { openLedgerStage } from './stage.ts'

describe('the embedded bus', () => {
  busContract(async () => {
    const ledger = await openLedgerStage()
    const node = { urls: ledger.urls }
    return { ...ledger, node, openBus: () => busOf(node) }
  })
})
