import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { connect, connectOrShare, type Sql } from '../postgres/connect.ts'
import type { Verification } from './verification.ts'
import type { Ask } from './worker.ts'

/** The last audit that any node made. */
export type LastAudit = { readonly verification: Verification; readonly finishedUs: number; readonly tookMs: number }

/** Audits that go on by themselves. */
export type Audits = {
  /** `undefined` before the first one of the installation is done. */
  last(): Promise<LastAudit | undefined>
  close(): Promise<void>
}

export type AuditsOptions = {
  /** By shard number, as of now; what audits found is kept on the first. */
  urls: () => readonly string[]
  /** A pool on the first shard by which what was found is shown; else one of its own. */
  shownBy?: Sql
  intervalMs?: number
  /** How long an audit waits at most while there is no rest. */
  putOffMsMax?: number
  /** Asked before each audit but the first: whether this node has had rest since it was last asked. */
  hasRest?: () => boolean
  onTrouble: (error: unknown) => void
}

/** Often, so that each has little to do: a machine that is full feels a minute of its work being read again. */
const INTERVAL_MS = 20_000
/** Above this part of the time at work, a node's event loop has no rest, and its audit waits for rest: what callers ask for goes first. */
const UTILIZATION_MAX = 0.8
/** It waits no longer: what is wrong must not stay hidden behind a crowd. */
const PUT_OFF_MS_MAX = 5 * 60_000
/** Between these, an audit looks at new blocks only. */
const WHOLE_EVERY_MS = 3_600_000
const CLOSE_MS_MAX = 5_000
const ANSWER_MS_MAX = 5_000
const KEPT_US = 30 * 24 * 3600 * 1_000_000
const LOCK_KEY = 8_203_718

/** Where an audit found something, without what: that is of people's accounts. */
function whereOf({ shards, transit, copies }: Verification): string {
  const wrong = shards.filter(({ balanced }) => !balanced)
  return [
    ...wrong.map(({ shard, discrepancy }) => `shard ${shard}, block ${discrepancy?.block ?? 'unknown'}`),
    ...(transit.balanced ? [] : ['between shards']),
    ...((copies?.balanced ?? true) ? [] : ['copied history']),
  ].join('; ')
}

/**
 * Audits all shards again and again, in a thread of its own, so that no request waits for it; one node at a time. Each finding is
 * kept for all nodes to show.
 */
export function startAudits({
  urls,
  shownBy,
  intervalMs = INTERVAL_MS,
  putOffMsMax = PUT_OFF_MS_MAX,
  hasRest = watchRest(),
  onTrouble,
}: AuditsOptions): Audits {
  const url = urls()[0] ?? ''
  // It holds a lock for as long as an audit takes.
  const sql = connect(url, { max: 1, name: 'zerosum audits', answerMsMax: ANSWER_MS_MAX })
  const shown = connectOrShare(shownBy ?? url, { max: 1, name: 'zerosum audits shown', answerMsMax: ANSWER_MS_MAX })
  const stopping = new AbortController()
  let worker: Worker | undefined
  let wholeMs = -Infinity

  async function last(): Promise<LastAudit | undefined> {
    const [row] = await shown<{ report: Verification; finished_us: bigint; took_ms: number }[]>`
      SELECT report, finished_us, took_ms FROM verifications ORDER BY finished_us DESC LIMIT 1`
    return row && { verification: row.report, finishedUs: Number(row.finished_us), tookMs: row.took_ms }
  }

  /** Holds a lock meanwhile; another node that audits is enough. */
  async function audit(): Promise<void> {
    await sql.begin(async (sql) => {
      // The thread may take long, and the transaction has nothing to do till then.
      await sql`SET LOCAL idle_in_transaction_session_timeout = 0`
      const [lock] = await sql<{ taken: boolean }[]>`SELECT pg_try_advisory_xact_lock(${LOCK_KEY}) AS taken`
      if (!lock?.taken) return
      const began = performance.now()
      // What the whole of it found wrong, only the whole of it may take back, on whatever node.
      const [newest] = await sql<{ report: Verification }[]>`
        SELECT report FROM verifications ORDER BY finished_us DESC LIMIT 1`
      const isWhole = began - wholeMs >= WHOLE_EVERY_MS || newest?.report.balanced === false
      const verification = await ask(isWhole ? 'whole' : 'since')
      if (isWhole) wholeMs = began
      const tookMs = Math.round(performance.now() - began)
      const nowUs = Date.now() * 1000
      await sql`
        INSERT INTO verifications (finished_us, took_ms, report)
        VALUES (${nowUs}, ${tookMs}, ${JSON.stringify(verification)}::text::json)`
      await sql`DELETE FROM verifications WHERE finished_us < ${nowUs - KEPT_US}`
      if (!verification.balanced)
        onTrouble(new Error(`the books do not agree: ${whereOf(verification)}; see GET /v1/ledger/verification`))
    })
  }

  /** Asks the thread; if that ends instead of answering, the next one is asked the next time. */
  async function ask(what: Ask['what']): Promise<Verification> {
    stopping.signal.throwIfAborted()
    worker ??= open()
    worker.postMessage({ what, urls: urls() } satisfies Ask)
    const [answer] = (await once(worker, 'message', { signal: stopping.signal })) as [
      { verification?: Verification; problem?: string },
    ]
    if (!answer.verification) throw new Error(`the audit failed: ${answer.problem}`)
    return answer.verification
  }

  function open(): Worker {
    const opened = new Worker(new URL('worker.ts', import.meta.url))
    opened.on('error', onTrouble)
    opened.on('exit', (code) => {
      if (worker === opened) worker = undefined
      opened.emit('message', { problem: `the thread ended with code ${code}` })
    })
    return opened
  }

  async function loop(): Promise<void> {
    let triedMs = -Infinity
    while (!stopping.signal.aborted) {
      if (performance.now() - triedMs >= putOffMsMax || hasRest()) {
        await audit().catch((error) => {
          if (!stopping.signal.aborted) onTrouble(error)
        })
        triedMs = performance.now()
      }
      await sleep(intervalMs * (0.75 + Math.random() / 2), undefined, { signal: stopping.signal }).catch(() => {})
    }
  }

  const running = loop()
  return {
    last,
    async close() {
      stopping.abort()
      await Promise.race([running, sleep(CLOSE_MS_MAX, undefined, { ref: false })])
      await worker?.terminate()
      await Promise.all([sql.end({ timeout: 5 }), shown.end({ timeout: 5 })])
    },
  }
}

/** By the part of the time in which this thread's event loop was at work. */
function watchRest(): () => boolean {
  let last = performance.eventLoopUtilization()
  return () => {
    const now = performance.eventLoopUtilization()
    const { utilization } = performance.eventLoopUtilization(now, last)
    last = now
    return utilization < UTILIZATION_MAX
  }
}
