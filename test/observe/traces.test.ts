import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { connect } from '../../src/postgres/connect.ts'
import { newKey } from '../../src/tenants/directory.ts'
import { describeWith } from '../services/available.ts'
import { startKafka } from '../services/kafka.ts'
import { clientOf } from '../support/api.ts'
import { emptyDatabase } from '../support/database.ts'
import { type NodeProcess, type NodeSettings, startNode } from '../support/node.ts'
import { openReceiver } from '../webhooks/receiver.ts'
import { openTraceReceiver, type SeenSpan, treeOf } from './otlp.ts'

const WAIT_MS_MAX = 90_000

async function until<T>(look: () => T | Promise<T>, isRight: (found: T) => boolean): Promise<T> {
  const deadline = Date.now() + WAIT_MS_MAX
  for (;;) {
    const found = await look()
    if (isRight(found)) return found
    if (Date.now() > deadline) throw new Error(`it stays as it is: ${JSON.stringify(found)}`)
    await sleep(50)
  }
}

/** A context as a caller sends it. */
function callerContext(flags: '00' | '01' = '01') {
  const [traceId, spanId] = [randomBytes(16).toString('hex'), randomBytes(8).toString('hex')]
  return { traceId, spanId, headers: { traceparent: `00-${traceId}-${spanId}-${flags}` } }
}

/** A node on two shards, an endpoint for webhooks, and two wallets on different shards. */
async function start(settings: NodeSettings) {
  const urls = [await emptyDatabase(), await emptyDatabase()]
  const apiKey = newKey()
  const databaseUrl = urls.join(',')
  const node = await startNode({ databaseUrl, demoKey: apiKey, webhooksAllowPrivate: true, ...settings })
  onTestFinished(() => node.kill())
  const client = clientOf(node.send, apiKey)
  const hook = await openReceiver()
  const made = await client.call('POST', '/v1/webhook-endpoints', {
    ...{ url: hook.url, eventTypes: ['transaction.posted', 'transfer.refused'] },
  })
  expect(made.status, made.text).toBe(201)
  const shardOf = await shardsOf(urls)
  const payer = await client.wallet(1_000)
  let payee: string
  do payee = await client.wallet()
  while ((await shardOf(payee)) === (await shardOf(payer)))
  const near = await (async () => {
    for (;;) {
      const id = await client.wallet()
      if ((await shardOf(id)) === (await shardOf(payer))) return id
    }
  })()
  return { urls, node, client, hook, payer, payee, near, apiKey, databaseUrl }
}

/** Looks up on which shard a wallet is. */
async function shardsOf(urls: readonly string[]) {
  const shards = urls.map((url) => connect(url, { max: 1, name: 'test' }))
  onTestFinished(async () => {
    await Promise.all(shards.map((sql) => sql.end()))
  })
  return async (wallet: string) => {
    for (const [number, sql] of shards.entries())
      if ((await sql`SELECT FROM wallets WHERE id = ${wallet.slice(4)}`).length > 0) return number
    throw new Error(`${wallet} is on no shard`)
  }
}

async function tracedRows(urls: readonly string[]): Promise<number> {
  let count = 0
  for (const url of urls) {
    const sql = connect(url, { max: 1, name: 'test' })
    count += (await sql`SELECT FROM request_traces`).length
    await sql.end()
  }
  return count
}

const toReceiver = (url: string, more: Record<string, string> = {}) => ({
  ...{ OTEL_EXPORTER_OTLP_ENDPOINT: url, OTEL_EXPORTER_OTLP_HEADERS: 'x-key=secret', ...more },
})

/** A transfer between shards as a trace shows it, with what is below the span of each posted request. */
const crossShard = (below: readonly string[]) => [
  'POST /v1/transfers',
  ...['  post transfer', '    queue', '    block', '      append_block', ...below.map((line) => `    ${line}`)],
  '  saga transfer',
  ...['    post saga-commit', '      queue', '      block', '        append_block', ...below.map((l) => `      ${l}`)],
  ...['    post saga-finalize', '      queue', '      block', '        append_block'],
  ...below.map((line) => `      ${line}`),
]

/** The same spans, whatever of them came first: siblings in an order of their own. */
const sorted = (lines: readonly string[]) => [...lines].sort()

const NO_SECRETS = /zs_(test|live)_|wal_|secret|1234/

/** Pays between shards in a caller's trace, waits until the webhooks have come and the spans were sent. */
async function payTraced(
  { node, client, hook, payer, payee }: Awaited<ReturnType<typeof start>>,
  spans: readonly SeenSpan[],
) {
  const caller = callerContext()
  const paid = await client.pay(payer, payee, 123, { headers: caller.headers })
  expect(paid.status, paid.text).toBe(201)
  const ofTransfer = () => hook.calls.filter(({ body }) => body.includes(paid.body.id))
  await until(ofTransfer, (calls) => calls.length === 3)
  expect(await node.stop()).toBe(0)
  const mine = spans.filter(({ traceId }) => traceId === caller.traceId)
  return { caller, mine, calls: ofTransfer(), id: paid.body.id.slice(4) }
}

test('a transfer between shards is one trace, from the call to the webhooks of it', async () => {
  const receiver = await openTraceReceiver()
  const stage = await start({ otel: toReceiver(receiver.url, { OTEL_SERVICE_NAME: 'wallets' }) })
  const { caller, mine, calls, id } = await payTraced(stage, receiver.spans)
  const below = ['process webhooks', '  deliver webhook']
  expect(sorted(treeOf(mine, caller.traceId))).toEqual(sorted(crossShard(below)))
  const named = (name: string) => mine.filter((span) => span.name === name)
  expect(named('POST /v1/transfers')).toMatchObject([
    {
      ...{ parentId: caller.spanId, kind: 2, status: 0, service: 'wallets' },
      attributes: { 'http.route': '/v1/transfers', 'http.response.status_code': 201 },
    },
  ])
  expect(named('saga transfer')[0]?.attributes).toMatchObject({
    ...{ 'zerosum.transaction.id': `txn_${id}`, 'zerosum.saga.status': 'completed' },
  })
  const shards = [named('post transfer'), named('post saga-commit'), named('post saga-finalize')]
  const [first, second, third] = shards.map(([span]) => span?.attributes['zerosum.shard'])
  expect([first === second, first === third]).toEqual([false, true])
  expect(named('append_block').every(({ attributes }) => attributes['db.system.name'] === 'postgresql')).toBe(true)
  const delivered = new Set(named('deliver webhook').map(({ spanId }) => `00-${caller.traceId}-${spanId}-01`))
  expect(new Set(calls.map(({ headers }) => headers['traceparent']))).toEqual(delivered)
  expect(JSON.stringify(mine, (_, value) => (typeof value === 'bigint' ? '' : value))).not.toMatch(NO_SECRETS)
  expect(receiver.headers[0]).toMatchObject({ 'x-key': 'secret' })
})

/** Pays within a shard with `Prefer: respond-async` in a caller's trace, and waits for its webhook. */
async function payLaterTraced({ node, client, hook, payer, near }: Awaited<ReturnType<typeof start>>) {
  const caller = callerContext()
  const headers = { ...caller.headers, prefer: 'respond-async' }
  const paid = await client.pay(payer, near, 123, { headers })
  expect(paid.status, paid.text).toBe(202)
  await until(
    () => hook.calls.filter(({ body }) => body.includes(paid.body.id)),
    (calls) => calls.length === 1,
  )
  expect(await node.stop()).toBe(0)
  return caller
}

const laterOnOneShard = (below: readonly string[]) => [
  'POST /v1/transfers',
  ...['  post transfer', '    queue', '    block', '      append_block', ...below.map((line) => `    ${line}`)],
]

test('a transfer that is posted later is one trace too, from the call to the webhook', async () => {
  const receiver = await openTraceReceiver()
  const stage = await start({ otel: toReceiver(receiver.url) })
  const { traceId } = await payLaterTraced(stage)
  const below = ['process webhooks', '  deliver webhook']
  expect(sorted(treeOf(receiver.spans, traceId))).toEqual(sorted(laterOnOneShard(below)))
})

describeWith('kafka', 'through Kafka', () => {
  test('the trace of what is posted later goes on from the queue', { timeout: 400_000 }, async () => {
    const kafka = await startKafka({ brokers: 1 })
    onTestFinished(() => kafka.stop())
    const receiver = await openTraceReceiver()
    const stage = await start({ otel: toReceiver(receiver.url), kafkaBrokers: kafka.brokers.join(',') })
    const { traceId } = await payLaterTraced(stage)
    const below = ['publish events', '  process webhooks', '    deliver webhook']
    expect(sorted(treeOf(receiver.spans, traceId))).toEqual(sorted(laterOnOneShard(below)))
  })

  test('the trace goes on in the headers of messages', { timeout: 400_000 }, async () => {
    const kafka = await startKafka({ brokers: 1 })
    onTestFinished(() => kafka.stop())
    const receiver = await openTraceReceiver()
    const stage = await start({ otel: toReceiver(receiver.url), kafkaBrokers: kafka.brokers.join(',') })
    const { caller, mine } = await payTraced(stage, receiver.spans)
    const below = ['publish events', '  process webhooks', '    deliver webhook']
    expect(sorted(treeOf(mine, caller.traceId))).toEqual(sorted(crossShard(below)))
  })
})

test('a block that joins many requests is in one trace, linked with each of the others, and its log line has its span', async () => {
  const receiver = await openTraceReceiver()
  const log = { form: 'json', level: 'info' } as const
  const { client, node, payer, near } = await start({ otel: toReceiver(receiver.url), log })
  const callers = Array.from({ length: 20 }, () => callerContext())
  await Promise.all(callers.map(({ headers }) => client.pay(payer, near, 1, { headers })))
  expect(await node.stop()).toBe(0)
  const traces = new Set(callers.map(({ traceId }) => traceId))
  const mine = receiver.spans.filter(({ traceId }) => traces.has(traceId))
  const [posts, blocks] = ['post transfer', 'block'].map((name) => mine.filter((span) => span.name === name))
  expect(posts).toHaveLength(20)
  expect(blocks?.length).toBeLessThan(20)
  for (const post of posts ?? []) {
    const mineOrLinked = blocks?.filter(
      ({ parentId, links }) => parentId === post.spanId || links.includes(post.spanId),
    )
    expect(mineOrLinked).toHaveLength(1)
    const [block] = mineOrLinked ?? []
    if (block?.parentId !== post.spanId) expect(post.links).toEqual([block?.spanId])
  }
  const lines = node
    .output()
    .split('\n')
    .filter((line) => line.includes('"msg":"block"'))
  const told = lines.map((line) => JSON.parse(line)).filter(({ traceId }) => traces.has(traceId))
  const spansOf = (things: readonly { traceId: string; spanId: string }[] = []) =>
    things.map(({ traceId, spanId }) => `${traceId} ${spanId}`).sort()
  expect(spansOf(told)).toEqual(spansOf(blocks))
})

test('a refusal is in the trace, and in the webhook of it', async () => {
  const receiver = await openTraceReceiver()
  const { client, node, hook, payer, near } = await start({ otel: toReceiver(receiver.url) })
  const caller = callerContext()
  expect((await client.pay(payer, near, 5_000, { headers: caller.headers })).status).toBe(422)
  const [call] = await until(
    () => hook.calls.filter(({ body }) => body.includes('transfer.refused')),
    (calls) => calls.length > 0,
  )
  expect(JSON.parse(call?.body ?? '').data).toMatchObject({ status: 'refused', refusal: 'insufficient_funds' })
  expect(await node.stop()).toBe(0)
  expect(sorted(treeOf(receiver.spans, caller.traceId))).toEqual(
    sorted([
      ...['POST /v1/transfers', '  post transfer', '    queue', '    block', '      append_block'],
      ...['    process webhooks', '      deliver webhook'],
    ]),
  )
  const [server, post] = ['POST /v1/transfers', 'post transfer'].map((name) =>
    receiver.spans.find((span) => span.traceId === caller.traceId && span.name === name),
  )
  expect(server).toMatchObject({
    status: 0,
    attributes: { 'error.type': 'insufficient_funds', 'http.response.status_code': 422 },
  })
  expect(post?.attributes).toMatchObject({ 'zerosum.refusal': 'insufficient_funds' })
})

test.each([
  ['tracing is off', {}, '01'],
  ['the caller does not sample', { OTEL_TRACES_SAMPLER: 'parentbased_always_on' }, '00'],
  ['the caller samples, but tracing is disabled', { OTEL_SDK_DISABLED: 'true' }, '01'],
] as const)('where %s nothing is stored, and no header is sent', async (_name, more, flags) => {
  const receiver = await openTraceReceiver()
  const isOff = Object.keys(more).length === 0
  const { client, node, hook, payer, payee, urls } = await start({
    otel: isOff ? {} : toReceiver(receiver.url, { OTEL_TRACES_SAMPLER: 'parentbased_always_off', ...more }),
  })
  const before = await tracedRows(urls)
  const paid = await client.pay(payer, payee, 1, { headers: callerContext(flags).headers })
  expect(paid.status).toBe(201)
  const calls = await until(
    () => hook.calls.filter(({ body }) => body.includes(paid.body.id)),
    (calls) => calls.length === 3,
  )
  expect(calls.map(({ headers }) => headers['traceparent'])).toEqual([undefined, undefined, undefined])
  expect((await tracedRows(urls)) - before).toBe(0)
  expect(await node.stop()).toBe(0)
  if (isOff || flags === '01') expect([before, receiver.spans]).toEqual([0, []])
})

test('a receiver that is away costs one line, and nothing else', async () => {
  const { client, node, payer, near } = await start({
    otel: toReceiver('http://127.0.0.1:9', { OTEL_EXPORTER_OTLP_TIMEOUT: '500' }),
    log: { form: 'json', level: 'info' },
  })
  const lines = () => trouble(node).length
  await until(lines, (count) => count > 0)
  // More to send, so that it fails again.
  for (let i = 0; i < 5; i++) expect((await client.pay(payer, near, 1)).status).toBe(201)
  expect(await node.stop()).toBe(0)
  expect(trouble(node)).toHaveLength(1)
})

const trouble = (node: NodeProcess) =>
  node
    .output()
    .split('\n')
    .filter((line) => line.includes('"level":"warn"') && line.includes('traces could not be sent'))
