import type { Account } from '../../src/core/account.ts'
import type { Hold } from '../../src/core/hold.ts'
import { post } from '../../src/core/post.ts'
import { type RequestRecord, stepRequest } from '../../src/core/request.ts'
import {
  decide,
  evolve,
  PART_KEY,
  type PartOutcome,
  participantsOf,
  type SagaState,
  type SagaStep,
  type Step,
} from '../../src/core/saga.ts'
import type { Transfer } from '../../src/core/transfer.ts'
import type { State } from '../../src/core/workspace.ts'
import type { ConfigurationName } from './saga.configurations.ts'
import type { Sort } from './saga.laws.ts'
import { PROTOCOL, type Protocol } from './saga.model.ts'

/** A mistake in the protocol, where it shows, and as what. */
export type Mutant = { readonly wrong: Partial<Protocol>; readonly shows: Sort; readonly in: ConfigurationName }

const RACE = 'a transfer whose three nodes race, to commit and to give up'
const FROZEN = 'a transfer to a wallet that is frozen, thawed or closed half way'
const PAYERS = 'payers on two shards, the payee on a third'
const PAYEES = 'a payer on one shard, payees on two others'
const CAPTURE = 'capture, release and expiry of one hold'

export const MUTANTS: Readonly<Record<string, Mutant>> = {
  'to give up is to release at once, and nothing is planted where it was not answered': {
    wrong: { decide: (state) => decide(state.isGivenUp ? withOpen(state, 'cancelled') : state) },
    shows: 'credited and released',
    in: RACE,
  },
  'one refusal is enough to release: the others are not told': {
    wrong: { decide: (state) => decide(hasFailed(state) ? withOpen(state, 'cancelled') : state) },
    shows: 'a part outlives its saga',
    in: PAYEES,
  },
  'the payer is finalized before the payee is credited': {
    wrong: {
      decide: (state) => {
        const steps = decide(state)
        const isCommitting = steps.some(({ step }) => step === 'commit')
        return isCommitting ? [...steps, { shard: state.saga.shard, step: 'finalize' }] : steps
      },
    },
    shows: 'finalized without commit',
    in: RACE,
  },
  'no answer is taken for a refusal': {
    wrong: {
      unheard: (shard, step) =>
        isPart(step) ? { type: 'part', shard, outcome: 'shard_unavailable' } : PROTOCOL.unheard(shard, step),
    },
    shows: 'credited and released',
    in: RACE,
  },
  'a part is released though the cancel found it accepted': {
    wrong: {
      heard: (shard, step, record) =>
        step === 'cancel' ? { type: 'part', shard, outcome: 'cancelled' } : PROTOCOL.heard(shard, step, record),
    },
    shows: 'credited and released',
    in: RACE,
  },
  'the last commits before the others have reserved': {
    wrong: {
      decide: (state) => {
        const steps = decide(state)
        const last = participantsOf(state.saga).at(-1)
        const isReserving = steps.some(({ step }) => step === 'reserve') && last !== undefined && !state.parts.has(last)
        return isReserving ? [...steps, { shard: last, step: 'commit' }] : steps
      },
    },
    // Its ledger does not let a commit be released.
    shows: 'a step threw',
    in: PAYEES,
  },
  'a cancel has a key of its own, and no longer fences the commit off': {
    wrong: {
      request: (id, saga, step, refusal) =>
        withKey(stepRequest(id, saga, step, refusal), step === 'cancel' ? '§cancel' : undefined),
    },
    shows: 'credited and released',
    in: RACE,
  },
  'a reserve has a key of its own, where nobody finds it': {
    wrong: {
      request: (id, saga, step, refusal) =>
        withKey(stepRequest(id, saga, step, refusal), step === 'reserve' ? '§reserve' : undefined),
    },
    shows: 'a step threw',
    in: PAYERS,
  },
  'a release has a key of its own, and nobody finds the end of the saga': {
    wrong: {
      request: (id, saga, step, refusal) =>
        withKey(stepRequest(id, saga, step, refusal), step === 'release' ? '§release' : undefined),
    },
    shows: 'a hold or transfer is not what the records make it',
    in: RACE,
  },
  'a finalize that comes twice is done twice': {
    wrong: { post: posting({ record: (record) => (record?.kind === 'saga-finalize' ? undefined : record) }) },
    shows: 'balances are not what the records make them',
    in: RACE,
  },
  'a commit that comes twice is done twice': {
    wrong: { post: posting({ record: (record) => (record?.kind === 'saga-commit' ? undefined : record) }) },
    shows: 'balances are not what the records make them',
    in: RACE,
  },
  'a refusal is not final': {
    wrong: {
      post: posting({ record: (record, key) => (key === PART_KEY && record?.refusal ? undefined : record) }),
    },
    shows: 'a record changed',
    in: FROZEN,
  },
  'the coordinator finalizes before the other payer': {
    wrong: { decide: (state) => coordinatorFirst(state, 'finalize') },
    shows: 'a part outlives its saga',
    in: PAYERS,
  },
  'the coordinator releases before the other payer': {
    wrong: { decide: (state) => coordinatorFirst(state, 'release') },
    shows: 'a part outlives its saga',
    in: PAYERS,
  },
  'a hold that is let go can be given up half way': {
    wrong: {
      evolve: (state, event) => (event.type === 'give-up' ? { ...state, isGivenUp: true } : evolve(state, event)),
    },
    shows: 'a part outlives its saga',
    in: CAPTURE,
  },
  'a hold that is being captured can be ended by others': {
    wrong: { post: posting({ hold: (hold) => (hold?.status === 'capturing' ? { ...hold, status: 'held' } : hold) }) },
    shows: 'a hold or transfer is not what the records make it',
    in: CAPTURE,
  },
  'a commit is of another amount than was reserved': {
    wrong: {
      request: (id, saga, step, refusal) => {
        const legs = saga.legs.map((leg) => ({ ...leg, amount: leg.amount - 1n }))
        return stepRequest(id, step === 'commit' ? { ...saga, legs } : saga, step, refusal)
      },
    },
    shows: 'transit accounts differ by more than what is in flight',
    in: RACE,
  },
  'a transit account is credited a cent too much': {
    wrong: {
      post: (state, requests, context) => {
        const posting = post(state, requests, context)
        for (const account of posting.changes.accounts.values()) {
          if (account.kind === 'transit') account.creditsPosted += 1n
        }
        return posting
      },
    },
    shows: 'a shard does not sum to zero',
    in: RACE,
  },
  'the payer may have spent it': {
    wrong: { post: posting({ account: (account) => account && { ...account, overdraftLimit: null } }) },
    shows: 'below the floor',
    in: 'two transfers of a payer who can pay for one',
  },
  'a transfer that came to nothing can be reversed': {
    wrong: {
      post: posting({
        transfer: (transfer) => (transfer?.status === 'compensated' ? { ...transfer, status: 'completed' } : transfer),
      }),
    },
    shows: 'a hold or transfer is not what the records make it',
    in: 'a reversal of a transfer that is not over',
  },
  'a wallet that was closed half way is paid': {
    wrong: {
      post: (state, requests, context) => {
        if (requests[0]?.operation.kind !== 'saga-commit') return post(state, requests, context)
        const postBlindly = posting({ account: (account) => account && { ...account, status: 'active' } })
        const posted = postBlindly(state, requests, context)
        for (const account of posted.changes.accounts.values()) {
          account.status = state.account(account.id)?.status ?? account.status
        }
        return posted
      },
    },
    shows: 'a closed wallet has money',
    in: FROZEN,
  },
  'a node that hears of a refusal forgets it': {
    wrong: {
      evolve: (state, event) => (event.type === 'part' && event.outcome !== 'accepted' ? state : evolve(state, event)),
    },
    shows: 'never ends',
    in: FROZEN,
  },
}

function isPart(step: Step): boolean {
  return step === 'reserve' || step === 'commit' || step === 'cancel'
}

function hasFailed({ parts }: SagaState): boolean {
  return [...parts.values()].some((outcome) => outcome !== 'accepted')
}

/** A state in which the shards that have not answered are taken to have said something. */
function withOpen(state: SagaState, outcome: PartOutcome): SagaState {
  const open = participantsOf(state.saga).filter((shard) => !state.parts.has(shard))
  return { ...state, parts: new Map([...state.parts, ...open.map((shard) => [shard, outcome] as const)]) }
}

function coordinatorFirst(state: SagaState, step: Step): SagaStep[] {
  const steps = decide(state)
  const [first] = steps
  return first?.step === step ? [{ ...first, shard: state.saga.shard }] : steps
}

function withKey<T extends { readonly key: string }>(request: T, key: string | undefined): T {
  return key === undefined ? request : { ...request, key }
}

/** Posts to a ledger that sees some of what it has otherwise. */
function posting({
  record = (seen) => seen,
  hold = (seen) => seen,
  account = (seen) => seen,
  transfer = (seen) => seen,
}: {
  record?: (record: RequestRecord | undefined, key: string) => RequestRecord | undefined
  hold?: (hold: Hold | undefined) => Hold | undefined
  account?: (account: Account | undefined) => Account | undefined
  transfer?: (transfer: Transfer | undefined) => Transfer | undefined
}): typeof post {
  return (state, requests, context) => {
    const seen: State = {
      account: (id) => account(state.account(id)),
      transfer: (id) => transfer(state.transfer(id)),
      hold: (id) => hold(state.hold(id)),
      record: (tenantId, scope, key) => record(state.record(tenantId, scope, key), key),
    }
    return post(seen, requests, context)
  }
}
