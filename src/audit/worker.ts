import { parentPort, workerData } from 'node:worker_threads'
import { type Verification, verifyAll } from './verification.ts'

/** What the thread is asked: to look at everything, or at what came since the last time it was asked. */
export type Ask = 'whole' | 'since'

let last: Verification | undefined

parentPort?.on('message', async (ask: Ask) => {
  const since = ask === 'since' && last?.balanced ? last : undefined
  last = undefined
  try {
    last = await verifyAll(workerData as readonly string[], { since })
    parentPort?.postMessage({ verification: last })
  } catch (error) {
    parentPort?.postMessage({ problem: error instanceof Error ? (error.stack ?? error.message) : `${error}` })
  }
})
