import type { FastifyReply, FastifyRequest } from 'fastify'
import { QueueSaturated, QueueUnavailable } from '../async/requestQueue.ts'
import type { Later } from '../async/start.ts'
import { formatId } from '../core/ids.ts'
import type { Kind, Request, RequestRecord } from '../core/request.ts'
import { type ErrorCode, ZerosumError } from '../errors.ts'
import { QueueFull } from '../ledger/batcher.ts'
import { LedgerUnavailable, RequestUndecided } from '../ledger/poster.ts'
import type { SagaEnd } from '../saga/runner.ts'
import type { Sagas, Settled } from '../saga/sagas.ts'
import type { Router } from '../shards/router.ts'

/** What routes work on: where things are read, and by whom requests are posted. */
export type Ledger = { readonly router: Router; readonly sagas: Sagas }

/** Takes a request in, to be posted later. @throws ZerosumError: saturated, queue_unavailable */
export async function acceptLater(later: Later, request: Request): Promise<void> {
  try {
    await within(later.accept(request), 'queue_unavailable')
  } catch (error) {
    if (error instanceof QueueSaturated) throw new ZerosumError('saturated')
    if (error instanceof QueueUnavailable) throw new ZerosumError('queue_unavailable')
    throw error
  }
}

/** What comes of it, if it comes within the time that a caller waits. @throws ZerosumError with that code if not */
async function within<T>(work: Promise<T>, code: ErrorCode): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const deadline = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new ZerosumError(code)), ANSWER_MS_MAX)
  })
  return await Promise.race([work, deadline]).finally(() => clearTimeout(timer))
}

/** How long a caller waits for a block before it is told to ask again. The posting goes on. */
const ANSWER_MS_MAX = 10_000
/** How long it waits for a saga; then it is told where to look. */
const SAGA_MS_MAX = 8_000

/** The key of a request. @throws idempotency_key_missing */
export function idempotencyKey(request: FastifyRequest): string {
  const key = request.headers['idempotency-key']
  if (typeof key !== 'string') throw new ZerosumError('idempotency_key_missing')
  return key
}

/** What was accepted, and how it ended if it was a saga. */
export type Accepted = { readonly record: RequestRecord; readonly end?: SagaEnd | 'pending' }

/**
 * Has a request posted; answers when it is durable, and over as far as that can be waited for.
 * @throws ZerosumError: saturated, ledger_unavailable, request_in_flight, moving
 */
export async function submit(sagas: Sagas, request: Request): Promise<Settled> {
  try {
    return await within(sagas.submit(request, SAGA_MS_MAX), 'request_in_flight')
  } catch (error) {
    if (error instanceof QueueFull) throw new ZerosumError('saturated', undefined, {})
    if (error instanceof LedgerUnavailable) throw new ZerosumError('ledger_unavailable')
    if (error instanceof RequestUndecided)
      throw new ZerosumError(error.why === 'moving' ? 'moving' : 'request_in_flight')
    throw error
  }
}

const TRANSFER_KINDS: ReadonlySet<Kind> = new Set(['transfer', 'top-up', 'withdrawal', 'reversal'])

/**
 * What was accepted, now or when the key first came, and did not come to nothing since.
 * @throws the refusal, as it was recorded, if it was refused
 */
export function accepted({ status, record, end }: Settled): Accepted {
  if (status === 'key_reused') throw new ZerosumError('idempotency_key_reused')
  const isUndone = end !== undefined && end !== 'pending' && end.status === 'compensated'
  const reason = isUndone ? end.reason : null
  const refusal = isUndone ? (reason?.refusal ?? 'shard_unavailable') : record.refusal
  if (refusal === null) return end === undefined ? { record } : { record, end }
  const recorded = (JSON.parse(record.result ?? '{}') ?? {}) as { leg?: number }
  const { leg } = isUndone ? (reason ?? {}) : recorded
  const transferId = TRANSFER_KINDS.has(record.kind) ? { transferId: formatId('trf', record.id) } : {}
  throw new ZerosumError(refusal, undefined, { ...(leg === undefined ? {} : { leg }), ...transferId })
}

/** Submits, marks a replay as one, and answers what was accepted. @throws as `submit` and `accepted` */
export async function post(sagas: Sagas, request: Request, reply: FastifyReply): Promise<Accepted> {
  const settled = await submit(sagas, request)
  if (settled.status === 'replayed') reply.header('idempotency-replayed', 'true')
  return accepted(settled)
}

/** 202 while a saga is not over; what its location shows will change. */
export function statusOf<Done extends 200 | 201>({ end }: Accepted, done: Done): Done | 202 {
  return end === 'pending' ? 202 : done
}
