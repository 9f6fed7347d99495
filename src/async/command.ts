import { formatTime } from '../core/time.ts'
import type { DeadLetter, RequestQueue } from './requestQueue.ts'

/** Shown at most. */
const LISTED_MAX = 10_000

/**
 * `zerosum dlq list [--json]`: requests that could not be posted, with the reason. `zerosum dlq retry ID…|--all`: has them posted again.
 * @returns the exit code: 1 if there is nothing to retry; `undefined` if that is not how it is called
 */
export async function runDlq(queue: RequestQueue, [command, ...args]: readonly string[]): Promise<number | undefined> {
  if (command === 'list' && (args.length === 0 || (args.length === 1 && args[0] === '--json'))) {
    const letters = await queue.dead(LISTED_MAX)
    console.log(args.length === 0 ? tableOf(letters) : JSON.stringify(letters, null, 2))
    return 0
  }
  if (command === 'retry' && args.length > 0) {
    const isAll = args.length === 1 && args[0] === '--all'
    if (!isAll && args.some((arg) => arg.startsWith('-'))) return undefined
    const count = await queue.revive(isAll ? 'all' : args)
    console.log(`${count} put back into the queue`)
    return count === 0 && !isAll ? 1 : 0
  }
  return undefined
}

function tableOf(letters: readonly DeadLetter[]): string {
  if (letters.length === 0) return 'no requests were set aside'
  return letters
    .map(({ name, reason, attempts, origin, deadMs }) => {
      const times = `${formatTime(deadMs * 1000)}, attempt ${attempts}, from ${origin}`
      return `${name}  ${times}\n  ${reason}`
    })
    .join('\n')
}
