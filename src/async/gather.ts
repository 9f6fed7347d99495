import { type Queued, QueueSaturated, QueueUnavailable } from './requestQueue.ts'

export type GatherOptions = {
  /** Makes some durable; ends by itself, in time, one way or the other. @throws QueueUnavailable where nothing was tried, which is no trouble */
  write: (requests: readonly Queued[]) => Promise<void>
  onTrouble: (error: unknown) => void
  countMax?: number
  bytesMax?: number
  waitMsMax?: number
}

/** In one write at most. */
const BATCH_MAX = 1_000
const COUNT_MAX = 20_000
const BYTES_MAX = 64 * 1024 * 1024
const WAIT_MS_MAX = 5_000

type Waiting = { request: Queued; sinceMs: number; resolve: () => void; reject: (error: Error) => void }

/**
 * Writes together what came while the write before was under way: no timer, no wait for who is alone. What waits is bounded by number, size and
 * time; who has waited for too long is told that it is not known, and is not written any more.
 */
export function createGather({
  write,
  onTrouble,
  countMax = COUNT_MAX,
  bytesMax = BYTES_MAX,
  waitMsMax = WAIT_MS_MAX,
}: GatherOptions): { add(request: Queued): Promise<void> } {
  let waiting: Waiting[] = []
  let bytes = 0
  let isWriting = false

  async function writeAll(): Promise<void> {
    // What arrives in the same turn of the event loop goes together.
    await new Promise((done) => setImmediate(done))
    while (waiting.length > 0) {
      const batch = waiting.slice(0, BATCH_MAX)
      waiting = waiting.slice(BATCH_MAX)
      for (const { request } of batch) bytes -= request.text.length
      await writeSome(batch)
    }
    isWriting = false
  }

  async function writeSome(batch: readonly Waiting[]): Promise<void> {
    const lateMs = Date.now() - waitMsMax
    const inTime = batch.filter(({ sinceMs }) => sinceMs >= lateMs)
    for (const { sinceMs, reject } of batch) {
      if (sinceMs < lateMs) reject(new QueueUnavailable('the queue is too slow'))
    }
    if (inTime.length === 0) return
    try {
      await write(inTime.map(({ request }) => request))
      for (const { resolve } of inTime) resolve()
    } catch (error) {
      const isKnown = error instanceof QueueUnavailable
      if (!isKnown) onTrouble(error)
      const unavailable = isKnown ? error : new QueueUnavailable('the queue did not answer', { cause: error })
      for (const { reject } of inTime) reject(unavailable)
    }
  }

  return {
    async add(request) {
      if (waiting.length >= countMax || bytes + request.text.length > bytesMax) {
        throw new QueueSaturated(`${waiting.length} requests wait to be queued already`)
      }
      bytes += request.text.length
      const { promise, resolve, reject } = Promise.withResolvers<void>()
      waiting.push({ request, sinceMs: Date.now(), resolve, reject })
      if (!isWriting) {
        isWriting = true
        void writeAll()
      }
      await promise
    },
  }
}
