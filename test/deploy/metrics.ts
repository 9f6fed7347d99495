/** A metric that a node has, with labels and some values that they take. */
export type Metric = {
  readonly name: string
  readonly type: 'counter' | 'gauge' | 'histogram'
  readonly labels?: Readonly<Record<string, readonly string[]>>
  /** Of a histogram. */
  readonly buckets?: readonly number[]
  /** What a gauge is usually about, or by how much a counter grows a second; 1 if nothing is said. */
  readonly about?: number
}

const SHARDS = { shard: ['0', '1'] }
const GROUPS = { group: ['cache', 'webhooks'] }
const SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]
const ROUTES = { method: ['GET', 'POST'], route: ['/v1/transfers', '/v1/wallets', '/readyz'] }

/** What rules and dashboards may ask for. */
export const METRICS: readonly Metric[] = [
  { name: 'zerosum_build_info', type: 'gauge', labels: { version: ['0.1.0'] } },
  {
    name: 'zerosum_http_requests_total',
    type: 'counter',
    labels: { ...ROUTES, status: ['201', '422', '503'] },
    about: 40,
  },
  { name: 'zerosum_http_request_duration_seconds', type: 'histogram', labels: ROUTES, buckets: SECONDS, about: 120 },
  { name: 'zerosum_http_in_flight', type: 'gauge', about: 12 },
  { name: 'zerosum_event_loop_utilization_ratio', type: 'gauge', about: 0.4 },
  {
    name: 'zerosum_pool_connections',
    type: 'gauge',
    labels: { pool: ['poster 0', 'reader 0'], state: ['idle', 'used', 'waiting'] },
  },
  { name: 'zerosum_batcher_queue_depth', type: 'gauge', labels: SHARDS, about: 300 },
  { name: 'zerosum_batcher_queue_age_seconds', type: 'gauge', labels: SHARDS, about: 0.03 },
  {
    ...{ name: 'zerosum_block_requests', type: 'histogram', labels: SHARDS, about: 30 },
    buckets: [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000],
  },
  { name: 'zerosum_block_commit_seconds', type: 'histogram', labels: SHARDS, buckets: SECONDS, about: 30 },
  { name: 'zerosum_blocks_total', type: 'counter', labels: SHARDS, about: 30 },
  { name: 'zerosum_posting_troubles_total', type: 'counter', labels: SHARDS, about: 0.2 },
  {
    ...{ name: 'zerosum_requests_decided_total', type: 'counter', about: 50 },
    labels: { kind: ['transfer', 'hold'], outcome: ['accepted', 'refused'] },
  },
  { name: 'zerosum_refusals_total', type: 'counter', labels: { code: ['insufficient_funds', 'limit_exceeded'] } },
  { name: 'zerosum_money_moved_minor_units_total', type: 'counter', labels: { currency: ['USD', 'EUR'] }, about: 1e6 },
  { name: 'zerosum_sagas_in_flight', type: 'gauge', labels: SHARDS, about: 8 },
  { name: 'zerosum_saga_oldest_age_seconds', type: 'gauge', labels: SHARDS, about: 0.2 },
  { name: 'zerosum_sagas_ended_total', type: 'counter', labels: { outcome: ['completed', 'compensated'] }, about: 20 },
  { name: 'zerosum_relay_lag_blocks', type: 'gauge', labels: SHARDS, about: 6 },
  { name: 'zerosum_relay_lag_seconds', type: 'gauge', labels: SHARDS, about: 0.2 },
  { name: 'zerosum_consumer_lag_blocks', type: 'gauge', labels: { ...GROUPS, ...SHARDS }, about: 6 },
  { name: 'zerosum_consumer_lag_seconds', type: 'gauge', labels: { ...GROUPS, ...SHARDS }, about: 0.2 },
  { name: 'zerosum_consumer_lag_messages', type: 'gauge', labels: GROUPS, about: 90 },
  {
    name: 'zerosum_cache_reads_total',
    type: 'counter',
    labels: { result: ['hit', 'miss', 'bypass', 'error'] },
    about: 200,
  },
  { name: 'zerosum_breaker_state', type: 'gauge', labels: { dependency: ['redis', 'kafka', 'shard0'] }, about: 0 },
  { name: 'zerosum_ledger_imbalance', type: 'gauge', about: 0 },
  { name: 'zerosum_audit_last_success_timestamp_seconds', type: 'gauge', about: 1_700_000_000 },
  { name: 'zerosum_audit_last_timestamp_seconds', type: 'gauge', about: 1_700_000_000 },
  { name: 'zerosum_async_accepted_total', type: 'counter', about: 30 },
  { name: 'zerosum_async_posted_total', type: 'counter', about: 30 },
  { name: 'zerosum_async_dead_total', type: 'counter', about: 0 },
  {
    name: 'zerosum_webhook_deliveries_total',
    type: 'counter',
    labels: { outcome: ['delivered', 'retry', 'dead', 'gone'] },
    about: 9,
  },
  { name: 'zerosum_webhook_pending', type: 'gauge', about: 40 },
  { name: 'zerosum_webhook_hosts_unreachable', type: 'gauge', about: 2 },
  {
    ...{ name: 'zerosum_shed_total', type: 'counter' },
    labels: { reason: ['tenant_rate', 'queue', 'event_loop', 'streams'] },
  },
  { name: 'zerosum_replica_lag_seconds', type: 'gauge', labels: SHARDS, about: 0.4 },
  { name: 'zerosum_shard_up', type: 'gauge', labels: SHARDS },
  // Those that prom-client makes by itself.
  { name: 'process_cpu_seconds_total', type: 'counter', about: 0.6 },
  { name: 'process_resident_memory_bytes', type: 'gauge', about: 3e8 },
  { name: 'process_open_fds', type: 'gauge', about: 90 },
  { name: 'process_start_time_seconds', type: 'gauge', about: 1_700_000_000 },
  { name: 'nodejs_eventloop_lag_p50_seconds', type: 'gauge', about: 0.01 },
  { name: 'nodejs_eventloop_lag_p99_seconds', type: 'gauge', about: 0.03 },
  { name: 'nodejs_heap_size_used_bytes', type: 'gauge', about: 1.2e8 },
  { name: 'nodejs_heap_size_total_bytes', type: 'gauge', about: 1.6e8 },
  { name: 'zerosum_heap_limit_bytes', type: 'gauge', about: 4_345_298_944 },
  {
    ...{ name: 'nodejs_gc_duration_seconds', type: 'histogram', about: 4 },
    ...{ labels: { kind: ['major', 'minor', 'incremental'] }, buckets: [0.001, 0.01, 0.1, 1, 2, 5] },
  },
]

/** What a node would answer a scrape, with figures that are made up. @param seconds since it started */
export function exposition(seconds: number): string {
  return METRICS.flatMap((metric) => {
    const { name, type, about = 1 } = metric
    const lines = labelSets(Object.entries(metric.labels ?? {})).flatMap((labels, i) => {
      // Each series its own, and counters never fall.
      const share = about / (1 + i)
      if (type === 'counter') return [sample(name, labels, share * seconds)]
      if (type === 'gauge')
        return [sample(name, labels, Number.isInteger(about) ? about : share * (1 + Math.sin(seconds) / 4))]
      return histogram(metric, labels, share * seconds)
    })
    return [`# TYPE ${name} ${type}`, ...lines]
  })
    .join('\n')
    .concat('\n')
}

function histogram({ name, buckets = [] }: Metric, labels: readonly string[], count: number): string[] {
  // Every bucket takes half of what the ones before have left.
  const below = (i: number) => count * (1 - 0.5 ** (i + 1))
  return [
    ...buckets.map((le, i) =>
      sample(`${name}_bucket`, [...labels, `le="${Number.isInteger(le) ? le.toFixed(1) : le}"`], below(i)),
    ),
    sample(`${name}_bucket`, [...labels, 'le="+Inf"'], count),
    sample(`${name}_count`, labels, count),
    sample(`${name}_sum`, labels, (count * (buckets[0] ?? 0)) / 2),
  ]
}

function sample(name: string, labels: readonly string[], value: number): string {
  return `${name}{${labels.join(',')}} ${value}`
}

function labelSets([first, ...others]: readonly [string, readonly string[]][]): string[][] {
  if (!first) return [[]]
  const [name, values] = first
  return values.flatMap((value) => labelSets(others).map((rest) => [`${name}="${value}"`, ...rest]))
}
