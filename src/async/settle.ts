import { setTimeout as sleep } from 'node:timers/promises'
import type { Request } from '../core/request.ts'
import type { Sagas } from '../saga/sagas.ts'
import type { Router } from '../shards/router.ts'
import { type Disposition, judge, judgeFailure, putOff, type Verdict } from './disposition.ts'
import type { AsyncEnd } from './ends.ts'
import { readMessage } from './message.ts'
import type { Letter, Settle } from './requestQueue.ts'
import type { ShardWatch } from './shardWatch.ts'

export type SettleOptions = {
  sagas: Pick<Sagas, 'decide'>
  router: Pick<Router, 'shardOf'>
  watch: ShardWatch
  knowsTenant: (tenantId: string) => Promise<boolean>
  addEnds: (ends: readonly AsyncEnd[]) => Promise<void>
  /** Told how many are over, and how many were set aside. */
  count: (posted: number, dead: number) => void
  onTrouble: (error: unknown) => void
  patienceMs?: number
}

/** So long a request is waited for until the shard is asked whether it is there at all, and so often. */
const PATIENCE_MS = 5_000
const ROUNDS_MAX = 6
/** So long a request waits until nothing that it depends on is busy or moving. */
const DECIDE_MS_MAX = 3_000
const FULL_DELAY_MS = 20
const FULL_DELAY_MS_MAX = 500

/**
 * Has requests from the queue posted. All of a batch are submitted at once, in their order, so that they land in the same blocks; nobody waits
 * for the end of a saga. Each has one effect however often it comes, because the ledger knows its key; what comes of it is the ledger's record
 * under its id, or, where the key belonged to something else, an end that is written down here.
 */
export function createSettle({
  sagas,
  router,
  watch,
  knowsTenant,
  addEnds,
  count,
  onTrouble,
  patienceMs = PATIENCE_MS,
}: SettleOptions): Settle {
  async function verdictOf(request: Request, deadlineMs: number): Promise<Verdict> {
    for (let delayMs = FULL_DELAY_MS; ; delayMs = Math.min(FULL_DELAY_MS_MAX, delayMs * 2)) {
      let verdict: Verdict
      try {
        verdict = judge(request, await sagas.decide(request, DECIDE_MS_MAX))
      } catch (error) {
        verdict = judgeFailure(error)
        if (verdict.is === 'dead') onTrouble(error)
      }
      if (verdict.is !== 'full') return verdict
      if (Date.now() + delayMs > deadlineMs) return { is: 'later', reason: 'too much is waiting', away: false }
      await sleep(delayMs * (0.5 + Math.random() / 2))
    }
  }

  /**
   * Submits. A ledger that is slow is waited for, because to put off only makes more work of it; one that is silent is not: whatever happens, a
   * verdict comes.
   */
  async function attempt(request: Request): Promise<Verdict> {
    const shard = router.shardOf(request.id)
    if (watch.isAway(shard)) return { is: 'later', reason: `shard ${shard} is away`, away: true }
    const deciding = verdictOf(request, Date.now() + patienceMs)
    for (let round = 0; round < ROUNDS_MAX; round++) {
      const verdict = await inTime(deciding, patienceMs)
      if (verdict && !(verdict.is === 'later' && verdict.away)) return verdict
      const isThere = await watch.doubt(shard)
      if (verdict) return verdict
      if (!isThere) return { is: 'later', reason: `shard ${shard} does not answer`, away: true }
    }
    return { is: 'later', reason: `shard ${shard} is too slow`, away: false }
  }

  /** Of each tenant whether it is there; `undefined` if that can't be said. */
  async function tenantsOf(requests: readonly (Request | string)[]): Promise<Map<string, boolean | undefined>> {
    const ids = new Set(requests.flatMap((request) => (typeof request === 'string' ? [] : [request.tenantId])))
    const found = await Promise.all(
      [...ids].map(async (id) => {
        const isThere = await knowsTenant(id).catch((error: unknown) => {
          onTrouble(error)
          return undefined
        })
        return [id, isThere] as const
      }),
    )
    return new Map(found)
  }

  async function settled(
    request: Request | string,
    tenants: ReadonlyMap<string, boolean | undefined>,
  ): Promise<[Request | undefined, Verdict]> {
    if (typeof request === 'string') return [undefined, { is: 'dead', reason: request }]
    switch (tenants.get(request.tenantId)) {
      case true:
        return [request, await attempt(request)]
      case false:
        return [request, { is: 'dead', reason: 'there is no such tenant' }]
      default:
        return [request, { is: 'later', reason: 'the tenants could not be looked up', away: false }]
    }
  }

  /** Writes down what the ledger has no record of. @returns whether that went through */
  async function writeEnds(verdicts: readonly [Request | undefined, Verdict][]): Promise<boolean> {
    const timeUs = Date.now() * 1000
    const ends = verdicts.flatMap(([request, verdict]): AsyncEnd[] => {
      if (!request || verdict.is !== 'ended') return []
      const { id, tenantId, payload, operation } = request
      return [{ id, tenantId, kind: operation.kind, payload, recordId: verdict.recordId, timeUs }]
    })
    if (ends.length === 0) return true
    try {
      await addEnds(ends)
      return true
    } catch (error) {
      onTrouble(error)
      return false
    }
  }

  function dispositionOf(letter: Letter, verdict: Verdict, areEndsWritten: boolean): Disposition {
    switch (verdict.is) {
      case 'done':
        return { fate: 'done' }
      case 'ended':
        if (areEndsWritten) return { fate: 'done' }
        return putOff(letter, 'its end could not be written down', Date.now(), Math.random())
      case 'full':
      case 'later': {
        const reason = verdict.is === 'full' ? 'too much is waiting' : verdict.reason
        return putOff(letter, reason, Date.now(), Math.random())
      }
      case 'dead':
        return { fate: 'dead', reason: verdict.reason }
      default:
        return verdict satisfies never
    }
  }

  return async (letters) => {
    const requests = letters.map(({ text }) => readMessage(text))
    const tenants = await tenantsOf(requests)
    const verdicts = await Promise.all(requests.map((request) => settled(request, tenants)))
    const areEndsWritten = await writeEnds(verdicts)
    const dispositions = letters.map((letter, i) => {
      const [, verdict] = verdicts[i] ?? [undefined, { is: 'dead', reason: 'it was lost sight of' }]
      return dispositionOf(letter, verdict, areEndsWritten)
    })
    const are = (fate: Disposition['fate']) => dispositions.filter((one) => one.fate === fate).length
    count(are('done'), are('dead'))
    return dispositions
  }
}

/** What comes of it, if it comes so soon. */
async function inTime<T>(work: Promise<T>, ms: number): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<undefined>((done) => {
    timer = setTimeout(() => done(undefined), ms)
  })
  return await Promise.race([work, late]).finally(() => clearTimeout(timer))
}
