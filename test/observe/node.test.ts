import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { createServer, request } from 'node:http'
import { type AddressInfo, connect as dial } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { CURRENCIES } from '../../src/core/money.ts'
import { REFUSALS } from '../../src/core/refusal.ts'
import { createDirectory, newKey, SCOPES } from '../../src/tenants/directory.ts'
import { type Client, clientOf } from '../support/api.ts'
import { emptyDatabase } from '../support/database.ts'
import { type NodeProcess, startNode } from '../support/node.ts'
import { type Family, figureOf, parseOpenMetrics } from './openmetrics.ts'

/** In everything that somebody sends and that must not be logged. */
const MARK = 'mrk7q'
const AMOUNT = 7_654_321
const FUNDS = 987_654_321

type Line = Record<string, unknown> & { level: string; time: string; msg: string }

describe('a node', () => {
  let node: NodeProcess
  let sent = 0
  const demoKey = newKey()
  const otherKey = newKey()
  const receiver = createServer((_, response) => response.writeHead(500).end(MARK))
  let lines: Line[] = []
  let output = ''
  const scrapes: Map<string, Family>[] = []

  beforeAll(async () => {
    const urls = [await emptyDatabase(), await emptyDatabase()]
    receiver.listen(0, '127.0.0.1')
    await once(receiver, 'listening')
    node = await startNode({
      ...{ databaseUrl: urls.join(','), demoKey, webhooksAllowPrivate: true, log: { form: 'json', level: 'debug' } },
      // Nobody listens there: there is trouble to tell of.
      redisUrl: `redis://user:${MARK}redis@127.0.0.1:1`,
    })
    const directory = createDirectory(urls[0] ?? '')
    await directory.addKey(await directory.ensureTenant(`${MARK}-tenant`), otherKey, SCOPES)
    await directory.close()
    await scrape()
    for (let round = 0; round < 2; round++) {
      await beBusy()
      scrapes.push(await scrape())
    }
    // What was found out every few seconds is found out by now.
    const wanted = [
      ...['zerosum_shard_up', 'zerosum_ledger_imbalance', 'zerosum_webhook_pending', 'zerosum_consumer_lag_blocks'],
    ]
    const isOld = (families: Map<string, Family>) =>
      !figureOf(families, 'zerosum_webhook_deliveries_total', { outcome: 'retry' }) ||
      wanted.some((name) => !families.get(name)?.samples.length) ||
      ['0', '1'].some((shard) => figureOf(families, 'zerosum_sagas_in_flight', { shard }) !== 0)
    for (let families = await scrape(); isOld(families); ) {
      await sleep(250)
      families = await scrape()
    }
    scrapes.push(await scrape())
    expect(await node.stop()).toBe(0)
    output = node.output()
    lines = output
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line))
  }, 400_000)
  afterAll(async () => {
    await node?.kill()
    receiver.close()
  })

  async function scrape(): Promise<Map<string, Family>> {
    sent += 1
    const accept = 'application/openmetrics-text; version=1.0.0'
    return parseOpenMetrics((await node.send({ method: 'GET', path: '/metrics', headers: { accept } })).text)
  }

  const counting: typeof node.send = async (asked) => {
    sent += 1
    return await node.send(asked)
  }

  /** Everything that can be asked, well and badly, with marks in all of it. */
  async function beBusy(): Promise<void> {
    for (const client of [clientOf(counting, demoKey), clientOf(counting, otherKey)]) {
      const wallets = await walletsOf(client)
      await moveMoney(client, wallets)
      await followAndHear(client, wallets)
    }
    await askBadly(clientOf(counting, demoKey))
  }

  async function walletsOf(client: Client): Promise<string[]> {
    const fields = () => ({ name: `${MARK}-name`, metadata: { [`${MARK}-field`]: `${MARK}-value` } })
    const holders = Array.from({ length: 12 }, () => `${MARK}-${randomUUID()}`)
    const wallets: string[] = []
    for (const holderId of holders) wallets.push(await client.wallet(FUNDS, { holderId, ...fields() }))
    for (const currency of ['JPY', 'BHD', 'XAU', 'EUR']) {
      await client.call('POST', '/v1/wallets', { holderId: `${MARK}-holder`, currency, ...fields() })
    }
    await client.get(`/v1/wallets?holderId=${holders[0]}`)
    await client.call('PATCH', `/v1/wallets/${wallets[0]}`, { name: `${MARK}-renamed`, metadata: { a: MARK } })
    return wallets
  }

  async function moveMoney(client: Client, [a = '', b = '', c = '', ...others]: string[]): Promise<void> {
    const remarks = { memo: `${MARK}-memo`, metadata: { [MARK]: `${MARK}-value` } }
    const body = { from: a, to: b, amount: `${AMOUNT}`, currency: 'USD', ...remarks }
    const paid = await client.call<{ id: string }>('POST', '/v1/transfers', body, { key: `${MARK}-${randomUUID()}` })
    expect(paid.status).toBe(201)
    // To so many that some of them are on the other shard, there and back.
    for (const to of others) {
      const { status, body } = await client.pay(a, to, AMOUNT)
      expect(status).toBe(201)
      await client.call('POST', `/v1/transfers/${body.id}/reverse`, {})
    }
    await client.call('POST', `/v1/transfers/${paid.body.id}/reverse`, {})
    await client.get(`/v1/transfers/${paid.body.id}`)
    const transfers = [{ ...body, idempotencyKey: `${MARK}-${randomUUID()}` }]
    expect((await client.call('POST', '/v1/transfers/batch', { transfers })).status).toBe(200)
    const withdrawal = { walletId: c, amount: '12345', currency: 'USD', destination: MARK }
    expect((await client.call('POST', '/v1/withdrawals', withdrawal)).status).toBe(201)
    const hold = await client.hold(a, c, AMOUNT)
    expect(hold.status).toBe(201)
    await client.call('POST', `/v1/holds/${hold.body.id}/capture`, {})
    expect((await client.pay(a, b, FUNDS * 10)).body).toMatchObject({ code: 'insufficient_funds' })
    await client.get(`/v1/wallets/${a}/entries?cursor=${MARK}`)
    await client.get(`/v1/wallets/${a}/balance?consistency=strong`)
    await client.get(`/v1/wallets/${b}/balance`)
  }

  async function followAndHear(client: Client, [wallet = '', to = '']: string[]): Promise<void> {
    const { port } = receiver.address() as AddressInfo
    const url = `http://user:${MARK}password@127.0.0.1:${port}/hook?token=${MARK}`
    await client.call('POST', '/v1/webhook-endpoints', { url, description: MARK })
    const made = await client.call('POST', '/v1/webhook-endpoints', { url: `http://127.0.0.1:${port}/${MARK}` })
    expect(made.status, made.text).toBe(201)
    const stream = request(`${node.url}/v1/wallets/${wallet}/events`, {
      headers: { authorization: `Bearer ${client.apiKey}` },
    })
    stream.end()
    sent += 1
    const [answer] = await once(stream, 'response')
    await once(answer, 'data')
    await client.pay(wallet, to, AMOUNT)
    await sleep(1_500)
    stream.destroy()
  }

  async function askBadly(client: Client): Promise<void> {
    for (const path of [
      `/${MARK}`,
      `/v1/wallets/${MARK}`,
      `/v1/wallets/wal_${MARK}/balance`,
      `/v1/${randomUUID()}/${MARK}`,
      '/%zz',
    ])
      await client.get(path)
    for (const path of ['/v1/holds/x', `/v1/transactions/${MARK}?key=${MARK}`, `/v1/ledger/blocks/0/1${MARK}`])
      await client.get(path)
    await client.call('POST', '/v1/wallets', { holderId: 7, currency: MARK, [MARK]: MARK })
    await client.call('POST', '/v1/transfers', undefined, { raw: `{"memo": "${MARK}", ` })
    await client.call('POST', '/v1/top-ups', {
      walletId: `wal_${'0'.repeat(32)}`,
      amount: `${AMOUNT}`,
      currency: 'USD',
    })
    for (const authorization of [`Bearer zs_test_${MARK}0000000000000000`, `Basic ${MARK}`])
      await client.get('/v1/wallets', { authorization })
    for (const method of ['PROPFIND', 'OPTIONS', 'LOCK', 'M-SEARCH', 'TRACE']) {
      const call = request(`${node.url}/v1/wallets?${MARK}`, { method })
      call.end()
      sent += 1
      const [answer] = await once(call, 'response')
      answer.resume()
    }
    await new Promise((done) => {
      const socket = dial(Number(new URL(node.url).port), '127.0.0.1', () =>
        socket.write(`BREW /${MARK} HTTP/1.1\r\n\r\n`),
      )
      socket.on('close', done).resume()
    })
  }

  it('logs a line for each call, with what is needed to find it', () => {
    const calls = lines.filter(({ msg }) => msg === 'request')
    expect(calls.length).toBeGreaterThanOrEqual(sent)
    for (const call of calls) {
      expect(call).toMatchObject({
        level: expect.stringMatching(/^(info|warn)$/),
        time: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
        correlationId: expect.stringMatching(/^[0-9a-f-]{36}$/),
        latencyMs: expect.any(Number),
        method: expect.any(String),
        route: expect.stringMatching(/^(unmatched|\/[a-z\d/:*.-]*)$/i),
        status: expect.any(Number),
      })
    }
    const paid = calls.find(({ url, status }) => url === '/v1/transfers' && status === 201)
    expect(paid?.['tenantId']).toMatch(/^ten_[0-9a-f]{32}$/)
    expect(calls.find(({ route }) => route === '/v1/wallets/:id/balance')?.['url']).toMatch(
      /^\/v1\/wallets\/wal_[0-9a-f]{32}\/balance$/,
    )
    expect(calls.filter(({ code }) => code === 'insufficient_funds')).toHaveLength(4)
    const streams = calls.filter(({ route }) => route === '/v1/wallets/:id/events')
    expect(streams.map(({ status, latencyMs }) => [status, Number(latencyMs) >= 1_000])).toEqual(
      Array(4).fill([200, true]),
    )
  })

  it('logs a line for each block', () => {
    const blocks = lines.filter(({ msg }) => msg === 'block')
    for (const shard of [0, 1]) {
      const numbers = blocks.filter((block) => block['shard'] === shard).map(({ number }) => number)
      expect(numbers.length).toBeGreaterThan(20)
      expect(numbers).toEqual(numbers.map((_, i) => i + 1))
    }
    for (const block of blocks) {
      expect(block).toMatchObject({
        requests: expect.any(Number),
        entries: expect.any(Number),
        commitMs: expect.any(Number),
      })
    }
  })

  it('logs what goes wrong in the background, on the same way', () => {
    expect(lines.find(({ msg }) => msg === 'Redis met trouble')).toMatchObject({
      level: 'warn',
      err: { type: expect.any(String), message: expect.any(String), stack: expect.any(String) },
    })
  })

  it('says when it begins and when it ends, and no key', () => {
    expect(lines.some(({ msg }) => /^Zerosum listens on http:/.test(msg))).toBe(true)
    const end = lines.findIndex(({ msg }) => msg.startsWith('SIGTERM: answering'))
    expect(end).toBeGreaterThan(0)
    expect(lines.slice(end).filter(({ msg }) => msg === 'request' || msg === 'block')).toEqual([])
  })

  it('logs no secret, and nothing of people or their money', () => {
    expect(output).not.toContain(MARK)
    for (const secret of [demoKey, otherKey, 'whsec_', 'Bearer']) expect(output).not.toContain(secret)
    const amounts = [AMOUNT, FUNDS, FUNDS - AMOUNT, FUNDS + AMOUNT, FUNDS * 10, 12_345]
    for (const amount of amounts) expect(output).not.toMatch(new RegExp(`(?<!\\d)${amount}(?!\\d)`))
  })

  it('has figures with labels that nobody can make more of', () => {
    const [first, second, last] = scrapes
    const seriesOf = (families: Map<string, Family> | undefined) =>
      [...(families?.values() ?? [])]
        .filter(({ name }) => /^zerosum_(http|requests|refusals|money|blocks?|cache)_/.test(name))
        .flatMap(({ samples }) => samples.map(({ name, labels }) => `${name}${JSON.stringify(labels)}`))
    // The same again, with dozens of wallets, keys and bad paths more, makes hardly a series that was not there: an answer may come late, say.
    const known = new Set(seriesOf(first))
    const added = seriesOf(second).filter((one) => !known.has(one))
    expect(added.length, added.join(' ')).toBeLessThan(6)
    for (const { name, samples } of last?.values() ?? []) {
      for (const { labels } of samples) {
        for (const [label, value] of Object.entries(labels)) {
          const allowed = LABELS[label]
          expect(allowed, `${name} has a label ${label}`).toBeDefined()
          expect(allowed?.test(value), `${name} has ${label} "${value}"`).toBe(true)
        }
      }
      const { size } = new Set(samples.map(({ labels: { le: _, ...others } }) => JSON.stringify(others)))
      expect(size, name).toBeLessThan(120)
    }
  })

  it('counts all calls, streams that are over too', () => {
    const last = scrapes.at(-1)
    const counted = last?.get('zerosum_http_requests')?.samples.reduce((sum, { value }) => sum + value, 0)
    // The last scrape does not count itself. What is no HTTP at all is no call.
    expect(counted).toBe(sent - 1)
    const route = '/v1/wallets/:id/events'
    expect(figureOf(last ?? new Map(), 'zerosum_http_requests_total', { route })).toBe(4)
    expect(figureOf(last ?? new Map(), 'zerosum_http_request_duration_seconds_count', { route })).toBeUndefined()
    expect(figureOf(last ?? new Map(), 'zerosum_http_in_flight')).toBe(1)
  })

  it('has figures of its loops, pools, shards, groups, cache and audits', () => {
    const last = scrapes.at(-1) ?? new Map<string, Family>()
    expect(figureOf(last, 'zerosum_shard_up', { shard: '1' })).toBe(1)
    expect(figureOf(last, 'zerosum_ledger_imbalance')).toBe(0)
    expect(figureOf(last, 'zerosum_sagas_in_flight', { shard: '0' })).toBe(0)
    expect(figureOf(last, 'zerosum_consumer_lag_blocks', { group: 'webhooks', shard: '0' })).toBeGreaterThanOrEqual(0)
    expect(figureOf(last, 'zerosum_pool_connections', { pool: 'reader 0', state: 'idle' })).toBeGreaterThan(0)
    expect(figureOf(last, 'zerosum_cache_reads_total', { result: 'bypass' })).toBe(4)
    expect(figureOf(last, 'zerosum_cache_reads_total', { result: 'error' })).toBeGreaterThan(0)
    expect(figureOf(last, 'zerosum_breaker_state', { dependency: 'redis' })).toBeGreaterThan(0)
    expect(figureOf(last, 'zerosum_webhook_deliveries_total', { outcome: 'retry' })).toBeGreaterThan(0)
    expect(figureOf(last, 'zerosum_webhook_pending')).toBeGreaterThan(0)
    expect(figureOf(last, 'zerosum_webhook_hosts_unreachable')).toBe(0)
    expect(figureOf(last, 'zerosum_audit_last_timestamp_seconds')).toBeGreaterThan(1.7e9)
    expect(figureOf(last, 'zerosum_event_loop_utilization_ratio')).toBeGreaterThan(0)
    const used = figureOf(last, 'nodejs_heap_size_used_bytes') ?? 0
    expect(used).toBeGreaterThan(1e6)
    expect(figureOf(last, 'zerosum_heap_limit_bytes')).toBeGreaterThan(used)
  })
})

const oneOf = (values: Iterable<string>) => new RegExp(`^(${[...values].join('|')})$`)

/** All labels that there may be, and what they may say. */
const LABELS: Record<string, RegExp> = {
  version: /^v?\d+\.\d+\.\d+$/,
  major: /^\d+$/,
  minor: /^\d+$/,
  patch: /^\d+$/,
  le: /^(\d+(\.\d+)?|\+Inf)$/,
  quantile: /^0\.\d+$/,
  type: /^[A-Za-z]+$/,
  space: /^[a-z_]+$/,
  kind: /^[a-z-]+$/,
  method: oneOf(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'other']),
  route: /^(unmatched|\/(metrics|livez|readyz|openapi\.json|docs[a-z/.*-]*)|\/v1\/[a-z-]+(\/([a-z-]+|:[a-zA-Z]+))*)$/,
  status: /^[2345]\d\d$/,
  shard: /^[01]$/,
  pool: /^[a-z ]+( [0-9]+)?$/,
  state: oneOf(['idle', 'used', 'waiting']),
  outcome: oneOf(['accepted', 'refused', 'completed', 'compensated', 'delivered', 'retry', 'dead', 'gone']),
  code: oneOf(REFUSALS),
  currency: oneOf([...CURRENCIES.keys(), 'other']),
  group: oneOf(['cache', 'webhooks', 'projections', 'posting']),
  result: oneOf(['hit', 'miss', 'bypass', 'error']),
  dependency: oneOf(['redis', 'shard0', 'shard1']),
  reason: oneOf(['tenant_rate', 'queue', 'event_loop', 'streams']),
}
