import { setTimeout as sleep } from 'node:timers/promises'
import { type Attributes, context, trace } from '@opentelemetry/api'
import { formatId, slotOfId } from '../core/ids.ts'
import type { Outcome } from '../core/post.ts'
import { type Peer, type Request, stepRequest, walletsOf } from '../core/request.ts'
import { begunSaga, participantsOf, type Saga } from '../core/saga.ts'
import { QueueFull } from '../ledger/batcher.ts'
import { RequestUndecided } from '../ledger/poster.ts'
import { continuing, fail, isSampled, startSpan } from '../observe/spans.ts'
import { newId } from '../shards/newId.ts'
import type { Router } from '../shards/router.ts'
import { startRecovery } from './recovery.ts'
import { endOf, type RunOptions, runSaga, type SagaEnd, SagaInterrupted } from './runner.ts'

/** Too many sagas wait for a shard, which may be away: nothing was done, and the same request may be sent again. */
export class SagasSaturated extends QueueFull {
  readonly shard: number

  constructor(shard: number) {
    super(`${IN_FLIGHT_MAX} sagas are waiting for shard ${shard} already`)
    this.shard = shard
  }
}

/** What became of a request; of one that began a saga also how that ended, `pending` if it has not. */
export type Settled = Outcome & { readonly end?: SagaEnd | 'pending' }

/** Posts requests, and sees the sagas through that they begin. */
export type Sagas = {
  /**
   * Posts a request on the shard that its id names; when its wallets live on several, waits for the others.
   * @param waitMsMax after so long a saga that is not over is reported as pending, or when a shard of it takes no blocks; it goes on
   * @throws QueueFull at once; RequestUndecided when it waits for another saga for too long; LedgerUnavailable when the outcome
   * is not known
   */
  submit(request: Request, waitMsMax: number): Promise<Settled>
  /**
   * Posts a request likewise, and waits for no saga: the one that it begins goes on. It leaves room to those whom somebody waits for.
   * It is with the batcher before the first wait.
   * @param waitMsMax so long it waits for what the request depends on
   * @param pause how it waits for something before it tries once more, which it does at once after that
   */
  decide(request: Request, waitMsMax: number, pause: (work: Promise<unknown>) => Promise<unknown>): Promise<Outcome>
  /** How many sagas this node is working on. */
  readonly inFlight: number
  /** Stops working on sagas, where they stand: any node takes them up. Nothing should be submitted meanwhile. */
  close(): Promise<void>
}

export type SagasOptions = {
  router: Router
  onTrouble: (error: unknown) => void
  /** A participant that has not decided so long after the beginning is not waited for. */
  giveUpMs?: number
}

const GIVE_UP_MS = 20_000
/** Sagas that may wait for one shard; a shard that is down must not fill this node. */
const IN_FLIGHT_MAX = 5_000
/** How a request is waited for. */
type Waits = { deadlineMs: number; isPatient: boolean; pause: (work: Promise<unknown>) => Promise<unknown> }

const BUSY_DELAY_MS = 10
const BUSY_DELAY_MS_MAX = 250

export function createSagas({ router, onTrouble, giveUpMs = GIVE_UP_MS }: SagasOptions): Sagas {
  const running = new Map<string, ReturnType<typeof runSaga>>()
  const waitingFor = new Map<number, number>()
  let isStopped = false

  /** Runs a saga, once at a time. Whoever wants its end may wait; nobody has to. */
  function see(saga: Saga, giveUpAtMs: number, attributes: Attributes = {}): Promise<SagaEnd> {
    const known = running.get(saga.id)
    if (known) return known.end
    if (isStopped) return Promise.reject(new SagaInterrupted('this node stops'))
    const count = (by: 1 | -1) => {
      for (const shard of participantsOf(saga)) waitingFor.set(shard, (waitingFor.get(shard) ?? 0) + by)
    }
    count(1)
    const run = runTraced(saga, attributes, {
      submit: (shard, step, reason) => {
        const request = stepRequest(newId(slotOn(saga, shard)), saga, step, reason)
        return router.shard(shard).batcher.submit(request)
      },
      giveUpAtMs,
      onTrouble,
    })
    running.set(saga.id, run)
    const leave = () => {
      running.delete(saga.id)
      count(-1)
    }
    run.end.then(leave, (error) => {
      leave()
      if (!(error instanceof SagaInterrupted)) onTrouble(error)
    })
    return run.end
  }

  /** What the shards of its wallets say of them; nothing of those that don't answer. */
  async function askPeers({ tenantId, operation }: Request): Promise<Map<string, Peer | null>> {
    const peers = new Map<string, Peer | null>()
    await Promise.all(
      [...new Set(walletsOf(operation))].map(async (id) => {
        try {
          peers.set(id, (await router.read(id, ({ reader }) => reader.wallet(tenantId, id))) ?? null)
        } catch (error) {
          onTrouble(error)
        }
      }),
    )
    return peers
  }

  async function post(request: Request, { deadlineMs, isPatient, pause }: Waits): Promise<Outcome> {
    let asked = request
    for (let delayMs = BUSY_DELAY_MS; ; delayMs = Math.min(BUSY_DELAY_MS_MAX, delayMs * 2)) {
      const { number, batcher } = router.forId(request.id)
      try {
        return await batcher.submit(asked, isPatient)
      } catch (error) {
        if (!(error instanceof RequestUndecided) || Date.now() + delayMs > deadlineMs) throw error
        // Nothing is waited for but by `pause`: what is behind must not pass meanwhile.
        if (error.why === 'ask_peers') {
          const asking = askPeers(request).then((peers) => {
            asked = { ...request, peers }
          })
          await pause(asking)
        } else {
          await pause(Promise.all([sleep(delayMs * (0.5 + Math.random() / 2)), clear(error.why, number, request)]))
        }
      }
    }

    /** What has to be over, beside some time, before it is worth another try. */
    async function clear(why: RequestUndecided['why'], number: number, { id, operation }: Request): Promise<void> {
      if (why === 'moving') await router.untilOpen(number, [id, ...walletsOf(operation)], deadlineMs)
      // The shard knows more than the map that was followed.
      if (why === 'moved') await router.look(number)
    }
  }

  async function postIfRoom(request: Request, waits: Waits): Promise<Outcome> {
    const full = othersOf(request, router).find((shard) => (waitingFor.get(shard) ?? 0) >= IN_FLIGHT_MAX)
    if (full !== undefined) throw new SagasSaturated(full)
    return await post(request, waits)
  }

  /** Whether the saga can't end soon: then whoever waits for that would only take up room. */
  const isAway = (saga: Saga) => participantsOf(saga).some((shard) => router.shard(shard).batcher.breaker === 'open')

  const recovery = startRecovery({
    onShard: (start) => router.onShard(({ reader }) => start(reader)),
    isRunning: (id) => running.has(id),
    resume: ({ saga, begunUs, traceparent }) =>
      continuing(traceparent, () => see(saga, begunUs / 1000 + giveUpMs, { 'zerosum.saga.resumed': true })),
    onTrouble,
  })

  return {
    async submit(request, waitMsMax) {
      const deadlineMs = Date.now() + waitMsMax
      const outcome = await postIfRoom(request, { deadlineMs, isPatient: false, pause: (work) => work })
      const { status, record } = outcome
      const saga = sagaOf(outcome)
      if (!saga) return outcome
      const ended =
        status === 'replayed'
          ? await router.read(saga.id, ({ reader }) => reader.sagaEnd(saga.tenantId, saga.id))
          : undefined
      if (ended) return { ...outcome, end: endOf(ended) }
      const begunMs = status === 'decided' ? Date.now() : record.timeUs / 1000
      return { ...outcome, end: await within(see(saga, begunMs + giveUpMs), deadlineMs, () => isAway(saga)) }
    },
    async decide(request, waitMsMax, pause) {
      const outcome = await postIfRoom(request, { deadlineMs: Date.now() + waitMsMax, isPatient: true, pause })
      // One that began before is seen through by whoever began it, or by recovery.
      const saga = outcome.status === 'decided' ? sagaOf(outcome) : undefined
      if (saga) see(saga, Date.now() + giveUpMs).catch(() => {}) // that was told
      return outcome
    },
    get inFlight() {
      return running.size
    },
    async close() {
      isStopped = true
      for (const { stop } of running.values()) stop()
      await recovery.stop()
    },
  }
}

/** Runs a saga as a span of the active trace, if that is sampled: its steps are below it, whatever node takes it up. */
function runTraced(saga: Saga, more: Attributes, options: RunOptions): ReturnType<typeof runSaga> {
  if (!isSampled()) return runSaga(saga, options)
  const id = formatId('txn', saga.id)
  const span = startSpan(`saga ${saga.as}`, { attributes: { ...more, 'zerosum.transaction.id': id } })
  const run = context.with(trace.setSpan(context.active(), span), () => runSaga(saga, options))
  run.end
    .then(
      ({ status }) => span.setAttribute('zerosum.saga.status', status),
      (error: unknown) => fail(span, error),
    )
    .finally(() => span.end())
  return run
}

/** The saga that an accepted request began. */
function sagaOf({ status, record }: Outcome): Saga | undefined {
  return status === 'key_reused' || record.refusal !== null ? undefined : begunSaga(record.tenantId, record.result)
}

/** The slot of one of the saga's wallets on that shard, for the id of a step. */
function slotOn({ legs, id }: Saga, shard: number): number {
  const leg = legs.find(({ fromShard, toShard }) => fromShard === shard || toShard === shard)
  if (!leg) throw new Error(`saga ${id} has no wallet on shard ${shard}`)
  return slotOfId(leg.fromShard === shard ? leg.from : leg.to)
}

/** The shards beside its own that a request names wallets on; none if it begins no saga. */
function othersOf({ id, operation }: Request, { shardOf }: Router): number[] {
  const own = shardOf(id)
  return walletsOf(operation).flatMap((wallet) => (shardOf(wallet) === own ? [] : [shardOf(wallet)]))
}

const LOOK_MS = 250

/** The end, or `pending` if it is not there in time, or can't be, or this node stopped working on it. */
async function within(run: Promise<SagaEnd>, deadlineMs: number, isAway: () => boolean): Promise<SagaEnd | 'pending'> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<'pending'>((done) => {
    function look(): void {
      const leftMs = deadlineMs - Date.now()
      if (leftMs <= 0 || isAway()) done('pending')
      else timer = setTimeout(look, Math.min(LOOK_MS, leftMs))
    }
    look()
  })
  // What went wrong has been told; recovery takes it up.
  return await Promise.race([run.catch(() => 'pending' as const), late]).finally(() => clearTimeout(timer))
}
