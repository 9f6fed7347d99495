import type { Outcome } from '../core/post.ts'
import type { Operation, Request } from '../core/request.ts'
import type { Poster } from './poster.ts'

/** The queue is full: nothing was taken in, and the same request may be sent again. */
export class QueueFull extends Error {}

/** Gathers requests into batches for one shard's poster. */
export type Batcher = {
  /**
   * Queues a request until its block is durable.
   * @throws QueueFull at once; LedgerUnavailable later, when the outcome is not known
   */
  submit(request: Request): Promise<Outcome>
  /** How many wait, not counting those that are being posted. */
  readonly depth: number
  /** Ends when all that was queued has been answered. Nothing should be submitted meanwhile. */
  drain(): Promise<void>
}

export type BatcherOptions = {
  post: Poster['post']
  /** How many may wait at most; beyond, submit throws. */
  queueMax?: number
  /** Requests in a batch at most. */
  batchMax?: number
}

/** Movements in a batch at most, so that a thousand transfers of a hundred legs are not one block. */
const BATCH_MOVEMENTS_MAX = 4_000
/** A second batch is decided while the first is being written, but only when that many wait: each block has a fixed cost. */
const OVERLAP_MIN = 16
const IN_FLIGHT_MAX = 2

/** Of a reversal as many as the transfer had, which isn't known here. */
function movementCount(operation: Operation): number {
  if (operation.kind === 'transfer') return operation.legs.length
  return 'saga' in operation ? operation.saga.legs.length : 1
}

type Waiting = { request: Request; resolve: (outcome: Outcome) => void; reject: (error: Error) => void }

/**
 * A bounded queue in front of the poster. There is no timer: an idle batcher posts a request the moment it comes, a busy
 * one posts whatever came while the block before was being written (group commit).
 */
export function createBatcher({ post, queueMax = 20_000, batchMax = 1_000 }: BatcherOptions): Batcher {
  let queue: Waiting[] = []
  let inFlight = 0
  let onIdle: (() => void)[] = []
  let isScheduled = false

  function takeBatch(): Waiting[] {
    let movements = 0
    let count = 0
    for (const { request } of queue) {
      movements += movementCount(request.operation)
      if (count === batchMax || (count > 0 && movements > BATCH_MOVEMENTS_MAX)) break
      count += 1
    }
    const batch = queue.slice(0, count)
    queue = queue.slice(count)
    return batch
  }

  async function postBatch(batch: Waiting[]): Promise<void> {
    try {
      const results = await post(batch.map(({ request }) => request))
      batch.forEach(({ resolve, reject }, i) => {
        const result = results[i]
        if (result === undefined) reject(new Error('the poster left a request without a result'))
        else if (result instanceof Error) reject(result)
        else resolve(result)
      })
    } catch (error) {
      for (const { reject } of batch) reject(new Error('posting failed', { cause: error }))
    }
    inFlight -= 1
    pump()
  }

  function pump(): void {
    isScheduled = false
    while (queue.length > 0 && inFlight < (queue.length >= OVERLAP_MIN ? IN_FLIGHT_MAX : 1)) {
      inFlight += 1
      void postBatch(takeBatch())
    }
    if (queue.length === 0 && inFlight === 0) {
      for (const done of onIdle) done()
      onIdle = []
    }
  }

  return {
    submit(request) {
      if (queue.length >= queueMax) throw new QueueFull(`${queueMax} requests are waiting already`)
      const answer = new Promise<Outcome>((resolve, reject) => queue.push({ request, resolve, reject }))
      // What arrives in the same turn of the event loop goes together.
      if (!isScheduled && inFlight < IN_FLIGHT_MAX) {
        isScheduled = true
        setImmediate(pump)
      }
      return answer
    },
    get depth() {
      return queue.length
    },
    drain() {
      return queue.length === 0 && inFlight === 0 ? Promise.resolve() : new Promise((done) => onIdle.push(done))
    },
  }
}
