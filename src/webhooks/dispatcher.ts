import { setTimeout as sleep } from 'node:timers/promises'
import { SpanKind, SpanStatusCode, trace } from '@opentelemetry/api'
import { formatId } from '../core/ids.ts'
import { inSpans } from '../observe/spans.ts'
import { connect } from '../postgres/connect.ts'
import { createHostGuard, TRIAL_MS } from './hostGuard.ts'
import { judge, type Verdict } from './schedule.ts'
import { type Reply, send } from './send.ts'
import { sign } from './signature.ts'
import { countPending } from './sql/backlogs.ts'
import { giveBack, recordAttempt } from './sql/recordAttempt.ts'
import { type Pace, type Taken, takeDue } from './sql/takeDue.ts'
import { findTarget, readUrl, type TargetRules } from './target.ts'

/**
 * Delivers what is due, on every node at once. Each round takes as many deliveries as there is room for and makes them; what came of
 * one is written down before its place is free again.
 *
 * A delivery is in the hands of one node, for `LEASE_MS`. A node that is lost does not say what came of it, so then it is due again:
 * it may be delivered twice, and is never lost. No call takes longer than `CALL_MS_MAX`, so no two are under way at once.
 */
export type Dispatcher = {
  /** How many deliveries wait, for all endpoints of the installation together; no more than `PENDING_SHOWN_MAX` are counted. */
  pending(): Promise<number>
  /** How many hosts, of each tenant by itself, this node does not call now, because it could not reach them lately. */
  unreachableHosts(): number
  /** Takes nothing more; waits a little for what is under way, then gives it back. */
  stop(): Promise<void>
}

export type DispatcherOptions = {
  /** The database of the first shard. */
  readonly url: string
  readonly rules: TargetRules
  readonly onTrouble: (error: unknown) => void
  /** Told what came of each attempt, once that is written down. */
  readonly onDelivered?: (outcome: Outcome) => void
  /** Milliseconds since 1970. */
  readonly clockMs?: () => number
  readonly intervalMs?: number
  /** How long a call may take. */
  readonly callMsMax?: number
  /** After how long a call's endpoint is slow, if the call goes on. */
  readonly slowMs?: number
  /** Certificates to trust instead of the usual ones, for tests. */
  readonly ca?: string
}

/** `delivered`; `retry`, it failed and will be tried again; `dead`, it failed for the last time; `gone`, so did its endpoint. */
export type Outcome = Verdict['kind']

const INTERVAL_MS = 500
/** After a delivery ends, the next is not looked for at once: others may end meanwhile. */
const PAUSE_MS = 20
/** The specification recommends 15 to 30 s. */
const CALL_MS_MAX = 15_000
/** How long a delivery is this node's: a call, and writing down what came of it. */
export const LEASE_MS = 60_000
/** An endpoint that keeps a call waiting for so long is slow. */
const SLOW_MS = 2_000
const IN_FLIGHT_MAX = 200
/** Of these, calls to endpoints that are slow, and to all that are not known to be quick: quick ones always have places left. */
const SLOW_MAX = 50
const NOT_QUICK_MAX = 150
const PER_ENDPOINT_MAX = 5
const PER_TENANT_MAX = 50
const CONNECTIONS = 2
const ANSWER_MS_MAX = 5_000
const RECORD_ATTEMPTS_MAX = 5
const RECORD_DELAY_MS = 500
const STOP_MS_MAX = 5_000
export const PENDING_SHOWN_MAX = 100_000

export function startDispatcher(options: DispatcherOptions): Dispatcher {
  const { rules, onTrouble, onDelivered, clockMs = Date.now, ca } = options
  const { intervalMs = INTERVAL_MS, callMsMax = CALL_MS_MAX, slowMs = SLOW_MS } = options
  const sql = connect(options.url, { max: CONNECTIONS, name: 'zerosum webhooks', answerMsMax: ANSWER_MS_MAX })
  const hosts = createHostGuard()
  const stopping = new AbortController()
  /** Each ends a call that is under way. */
  const calls = new Set<AbortController>()
  let isCut = false
  const running = new Set<Promise<void>>()
  /** How many calls are under way, by pace, and to which endpoints they take too long. */
  const paces: Record<Pace, number> = { quick: 0, unknown: 0, slow: 0 }
  const long = new Map<string, number>()
  const busy = { endpoints: new Map<string, number>(), tenants: new Map<string, number>() }
  let wake = () => {}

  async function round(): Promise<void> {
    const countMax = IN_FLIGHT_MAX - running.size
    if (countMax <= 0) return
    const nowMs = clockMs()
    const taken = await takeDue(sql, {
      nowUs: nowMs * 1000,
      untilUs: (nowMs + LEASE_MS) * 1000,
      countMax,
      perEndpointMax: PER_ENDPOINT_MAX,
      perTenantMax: PER_TENANT_MAX,
      room: { slow: SLOW_MAX - paces.slow, notQuick: NOT_QUICK_MAX - paces.slow - paces.unknown },
      slow: new Set(long.keys()),
      busy,
    })
    for (const delivery of taken) {
      count(delivery, 1)
      const ended = timed(delivery)
      const run = deliver(delivery)
        .catch(onTrouble)
        .finally(() => {
          running.delete(run)
          ended()
          count(delivery, -1)
          wake()
        })
      running.add(run)
    }
  }

  function count({ endpointId, tenantId }: Taken, by: 1 | -1): void {
    change(busy.endpoints, endpointId, by)
    change(busy.tenants, tenantId, by)
  }

  /** Takes a call for one of its endpoint's pace; for a slow one as soon as it is. @returns to be told when it has ended */
  function timed({ endpointId, pace }: Taken): () => void {
    let isLong = false
    paces[pace]++
    const timer = setTimeout(() => {
      isLong = true
      paces[pace]--
      paces.slow++
      change(long, endpointId, 1)
    }, slowMs)
    return () => {
      clearTimeout(timer)
      paces[isLong ? 'slow' : pace]--
      if (isLong) change(long, endpointId, -1)
    }
  }

  async function deliver(delivery: Taken): Promise<void> {
    const beganMs = clockMs()
    const began = performance.now()
    const reply = await inSpans('deliver webhook', { kind: SpanKind.CLIENT }, [delivery], async ([traced = delivery]) =>
      noted(traced, await call(traced, beganMs)),
    )
    if (reply.status === null && isCut) {
      return await giveBack(sql, delivery.id, delivery.attempt, clockMs() * 1000)
    }
    const nowMs = clockMs()
    if (reply.isBeingTried) {
      // In a moment it is known whether the host is there again: that should cost nobody an attempt.
      return await giveBack(sql, delivery.id, delivery.attempt, (nowMs + TRIAL_MS * (1 + Math.random())) * 1000)
    }
    const tookMs = Math.round(performance.now() - began)
    const attempt = {
      deliveryId: delivery.id,
      number: delivery.attempt,
      beganUs: beganMs * 1000,
      tookMs,
      isSlow: tookMs >= slowMs,
      reply,
      verdict: judge(reply, delivery.tries, nowMs, Math.random()),
    }
    await persist(() => recordAttempt(sql, attempt, nowMs * 1000))
    onDelivered?.(attempt.verdict.kind)
  }

  /**
   * Calls the endpoint, unless its host could not be reached lately. Host, scheme and port make an origin: nothing else decides whether a
   * connection comes about. Each tenant has breakers of its own: none can put off another's deliveries, by whatever it does to a host
   * that both name (one that turns us away after too many connections), or learn that somebody else names it.
   */
  async function call(delivery: Taken, nowMs: number): Promise<Reply> {
    const read = readUrl(delivery.url, rules)
    if ('refusal' in read) return notCalled(`not called: ${read.refusal}`)
    const host = `${delivery.tenantId} ${read.url.origin}`
    const reply = await hosts.run(host, (onReached) => callNow(delivery, nowMs, onReached))
    return 'error' in reply ? reply : { ...notCalled('not called: its host could not be reached lately'), ...reply }
  }

  /** Looks the endpoint's addresses up and calls it, all of it in the time that one call has. */
  async function callNow(delivery: Taken, nowMs: number, onReached: () => void): Promise<Reply> {
    const over = new AbortController()
    const timer = setTimeout(() => over.abort(), callMsMax)
    calls.add(over)
    try {
      const target = await findTarget(delivery.url, rules, over.signal)
      // Not reached, whatever it is: if one refusal opened breakers and another did not, the log would tell of our network.
      if ('refusal' in target) return notCalled(`not called: ${target.refusal}`)
      return await send(target, signed(delivery, nowMs), { signal: over.signal, onReached, ca })
    } finally {
      clearTimeout(timer)
      calls.delete(over)
    }
  }

  /** What is not written down is delivered again; so it is tried for a while. */
  async function persist(record: () => Promise<unknown>): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        await record()
        return
      } catch (error) {
        if (attempt === RECORD_ATTEMPTS_MAX || isCut) throw error
        onTrouble(error)
        await sleep(RECORD_DELAY_MS * attempt)
      }
    }
  }

  /** Until something has ended, or for an interval. */
  async function rest(): Promise<void> {
    const woken = new Promise<void>((done) => {
      wake = done
    })
    const over = new AbortController()
    const signal = AbortSignal.any([stopping.signal, over.signal])
    await Promise.race([woken, sleep(intervalMs * (0.75 + Math.random() / 2), undefined, { signal }).catch(() => {})])
    over.abort()
    if (!stopping.signal.aborted) await sleep(PAUSE_MS)
  }

  async function loop(): Promise<void> {
    while (!stopping.signal.aborted) {
      await round().catch(onTrouble)
      await rest()
    }
  }

  const looping = loop()
  return {
    pending: () => countPending(sql, PENDING_SHOWN_MAX),
    unreachableHosts: () => hosts.unreachable,
    async stop() {
      stopping.abort()
      await looping
      const ended = Promise.all(running)
      await Promise.race([ended, sleep(STOP_MS_MAX, undefined, { ref: false })])
      isCut = true
      for (const over of calls) over.abort()
      await ended
      await sql.end({ timeout: 5 })
    },
  }
}

function change(counts: Map<string, number>, id: string, by: 1 | -1): void {
  const now = (counts.get(id) ?? 0) + by
  if (now === 0) counts.delete(id)
  else counts.set(id, now)
}

function notCalled(error: string): Reply {
  return { status: null, retryAfter: null, error, response: null }
}

/** Says in the delivery's span, if there is one, what came of the call. */
function noted({ tenantId, attempt }: Taken, reply: Reply): Reply {
  const span = trace.getActiveSpan()
  span?.setAttributes({ 'zerosum.tenant.id': formatId('ten', tenantId), 'zerosum.webhook.attempt': attempt })
  if (reply.status !== null) span?.setAttribute('http.response.status_code', reply.status)
  if (reply.status === null || reply.status >= 300) span?.setStatus({ code: SpanStatusCode.ERROR })
  return reply
}

/** A message with its headers, as Standard Webhooks 1.0.0 has them. */
function signed({ secrets, eventId, body, traceparent }: Taken, nowMs: number) {
  const id = formatId('msg', eventId)
  const timestamp = Math.floor(nowMs / 1000)
  return {
    body,
    headers: {
      'content-type': 'application/json',
      'user-agent': 'Zerosum-Webhooks/1',
      'webhook-id': id,
      'webhook-timestamp': `${timestamp}`,
      'webhook-signature': sign(secrets, { id, timestamp, body }),
      ...(traceparent === undefined ? {} : { traceparent }),
    },
  }
}
