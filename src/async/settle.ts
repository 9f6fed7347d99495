import { setTimeout as sleep } from 'node:timers/promises'
import { type Request, walletsOf } from '../core/request.ts'
import { continuing } from '../observe/spans.ts'
import type { Sagas } from '../saga/sagas.ts'
import type { Router } from '../shards/router.ts'
import { type Disposition, judge, judgeFailure, putOff, type Verdict } from './disposition.ts'
import type { AsyncEnd } from './ends.ts'
import { createLanes, type Pause } from './lanes.ts'
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
  crowdedMsMax?: number
}

/** So long a request is waited for until the shard is asked whether it is there at all, and so often. */
const PATIENCE_MS = 5_000
const ROUNDS_MAX = 6
/** So long a request waits until nothing that it depends on is busy or moving. */
const DECIDE_MS_MAX = 3_000
/** So long it waits for room among the sagas of a shard that answers: they may be stuck. */
const CROWDED_MS_MAX = 30_000
const FULL_DELAY_MS = 20
const FULL_DELAY_MS_MAX = 500

/**
 * Has requests from the queue posted. Those of a batch are submitted together, in their order, so that they land in the same blocks; nobody waits
 * for the end of a saga. Each has one effect however often it comes, because the ledger knows its key; what comes of it is the ledger's record
 * under its id, or, where the key belonged to something else, an end that is written down here.
 *
 * What is of one payer is decided in the order in which it came here, as far as nothing of it is put off (lanes.ts). When the ledger has no
 * room, it waits, and whoever reads the queue with it; what can't go on is put off, and holds up nothing.
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
  crowdedMsMax = CROWDED_MS_MAX,
}: SettleOptions): Settle {
  const lanes = createLanes()

  async function decided(request: Request, pause: Pause): Promise<Verdict> {
    try {
      return judge(request, await sagas.decide(request, DECIDE_MS_MAX, pause))
    } catch (error) {
      const verdict = judgeFailure(error)
      if (verdict.is === 'dead') onTrouble(error)
      return verdict
    }
  }

  /** A shard that a request needs and that does not answer, as far as is known. */
  function awayOf({ id, operation }: Request): number | undefined {
    return [id, ...walletsOf(operation)].map(router.shardOf).find((shard) => watch.isAway(shard))
  }

  /**
   * Submits. A ledger that is slow is waited for, because to put off only makes more work of it; one that is silent is not: whatever happens, a
   * verdict comes.
   */
  async function attempt(request: Request, pause: Pause): Promise<Verdict> {
    const deciding = decided(request, pause)
    const shard = router.shardOf(request.id)
    for (let round = 0; round < ROUNDS_MAX; round++) {
      const verdict = await inTime(deciding, patienceMs)
      if (verdict?.is === 'later' && verdict.doubt) return { ...verdict, away: !(await watch.doubt(shard)) }
      if (verdict) return verdict
      if (!(await watch.doubt(shard))) return { is: 'later', reason: `shard ${shard} does not answer`, away: true }
    }
    return { is: 'later', reason: `shard ${shard} is too slow` }
  }

  /**
   * Submits until there is room; for a payee whose shard too many sagas wait for, as long as that answers, and not without end.
   * @throws when this node stops before that
   */
  async function submitted(request: Request, pause: Pause, signal: AbortSignal): Promise<Verdict> {
    let crowdedSinceMs: number | undefined
    for (let delayMs = FULL_DELAY_MS; ; delayMs = Math.min(FULL_DELAY_MS_MAX, delayMs * 2)) {
      signal.throwIfAborted()
      const away = awayOf(request)
      if (away !== undefined) return { is: 'later', reason: `shard ${away} is away`, away: true }
      const verdict = await attempt(request, pause)
      if (verdict.is !== 'full') return verdict
      const { crowded } = verdict
      crowdedSinceMs = crowded === undefined ? undefined : (crowdedSinceMs ?? Date.now())
      if (crowdedSinceMs !== undefined && Date.now() - crowdedSinceMs > crowdedMsMax) {
        return { is: 'later', reason: `too many sagas wait for shard ${crowded}` }
      }
      const rest = sleep(delayMs * (0.5 + Math.random() / 2))
      await pause(crowded === undefined ? rest : Promise.all([rest, watch.doubt(crowded)]))
    }
  }

  /** Of each tenant whether it is there; `undefined` if that can't be said. */
  function tenantsOf(requests: readonly (Request | string)[]): Map<string, Promise<boolean | undefined>> {
    const ids = new Set(requests.flatMap((request) => (typeof request === 'string' ? [] : [request.tenantId])))
    const ask = (id: string) =>
      knowsTenant(id).catch((error: unknown) => {
        onTrouble(error)
        return undefined
      })
    return new Map([...ids].map((id) => [id, ask(id)]))
  }

  /** Takes its place in line at once. */
  async function settled(
    request: Request | string,
    tenants: ReadonlyMap<string, Promise<boolean | undefined>>,
    signal: AbortSignal,
  ): Promise<[Request | undefined, Verdict]> {
    if (typeof request === 'string') return [undefined, { is: 'dead', reason: request }]
    const { tenantId, scope, id } = request
    const ready = tenants.get(tenantId) ?? Promise.resolve(undefined)
    const place = { lane: `${router.shardOf(id)} ${tenantId}`, scope: `${tenantId} ${scope}`, ready }
    let isThere: boolean | undefined
    void ready.then((answer) => {
      isThere = answer
    })
    const verdict = await lanes.run(place, async (pause) => {
      if (isThere) return await submitted(request, pause, signal)
      if (isThere === false) return { is: 'dead', reason: 'there is no such tenant' } as const
      return { is: 'later', reason: 'the tenants could not be looked up' } as const
    })
    return [request, verdict]
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
    const later = (reason: string, isAway = false) => putOff(letter, { reason, isAway }, Date.now(), Math.random())
    switch (verdict.is) {
      case 'done':
        return { fate: 'done' }
      case 'ended':
        return areEndsWritten ? { fate: 'done' } : later('its end could not be written down')
      case 'full':
        return later('too much is waiting')
      case 'later':
        return later(verdict.reason, verdict.away)
      case 'dead':
        return { fate: 'dead', reason: verdict.reason }
      default:
        return verdict satisfies never
    }
  }

  return async (letters, signal) => {
    const requests = letters.map(({ text }) => readMessage(text))
    const tenants = tenantsOf(requests)
    const verdicts = await Promise.all(
      requests.map((request, i) => continuing(letters[i]?.traceparent, () => settled(request, tenants, signal))),
    )
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
