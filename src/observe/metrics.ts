import { getHeapStatistics } from 'node:v8'
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from '@prometheus-io/client'
import type { LastAudit } from '../audit/background.ts'
import { countDiscrepancies } from '../audit/verification.ts'
import type { BalanceCounters } from '../cache/balances.ts'
import type { ConsumersLag } from '../consumers/lag.ts'
import type { Block } from '../core/block.ts'
import { CURRENCIES } from '../core/money.ts'
import type { Posting } from '../core/post.ts'
import { REFUSALS } from '../core/refusal.ts'
import type { ErrorCode } from '../errors.ts'
import type { Call, CallObserver } from '../http/calls.ts'
import type { Exposition } from '../http/routes/metrics.ts'
import type { Vitals } from '../ledger/sql/vitals.ts'
import type { PoolUse } from '../postgres/connect.ts'
import type { Verdict } from '../webhooks/schedule.ts'
import { moneyMoved, requestsDecided, sagasEnded } from './blockFigures.ts'

/**
 * All figures of this node, as docs/operations/observability.md lists them. Rooms know nothing of it: main.ts tells it what they tell, and it
 * asks what they can say at once when it is scraped. No label is made of anything that a caller can choose without end.
 */
export type Metrics = {
  readonly calls: CallObserver
  /** A block that this node wrote is on disk. */
  block(block: Block, posting: Posting, commitMs: number): void
  /** Posting to a shard met trouble and goes on. */
  postingTrouble(shard: number): void
  /** An attempt to deliver a webhook is over. */
  webhookDelivery(outcome: Verdict['kind']): void
  /** Transfers that were asked for asynchronously. */
  asynchronous(what: 'accepted' | 'posted' | 'dead', count: number): void
  /** A message in Kafka that a consumer group left out, because it is no event of the ledger's. */
  poisoned(group: string): void
  /** What a look at a shard found; `undefined` if it did not answer. */
  shard(shard: number, vitals: Vitals | undefined): void
  /** How far relay and consumer groups are behind; what is left out is not known now. */
  lag(lag: ConsumersLag): void
  /** The last audit of the installation; `undefined` if there was none. */
  audit(last: LastAudit | undefined): void
  webhooksPending(count: number | undefined): void
  readonly exposition: Exposition
}

/** 0 all is well, 1 something is tried, 2 nothing is sent there. */
export type BreakerState = 0 | 1 | 2

/** What can be asked without waiting, each time that somebody scrapes. */
export type MetricsSources = {
  version: string
  queues: () => readonly { readonly shard: number; readonly depth: number; readonly oldestMs: number }[]
  pools: () => readonly PoolUse[]
  cache: () => BalanceCounters | undefined
  /** By what they guard. */
  breakers: () => Readonly<Record<string, BreakerState>>
  /** Hosts of webhooks that this node does not call now; `undefined` if it calls none at all. */
  unreachableHosts: () => number | undefined
}

const CALL_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]
const COMMIT_SECONDS = [0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]
const BLOCK_REQUESTS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000]

/** Of what the library has by itself: names against the rules, or dear to work out, or said by others. */
const LEFT_OUT = [
  'nodejs_active_handles',
  'nodejs_active_handles_total',
  'nodejs_active_requests',
  'nodejs_active_requests_total',
  'nodejs_active_resources_total',
  'nodejs_eventloop_utilization_histogram',
  'nodejs_eventloop_utilization_summary',
]

const METHODS: ReadonlySet<string> = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'])

/** Answers that say that something was turned away without being looked at, and why. */
const SHED: Partial<Record<ErrorCode, string>> = {
  rate_limited: 'tenant_rate',
  saturated: 'queue',
  overloaded: 'event_loop',
  too_many_streams: 'streams',
  streams_exhausted: 'streams',
}

/** Sets up all figures, in a registry of their own. */
export function createMetrics({ version, queues, pools, cache, breakers, unreachableHosts }: MetricsSources): Metrics {
  const registry = new Registry(Registry.OPENMETRICS_CONTENT_TYPE)
  const registers = [registry]
  const counter = <L extends string = never>(name: string, help: string, ...labelNames: L[]) =>
    new Counter<L>({ name: `zerosum_${name}_total`, help, labelNames, registers })
  const gauge = <L extends string = never>(name: string, help: string, ...labelNames: L[]) =>
    new Gauge<L>({ name: `zerosum_${name}`, help, labelNames, registers })
  /** One that is asked when it is scraped; what is not told of any more is gone. */
  const asked = <L extends string>(
    name: string,
    help: string,
    labelNames: L[],
    rows: () => readonly (readonly [Partial<Record<L, string | number>>, number])[],
  ) =>
    new Gauge<L>({
      ...{ name: `zerosum_${name}`, help, labelNames, registers },
      collect() {
        // To reset one without labels would make it 0.
        if (labelNames.length === 0) this.remove()
        else this.reset()
        for (const [labels, value] of rows()) (this as Gauge<string>).set(labels, value)
      },
    })

  collectDefaultMetrics({ register: registry })
  for (const name of LEFT_OUT) registry.removeSingleMetric(name)
  gauge('build_info', 'Always 1; the label says which version runs.', 'version').set({ version }, 1)
  // V8 takes it from the memory that it sees, or from the command line, when the process starts.
  gauge('heap_limit_bytes', 'How large the heap may become; at that, the process ends.').set(
    getHeapStatistics().heap_size_limit,
  )
  utilization()

  const inFlight = gauge('http_in_flight', 'Calls that are not answered yet; streams are none.')
  const httpCalls = counter('http_requests', 'Calls that are over.', 'method', 'route', 'status')
  // The third is of exemplars only; the types of the library don't tell them apart.
  const httpSeconds = new Histogram<'method' | 'route' | 'trace_id'>({
    ...{ name: 'zerosum_http_request_duration_seconds', help: 'How long calls took, streams left out.', registers },
    ...{ labelNames: ['method', 'route'], buckets: CALL_SECONDS, enableExemplars: true },
  })
  const shed = counter('shed', 'Calls that were turned away because there was too much to do.', 'reason')

  asked('pool_connections', 'Connections to databases.', ['pool', 'state'], () =>
    pools().flatMap(({ name, idle, used, waiting }) => {
      const pool = name.replace(/^zerosum /, '')
      return [
        [{ pool, state: 'idle' }, idle] as const,
        [{ pool, state: 'used' }, used] as const,
        [{ pool, state: 'waiting' }, waiting] as const,
      ]
    }),
  )
  asked('batcher_queue_depth', 'Requests that wait to be posted.', ['shard'], () =>
    queues().map(({ shard, depth }) => [{ shard }, depth]),
  )
  asked(
    'batcher_queue_age_seconds',
    'How long a request, or the block that is being written, has waited at most; 0 if none does.',
    ['shard'],
    () => queues().map(({ shard, oldestMs }) => [{ shard }, oldestMs / 1000]),
  )
  new Counter({
    ...{ name: 'zerosum_cache_reads_total', help: 'Reads of balances, and calls of the cache that failed.' },
    ...{ labelNames: ['result'], registers },
    collect() {
      const counters = cache()
      this.reset()
      if (!counters) return
      const { hits, misses, strong, errors } = counters
      for (const [result, count] of Object.entries({ hit: hits, miss: misses, bypass: strong, error: errors })) {
        this.inc({ result }, count)
      }
    },
  })
  asked('breaker_state', '0 closed, all is well; 1 half open; 2 open, nothing is sent there.', ['dependency'], () =>
    Object.entries(breakers()).map(([dependency, state]) => [{ dependency }, state]),
  )
  asked('webhook_hosts_unreachable', 'Hosts that could not be reached lately and are not called now.', [], () => {
    const count = unreachableHosts()
    return count === undefined ? [] : [[{}, count]]
  })

  const blocks = counter('blocks', 'Blocks that this node wrote.', 'shard')
  const blockRequests = new Histogram({
    ...{ name: 'zerosum_block_requests', help: 'Requests that a block decided.', registers },
    ...{ labelNames: ['shard'] as const, buckets: BLOCK_REQUESTS },
  })
  const commitSeconds = new Histogram({
    ...{ name: 'zerosum_block_commit_seconds', help: 'From when a block was sent until it was on disk.', registers },
    ...{ labelNames: ['shard'] as const, buckets: COMMIT_SECONDS },
  })
  const troubles = counter('posting_troubles', 'What went wrong while posting, and was tried again.', 'shard')
  const decided = counter('requests_decided', 'Requests that this node decided.', 'kind', 'outcome')
  const refusals = counter('refusals', 'Requests that were refused, by why.', 'code')
  const moved = counter('money_moved_minor_units', 'Money that changed hands, in minor units.', 'currency')
  const ended = counter('sagas_ended', 'Sagas that this node ended.', 'outcome')
  const deliveries = counter('webhook_deliveries', 'Attempts to deliver webhooks.', 'outcome')
  const poisoned = counter(
    'consumer_poisoned',
    "Messages that a group left out, as no events of the ledger's.",
    'group',
  )
  const asyncCounts = {
    accepted: counter('async_accepted', 'Requests that were taken to be posted later.'),
    posted: counter('async_posted', 'Requests that were taken, and were posted.'),
    dead: counter('async_dead', 'Requests that were taken, and can not be posted.'),
  }

  const shardUp = gauge('shard_up', '1 if the shard answered the last look.', 'shard')
  const sagas = gauge(
    'sagas_in_flight',
    'Sagas that began on the shard and are not over; counted up to 10,000.',
    'shard',
  )
  const sagaAge = gauge('saga_oldest_age_seconds', 'The age of the oldest of them; 0 if there is none.', 'shard')
  const replicaLag = gauge('replica_lag_seconds', "How far the shard's worst replica is behind.", 'shard')
  const relay = {
    blocks: gauge('relay_lag_blocks', 'Blocks whose events are not in Kafka yet.', 'shard'),
    seconds: gauge('relay_lag_seconds', 'The age of the oldest of them.', 'shard'),
  }
  const groups = {
    blocks: gauge('consumer_lag_blocks', 'Blocks that a consumer group has not handled yet.', 'group', 'shard'),
    seconds: gauge('consumer_lag_seconds', 'The age of the oldest of them.', 'group', 'shard'),
    messages: gauge('consumer_lag_messages', 'Messages that a group has not handled yet, with Kafka.', 'group'),
  }
  const audits = {
    imbalance: gauge('ledger_imbalance', 'Discrepancies that the last audit found: must be 0.'),
    last: gauge('audit_last_timestamp_seconds', 'When the last audit ended.'),
    success: gauge('audit_last_success_timestamp_seconds', 'When the last audit that found the books in order ended.'),
  }
  const pending = gauge('webhook_pending', 'Deliveries of webhooks that are still to be made; counted up to 10,000.')
  // The first of something rare would else be no rise.
  for (const reason of new Set(Object.values(SHED))) shed.inc({ reason }, 0)
  for (const code of REFUSALS) refusals.inc({ code }, 0)
  for (const outcome of ['completed', 'compensated']) ended.inc({ outcome }, 0)
  for (const outcome of ['delivered', 'retry', 'dead', 'gone']) deliveries.inc({ outcome }, 0)
  // Unknown is not zero.
  for (const unknown of [pending, ...Object.values(audits)]) unknown.remove()

  function utilization(): void {
    let before = performance.eventLoopUtilization()
    asked(
      'event_loop_utilization_ratio',
      'The share of time since the last scrape in which there was work.',
      [],
      () => {
        const now = performance.eventLoopUtilization()
        const { utilization } = performance.eventLoopUtilization(now, before)
        before = now
        return [[{}, utilization]]
      },
    )
  }

  return {
    calls: {
      began(isStream) {
        if (!isStream) inFlight.inc()
      },
      ended({ method, route, status, code, seconds, isStream, sampledTraceId }: Call) {
        const labels = { method: METHODS.has(method) ? method : 'other', route: route ?? 'unmatched' }
        if (!isStream) inFlight.dec()
        httpCalls.inc({ ...labels, status })
        if (!isStream) {
          httpSeconds.observe({
            ...{ labels, value: seconds },
            ...(sampledTraceId === undefined ? {} : { exemplarLabels: { trace_id: sampledTraceId } }),
          })
        }
        const reason = code && SHED[code]
        if (reason) shed.inc({ reason })
      },
    },
    block({ shard }, posting, commitMs) {
      blocks.inc({ shard })
      blockRequests.observe({ shard }, posting.decisions.length)
      commitSeconds.observe({ shard }, commitMs / 1000)
      for (const { kind, refusal, count } of requestsDecided(posting)) {
        decided.inc({ kind, outcome: refusal === null ? 'accepted' : 'refused' }, count)
        if (refusal !== null) refusals.inc({ code: refusal }, count)
      }
      for (const [currency, amount] of moneyMoved(posting)) {
        moved.inc({ currency: CURRENCIES.has(currency) ? currency : 'other' }, Number(amount))
      }
      for (const [outcome, count] of sagasEnded(posting)) ended.inc({ outcome }, count)
    },
    postingTrouble: (shard) => troubles.inc({ shard }),
    webhookDelivery: (outcome) => deliveries.inc({ outcome }),
    asynchronous: (what, count) => asyncCounts[what].inc(count),
    poisoned: (group) => poisoned.inc({ group }),
    shard(shard, vitals) {
      troubles.inc({ shard }, 0)
      shardUp.set({ shard }, vitals ? 1 : 0)
      setOrForget(sagas, { shard }, vitals?.sagas)
      setOrForget(sagaAge, { shard }, vitals?.oldestSagaSeconds)
      setOrForget(replicaLag, { shard }, vitals?.replicaLagSeconds)
    },
    lag(lag) {
      for (const each of [relay.blocks, relay.seconds, groups.blocks, groups.seconds, groups.messages]) each.reset()
      for (const { shard, blocks, seconds } of lag.relay) {
        relay.blocks.set({ shard }, blocks)
        relay.seconds.set({ shard }, seconds)
      }
      for (const each of lag.groups) {
        const { group } = each
        if ('messages' in each) setOrForget(groups.messages, { group }, each.messages)
        else {
          for (const { shard, blocks, seconds } of each.shards) {
            groups.blocks.set({ group, shard }, blocks)
            groups.seconds.set({ group, shard }, seconds)
          }
        }
      }
    },
    audit(last) {
      if (!last) return
      const seconds = last.finishedUs / 1e6
      audits.imbalance.set(countDiscrepancies(last.verification))
      audits.last.set(seconds)
      if (last.verification.balanced) audits.success.set(seconds)
    },
    webhooksPending: (count) => (count === undefined ? pending.remove() : pending.set(count)),
    async exposition(accept) {
      const text = canonical(await registry.metrics())
      return /\bapplication\/openmetrics-text\b/.test(accept)
        ? { type: Registry.OPENMETRICS_CONTENT_TYPE, text }
        : { type: Registry.PROMETHEUS_CONTENT_TYPE, text: plain(text) }
    },
  }
}

function setOrForget(gauge: Gauge<string>, labels: Record<string, string | number>, value: number | undefined) {
  if (value === undefined) gauge.remove(labels)
  else gauge.set(labels, value)
}

/** Numbers as OpenMetrics 1.0 wants them, `le="1.0"` and not `1`, `NaN` and not `Nan`: in both formats, so that what is stored is the same. */
function canonical(text: string): string {
  return text.replace(/(?<=[{,])le="(\d+)"/g, 'le="$1.0"').replace(/ Nan$/gm, ' NaN')
}

/** OpenMetrics 1.0 as the text format 0.0.4, which old scrapers read: counters have their whole names, exemplars are gone. */
function plain(text: string): string {
  return text
    .replace(/^# HELP (\S+)(.*)\n# TYPE \1 counter$/gm, '# HELP $1_total$2\n# TYPE $1_total counter')
    .replace(/^([^#\n].*?) # \{.*$/gm, '$1')
    .replace(/^# EOF\n/m, '')
}
