import { afterAll, describe, expect, test } from 'vitest'
import { CONFIGURATIONS, type ConfigurationName } from './saga.configurations.ts'
import { Violation } from './saga.laws.ts'
import { explore, PROTOCOL } from './saga.model.ts'
import { MUTANTS, type Mutant } from './saga.mutants.ts'

/** What may become of any saga, and of this one. */
const saga = (...more: string[]) => ['accepted', 'completed', 'compensated: shard_unavailable', ...more]
/** What can't fail, or did not. */
const THROUGH = ['accepted', 'completed']

/** All that may become of each request, so that no exploration can go by having explored little. */
const OUTCOMES: Record<ConfigurationName, Record<string, readonly string[]>> = {
  'a transfer whose three nodes race, to commit and to give up': {
    pay: saga(),
  },
  'a transfer to a wallet that is frozen, thawed or closed half way': {
    pay: saga('compensated: wallet_closed', 'compensated: wallet_frozen'),
    'freeze ben': ['accepted', 'wallet_closed'],
    'thaw ben': ['accepted', 'wallet_closed'],
    'close ben': ['accepted', 'wallet_not_empty'],
  },
  'a transfer from a wallet that is frozen or closed half way': {
    pay: saga('wallet_frozen'),
    'freeze ana': ['accepted', 'wallet_closed'],
    'close ana': ['accepted', 'wallet_not_empty'],
  },
  'two transfers in opposite directions between the same wallets': {
    pay: saga('compensated: wallet_frozen'),
    'pay back': saga('wallet_frozen'),
    'freeze ben': ['accepted'],
  },
  'two transfers of a payer who can pay for one': {
    pay: saga('compensated: wallet_frozen', 'insufficient_funds'),
    'pay again': saga('compensated: wallet_frozen', 'insufficient_funds'),
    'freeze ben': ['accepted'],
  },
  'a payment onwards of what has not arrived yet': {
    pay: saga(),
    'pay onwards': saga('insufficient_funds'),
  },
  'payers on two shards, the payee on a third': {
    pay: saga('compensated: wallet_frozen'),
    'freeze cleo': ['accepted'],
  },
  'a payer on one shard, payees on two others': {
    pay: saga('compensated: wallet_frozen'),
    'freeze ben': ['accepted'],
    'freeze cleo': ['accepted'],
  },
  'money that goes round three shards, more than each has left': {
    'pay round': saga('compensated: insufficient_funds'),
    pay: saga('insufficient_funds'),
  },
  'a payment with legs inside a shard, the payee frozen half way': {
    pay: saga('compensated: wallet_frozen'),
    'freeze bea': ['accepted'],
  },
  'two payments over the same three shards, from different ends': {
    pay: saga(),
    'pay from the other end': saga(),
  },
  'two payments to a wallet whose limit admits one': {
    pay: saga('compensated: limit_exceeded'),
    'pay too': saga('compensated: limit_exceeded'),
  },
  'a reversal of a payment to two other shards': {
    pay: THROUGH,
    reverse: saga('compensated: wallet_frozen'),
    'freeze ben': ['accepted'],
    'freeze cleo': ['accepted'],
  },
  'a hold between shards': {
    hold: saga('compensated: wallet_frozen'),
    'freeze ben': ['accepted'],
  },
  'capture, release and expiry of one hold': {
    hold: THROUGH,
    capture: saga('compensated: wallet_frozen', 'hold_already_released', 'hold_expired'),
    release: [...THROUGH, 'hold_already_captured', 'hold_expired'],
    expiry: [...THROUGH, 'hold_already_captured', 'hold_already_released', 'hold_not_expired'],
    'freeze ben': ['accepted'],
  },
  'two captures and a release of one hold': {
    hold: THROUGH,
    capture: saga('hold_already_captured', 'hold_already_released'),
    'capture a part': saga('hold_already_captured', 'hold_already_released'),
    release: [...THROUGH, 'hold_already_captured'],
  },
  'a hold, its capture and its release from the beginning': {
    hold: saga(),
    capture: saga('hold_already_released', 'hold_not_found'),
    release: [...THROUGH, 'hold_already_captured', 'hold_not_found'],
  },
  'a hold that expires before or after it is agreed to': {
    hold: saga('compensated: wallet_frozen'),
    expiry: [...THROUGH, 'hold_not_expired', 'hold_not_found'],
    'freeze ben': ['accepted'],
  },
  'a reversal whose payer freezes, or has spent it': {
    pay: THROUGH,
    reverse: saga('compensated: insufficient_funds', 'compensated: wallet_frozen'),
    spend: saga('insufficient_funds', 'wallet_frozen'),
    'freeze ben': ['accepted'],
  },
  'two partial reversals of one transfer': {
    pay: THROUGH,
    reverse: saga('compensated: wallet_frozen', 'exceeds_reversible'),
    'reverse again': saga('compensated: wallet_frozen', 'exceeds_reversible'),
    'freeze ben': ['accepted'],
  },
  'a reversal of a transfer that is not over': {
    pay: saga(),
    reverse: saga('transfer_not_found'),
  },
}

describe('whatever the order, delay, loss, duplicate or crash, money moves once or not at all', () => {
  const lines: string[] = []
  afterAll(() => console.log(lines.join('\n')))

  test.each(Object.keys(CONFIGURATIONS) as ConfigurationName[])('%s', (name) => {
    const startedMs = performance.now()
    const { states, transitions, ledgers, outcomes } = explore(CONFIGURATIONS[name])
    const ms = Math.round(performance.now() - startedMs)
    lines.push(`${name}: ${states} states, ${transitions} transitions, ${ledgers} ledgers, ${ms} ms`)
    expect(Object.fromEntries(outcomes)).toEqual(
      Object.fromEntries(Object.entries(OUTCOMES[name]).map(([request, some]) => [request, new Set(some)])),
    )
  })
})

describe('a mistake in the protocol shows, with the steps that lead to it', () => {
  test.each(Object.entries(MUTANTS))('%s', (_, mutant) => {
    const violation = violationOf(mutant)
    expect(violation.sort).toBe(mutant.shows)
    expect(violation.trace[0]).toMatch(/ arrives$/)
  })

  test('the trace is a shortest one', () => {
    const { message } = violationOf(mutantNamed('to give up is to release at once'))
    expect(message.split('\n').slice(1)).toEqual([
      '1. pay arrives',
      '2. commit of pay on shard 1 arrives',
      '3. a node of pay gives up',
      '4. release (shard_unavailable) of pay on shard 0 arrives',
    ])
  })

  test('a saga that gets stuck is told by what was answered last', () => {
    const { message } = violationOf(mutantNamed('a node that hears of a refusal forgets it'))
    expect(message.split('\n')).toEqual([
      'never ends: pay is stuck',
      '1. pay arrives',
      '2. from here all is answered',
      '3. cancel of pay on shard 1 arrives, and is answered',
    ])
  })
})

function mutantNamed(start: string): Mutant {
  const found = Object.entries(MUTANTS).find(([name]) => name.startsWith(start))
  if (!found) throw new Error(`no mutant ${start}`)
  return found[1]
}

function violationOf(mutant: Mutant): Violation {
  try {
    explore(CONFIGURATIONS[mutant.in], { ...PROTOCOL, ...mutant.wrong })
  } catch (error) {
    if (error instanceof Violation) return error
    throw error
  }
  throw new Error('nothing was found')
}
