import { setTimeout as sleep } from 'node:timers/promises'
import { connect, failureOf } from '../postgres/connect.ts'

/** A node can't begin: these databases do not answer, or turn it away. The message names them, and no password. */
export class ShardsAway extends Error {}

export type AwaitOptions = {
  /** How long to wait for databases that can't be reached. */
  waitMsMax: number
  /** Told what is waited for, when it is not there at once and whenever that changes. */
  say: (text: string) => void
}

const ANSWER_MS_MAX = 3_000
const PAUSE_MS = 500
/** What will not mend itself: the log-in is refused, there is no such database. */
const TURNED_AWAY = /^(28|3D)/

/**
 * Waits until every database has answered. A node needs all of them once to begin: only they can tell that the list is the one
 * that the accounts were opened with. Later each may be away.
 * @param urls by shard number
 * @throws ShardsAway if one turns the node away, or does not answer in time
 */
export async function awaitShards(urls: readonly string[], { waitMsMax, say }: AwaitOptions): Promise<void> {
  const deadlineMs = Date.now() + waitMsMax
  let missing = urls.map((_, shard) => shard)
  for (let told = ''; ; ) {
    const looks = await Promise.all(missing.map(async (shard) => ({ shard, why: await whyAway(urls[shard] ?? '') })))
    const away = looks.flatMap(({ shard, why }) => (why ? [{ shard, ...why }] : []))
    missing = away.map(({ shard }) => shard)
    if (away.length === 0) return
    const text = away.map(({ shard, reason }) => `shard ${shard} (${placeOf(urls[shard] ?? '')}): ${reason}`).join('; ')
    if (away.some(({ isFinal }) => isFinal)) throw new ShardsAway(`a database turns this node away: ${text}`)
    if (Date.now() >= deadlineMs) {
      throw new ShardsAway(
        `not all databases answered within ${Math.round(waitMsMax / 1000)} s: ${text}. A node begins when all shards are there; ` +
          'start it again then, or let it wait longer (ZEROSUM_START_WAIT_MS). Nodes that run go on with the others',
      )
    }
    if (text !== told) say(`waiting for ${text}`)
    told = text
    await sleep(Math.min(PAUSE_MS * (0.5 + Math.random()), Math.max(0, deadlineMs - Date.now())))
  }
}

/** Why a database can't be worked on; `undefined` if it answers. */
async function whyAway(url: string): Promise<{ reason: string; isFinal: boolean } | undefined> {
  const sql = connect(url, { max: 1, role: null, name: 'zerosum start', answerMsMax: ANSWER_MS_MAX })
  try {
    await sql`SELECT 1`
    return undefined
  } catch (error) {
    if (failureOf(error) !== 'unreachable') throw error
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error
    const { code = '', message } = cause as Error & { code?: string }
    return { reason: message || code, isFinal: TURNED_AWAY.test(code) }
  } finally {
    await sql.end({ timeout: 1 })
  }
}

/** Where a database is, without who logs in. */
export function placeOf(url: string): string {
  const { host, pathname } = new URL(url)
  return `${host}${pathname}`
}
