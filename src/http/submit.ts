import type { FastifyReply, FastifyRequest } from 'fastify'
import { formatId } from '../core/ids.ts'
import type { Outcome } from '../core/post.ts'
import type { Kind, Request, RequestRecord } from '../core/request.ts'
import { ZerosumError } from '../errors.ts'
import { QueueFull } from '../ledger/batcher.ts'
import { LedgerUnavailable } from '../ledger/poster.ts'
import type { Shard } from '../shards/shard.ts'

/** How long a caller waits for a block before it is told to ask again. The posting goes on. */
const ANSWER_MS_MAX = 10_000

/** The key of a request. @throws idempotency_key_missing */
export function idempotencyKey(request: FastifyRequest): string {
  const key = request.headers['idempotency-key']
  if (typeof key !== 'string') throw new ZerosumError('idempotency_key_missing')
  return key
}

/**
 * Has a request posted; answers when it is durable.
 * @throws ZerosumError: saturated, ledger_unavailable, request_in_flight
 */
export async function submit(shard: Shard, request: Request): Promise<Outcome> {
  let timer: NodeJS.Timeout | undefined
  const deadline = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new ZerosumError('request_in_flight')), ANSWER_MS_MAX)
  })
  try {
    return await Promise.race([shard.batcher.submit(request), deadline])
  } catch (error) {
    if (error instanceof QueueFull) throw new ZerosumError('saturated', undefined, {})
    if (error instanceof LedgerUnavailable) throw new ZerosumError('ledger_unavailable')
    throw error
  } finally {
    clearTimeout(timer)
  }
}

const TRANSFER_KINDS: ReadonlySet<Kind> = new Set(['transfer', 'top-up', 'withdrawal', 'reversal'])

/** What was accepted, now or when the key first came. @throws the refusal, as it was recorded, if it was refused */
export function acceptedRecord({ status, record }: Outcome): RequestRecord {
  if (status === 'key_reused') throw new ZerosumError('idempotency_key_reused')
  if (record.refusal === null) return record
  const extra = record.result === null ? {} : (JSON.parse(record.result) as Record<string, unknown>)
  const transferId = TRANSFER_KINDS.has(record.kind) ? { transferId: formatId('trf', record.id) } : {}
  throw new ZerosumError(record.refusal, undefined, { ...extra, ...transferId })
}

/** Submits, marks a replay as one, and answers what was accepted. @throws as `submit` and `acceptedRecord` */
export async function post(shard: Shard, request: Request, reply: FastifyReply): Promise<RequestRecord> {
  const outcome = await submit(shard, request)
  if (outcome.status === 'replayed') reply.header('idempotency-replayed', 'true')
  return acceptedRecord(outcome)
}
