import { getPriority, setPriority } from 'node:os'
import { parentPort } from 'node:worker_threads'
import { type Verification, verifyAll } from './verification.ts'

/** What the thread is asked: to look at everything, or at what came since the last time it was asked. */
export type Ask = { readonly what: 'whole' | 'since'; readonly urls: readonly string[] }

/** Added to what the process has: on a full machine this thread gets about a third of what one gets that serves callers. */
const NICE = 5
const NICE_MAX = 19

// On Linux a thread has a priority of its own (setpriority(2), "C library/kernel differences"); elsewhere it would be the whole process's.
if (process.platform === 'linux') {
  try {
    setPriority(Math.min(NICE_MAX, getPriority() + NICE))
  } catch {
    // Forbidden here: audits go on as if they were callers.
  }
}

let last: Verification | undefined

parentPort?.on('message', async ({ what, urls }: Ask) => {
  // Another shard: what is between it and the others was not looked at.
  const since = what === 'since' && last?.balanced && last.shards.length === urls.length ? last : undefined
  last = undefined
  try {
    last = await verifyAll(urls, { since })
    parentPort?.postMessage({ verification: last })
  } catch (error) {
    parentPort?.postMessage({ problem: error instanceof Error ? (error.stack ?? error.message) : `${error}` })
  }
})
