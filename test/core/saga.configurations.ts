import { capture, expiry, hold, release, reversal, transfer, update } from './memory-ledger.ts'
import { type Asked, type Configuration, requestId, walletId } from './saga.model.ts'

const ana = walletId('ana')
const ann = walletId('ann')
const ben = walletId('ben')
const bea = walletId('bea')
const cleo = walletId('cleo')

/** Ana and Ann live on shard 0, Ben and Bea on 1, Cleo on 2. */
const TWO = { ana: { shard: 0, funds: 100n }, ben: { shard: 1, funds: 100n } }
const THREE = { ...TWO, cleo: { shard: 2, funds: 100n } }

const on = (shard: number, name: string, operation: Asked['operation']): Asked => ({ name, shard, operation })

const freezeBen = on(1, 'freeze ben', update(ben, { status: 'frozen' }))
const thawBen = on(1, 'thaw ben', update(ben, { status: 'active' }))
const freezeCleo = on(2, 'freeze cleo', update(cleo, { status: 'frozen' }))
const pay = on(0, 'pay', transfer([ana, ben, 60n]))
const held = on(0, 'hold', hold([ana, ben, 60n]))

/** Small worlds to explore whole; each has something of its own that may go wrong. */
export const CONFIGURATIONS = {
  'a transfer whose three nodes race, to commit and to give up': { shards: 2, wallets: TWO, requests: [pay], nodes: 3 },
  'a transfer to a wallet that is frozen, thawed or closed half way': {
    shards: 2,
    wallets: { ...TWO, ben: { shard: 1, funds: 0n } },
    requests: [pay, freezeBen, thawBen, on(1, 'close ben', update(ben, { status: 'closed' }))],
    nodes: 2,
  },
  'a transfer from a wallet that is frozen or closed half way': {
    shards: 2,
    wallets: { ...TWO, ana: { shard: 0, funds: 60n } },
    requests: [
      pay,
      on(0, 'freeze ana', update(ana, { status: 'frozen' })),
      on(0, 'close ana', update(ana, { status: 'closed' })),
    ],
    nodes: 2,
  },
  'two transfers in opposite directions between the same wallets': {
    shards: 2,
    wallets: TWO,
    requests: [pay, on(1, 'pay back', transfer([ben, ana, 80n])), freezeBen],
    nodes: 2,
  },
  'two transfers of a payer who can pay for one': {
    shards: 2,
    wallets: TWO,
    requests: [pay, on(0, 'pay again', transfer([ana, ben, 70n])), freezeBen],
    nodes: 2,
  },
  'a payment onwards of what has not arrived yet': {
    shards: 3,
    wallets: { ...THREE, ben: { shard: 1, funds: 0n } },
    requests: [pay, on(1, 'pay onwards', transfer([ben, cleo, 60n]))],
    nodes: 2,
  },
  'payers on two shards, the payee on a third': {
    shards: 3,
    wallets: THREE,
    requests: [on(0, 'pay', transfer([ana, cleo, 60n], [ben, cleo, 30n])), freezeCleo],
    nodes: 2,
  },
  'a payer on one shard, payees on two others': {
    shards: 3,
    wallets: THREE,
    requests: [on(0, 'pay', transfer([ana, ben, 60n], [ana, cleo, 30n])), freezeBen, freezeCleo],
    nodes: 2,
  },
  'money that goes round three shards, more than each has left': {
    shards: 3,
    wallets: THREE,
    requests: [
      on(0, 'pay round', transfer([ana, ben, 60n], [ben, cleo, 60n], [cleo, ana, 60n])),
      on(1, 'pay', transfer([ben, cleo, 50n])),
    ],
    nodes: 2,
  },
  'a payment with legs inside a shard, the payee frozen half way': {
    shards: 2,
    wallets: { ...TWO, ann: { shard: 0, funds: 0n }, bea: { shard: 1, funds: 0n } },
    requests: [
      on(0, 'pay', transfer([ana, ann, 10n], [ana, ben, 60n], [ben, bea, 30n])),
      on(1, 'freeze bea', update(bea, { status: 'frozen' })),
    ],
    nodes: 2,
  },
  'two payments over the same three shards, from different ends': {
    shards: 3,
    wallets: THREE,
    requests: [
      on(0, 'pay', transfer([ana, ben, 60n], [ana, cleo, 30n])),
      on(2, 'pay from the other end', transfer([cleo, ben, 50n], [cleo, ana, 40n])),
    ],
    nodes: 1,
  },
  'two payments to a wallet whose limit admits one': {
    shards: 3,
    wallets: { ...THREE, ben: { shard: 1, funds: 100n, limits: { balanceMax: 180n } } },
    requests: [on(0, 'pay', transfer([ana, ben, 60n], [ana, cleo, 30n])), on(2, 'pay too', transfer([cleo, ben, 50n]))],
    nodes: 1,
  },
  'a reversal of a payment to two other shards': {
    shards: 3,
    wallets: THREE,
    before: [on(0, 'pay', transfer([ana, ben, 60n], [ana, cleo, 30n]))],
    requests: [on(0, 'reverse', reversal(requestId('pay'))), freezeBen, freezeCleo],
    nodes: 2,
  },
  'a hold between shards': { shards: 2, wallets: TWO, requests: [held, freezeBen], nodes: 2 },
  'capture, release and expiry of one hold': {
    shards: 2,
    wallets: TWO,
    before: [held],
    requests: [
      on(0, 'capture', capture(requestId('hold'), 40n)),
      on(0, 'release', release(requestId('hold'))),
      on(0, 'expiry', expiry(requestId('hold'))),
      freezeBen,
    ],
    nodes: 2,
    isDayPassing: true,
  },
  'two captures and a release of one hold': {
    shards: 2,
    wallets: TWO,
    before: [held],
    requests: [
      on(0, 'capture', capture(requestId('hold'))),
      on(0, 'capture a part', capture(requestId('hold'), 10n)),
      on(0, 'release', release(requestId('hold'))),
    ],
    nodes: 2,
  },
  'a hold, its capture and its release from the beginning': {
    shards: 2,
    wallets: TWO,
    requests: [held, on(0, 'capture', capture(requestId('hold'))), on(0, 'release', release(requestId('hold')))],
    nodes: 2,
  },
  'a hold that expires before or after it is agreed to': {
    shards: 2,
    wallets: TWO,
    requests: [held, on(0, 'expiry', expiry(requestId('hold'))), freezeBen],
    nodes: 2,
    isDayPassing: true,
  },
  'a reversal whose payer freezes, or has spent it': {
    shards: 2,
    wallets: { ...TWO, ben: { shard: 1, funds: 0n } },
    before: [pay],
    requests: [on(0, 'reverse', reversal(requestId('pay'))), on(1, 'spend', transfer([ben, ana, 50n])), freezeBen],
    nodes: 2,
  },
  'two partial reversals of one transfer': {
    shards: 2,
    wallets: TWO,
    before: [pay],
    requests: [
      on(0, 'reverse', reversal(requestId('pay'), 40n)),
      on(0, 'reverse again', reversal(requestId('pay'), 30n)),
      freezeBen,
    ],
    nodes: 2,
  },
  'a reversal of a transfer that is not over': {
    shards: 2,
    wallets: TWO,
    requests: [pay, on(0, 'reverse', reversal(requestId('pay')))],
    nodes: 2,
  },
} as const satisfies Record<string, Configuration>

export type ConfigurationName = keyof typeof CONFIGURATIONS
