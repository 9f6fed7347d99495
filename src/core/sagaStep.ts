import { endHold } from './holding.ts'
import { moveLines, type PostingContext, standingOf, statusRefusal, type Verdict, walletOf } from './move.ts'
import type { SagaStepOperation } from './request.ts'
import { PART_KEY, type Saga, type Step } from './saga.ts'
import { totalOf } from './transfer.ts'
import type { Workspace } from './workspace.ts'

/** Decides a step of a saga that began on another shard, or here. Only a reserve or commit can be refused. */
export function takeStep(work: Workspace, { kind, saga }: SagaStepOperation, context: PostingContext): Verdict {
  switch (kind) {
    case 'saga-reserve':
      return takePart(work, saga, 'reserve', context)
    case 'saga-commit':
      return takePart(work, saga, 'commit', context)
    case 'saga-cancel':
      return {}
    case 'saga-finalize':
      return endPart(work, saga, 'finalize', context)
    case 'saga-release':
      return endPart(work, saga, 'release', context)
    default:
      return kind satisfies never
  }
}

function takePart(work: Workspace, saga: Saga, step: 'reserve' | 'commit', context: PostingContext): Verdict {
  return standingOfPart(work, saga, context) ?? moveLines(work, saga, step, context) ?? {}
}

/** What this shard's wallets say to it. Letting go is never refused; a capture finds wallets that agreed to the hold. */
function standingOfPart(work: Workspace, saga: Saga, context: PostingContext): Verdict | undefined {
  const { kind, tenantId, legs } = saga
  switch (kind) {
    case 'move':
    case 'hold':
      return standingOf(work, saga, legs, context)
    case 'capture': {
      const [refusal] = legs.flatMap(({ to }) => statusRefusal(undefined, walletOf(work, tenantId, to)) ?? [])
      return refusal && { refusal }
    }
    case 'let-go':
      return undefined
    default:
      return kind satisfies never
  }
}

function endPart(
  work: Workspace,
  saga: Saga,
  step: 'finalize' | 'release',
  context: PostingContext,
): { result?: object } {
  if (saga.shard === context.shard) {
    moveLines(work, saga, step, context)
    work.sagasEnded.push(saga.id)
    return endSaga(work, saga, step)
  }
  const part = work.record(saga.tenantId, saga.id, PART_KEY)
  if (part?.kind !== 'saga-reserve' || part.refusal !== null) {
    throw new Error(`${step} of saga ${saga.id} on shard ${context.shard}, where nothing is reserved for it`)
  }
  moveLines(work, saga, step, context)
  return {}
}

/** What the coordinator makes of the end, beside its part. */
function endSaga(work: Workspace, saga: Saga, step: Extract<Step, 'finalize' | 'release'>): { result?: object } {
  const isDone = step === 'finalize'
  switch (saga.kind) {
    case 'move': {
      const { id, tenantId, legs, reverses } = saga
      if (reverses === undefined) {
        const status = isDone ? 'completed' : 'compensated'
        work.transfers.set(id, { id, tenantId, movements: legs, status, reversed: 0n })
      } else if (!isDone) {
        const transfer = work.transfer(reverses)
        if (!transfer) throw new Error(`the transfer ${reverses} that saga ${id} reverses is not loaded`)
        work.transfers.set(reverses, { ...transfer, reversed: transfer.reversed - totalOf(legs) })
      }
      return {}
    }
    case 'hold':
      return endHold(work, { ...holdOf(work, saga.id), status: isDone ? 'held' : 'refused' })
    case 'capture': {
      const hold = holdOf(work, saga.holdId)
      const { captured = 0n } = saga
      return endHold(work, isDone ? { ...hold, status: 'captured', captured } : { ...hold, status: 'held' })
    }
    case 'let-go':
      return {}
    default:
      return saga.kind satisfies never
  }
}

function holdOf(work: Workspace, id: string | undefined) {
  const hold = id === undefined ? undefined : work.hold(id)
  if (!hold) throw new Error(`the hold ${id} of a saga is not loaded`)
  return hold
}
