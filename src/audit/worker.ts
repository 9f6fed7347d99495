import { parentPort } from 'node:worker_threads'
import { type Verification, verifyAll } from './verification.ts'

/** What the thread is asked: to look at everything, or at what came since the last time it was asked. */
export type Ask = { readonly what: 'whole' | 'since'; readonly urls: readonly string[] }

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
