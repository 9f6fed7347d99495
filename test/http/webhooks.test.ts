import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Static } from 'typebox'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type {
  LoggedWebhookDeliveryBody,
  ShownWebhookEndpointBody,
  WebhookDeliveryBody,
} from '../../src/http/schemas.ts'
import { newKey } from '../../src/tenants/directory.ts'
import { startDispatcher } from '../../src/webhooks/dispatcher.ts'
import { ENDPOINTS_MAX } from '../../src/webhooks/endpoints.ts'
import { EVENT_PATTERNS } from '../../src/webhooks/eventTypes.ts'
import { type Api, type Client, clientOf, ID, openApi, type PageOf, TIME } from '../support/api.ts'
import { startNode } from '../support/node.ts'
import { happen } from '../webhooks/happen.ts'
import { openReceiver } from '../webhooks/receiver.ts'
import { expectProblem, lasting } from './problem.ts'

type Endpoint = Static<typeof ShownWebhookEndpointBody>
type Delivery = Static<typeof WebhookDeliveryBody>
type LoggedDelivery = Static<typeof LoggedWebhookDeliveryBody>

const LIST = '/v1/webhook-endpoints'
const URL = 'https://hooks.example.com/zerosum'

let api: Api
/** The same database, where endpoints may be on the loopback. */
let loose: Api

beforeAll(async () => {
  api = await openApi()
  loose = await openApi({ url: api.url, webhookRules: { allowPrivate: true } })
})
afterAll(async () => {
  await loose?.close()
  await api?.close()
})

/** A tenant with nothing yet, and its id. */
async function newcomer(from = api): Promise<{ client: Client; tenantId: string }> {
  const tenantId = await from.directory.ensureTenant(randomUUID())
  const key = `zs_test_${randomUUID().replaceAll('-', '')}`
  await from.directory.addKey(tenantId, key, ['webhooks:manage'])
  return { client: from.as(key), tenantId }
}

async function make(client: Client, fields: object = {}): Promise<Endpoint> {
  const answer = await client.call<Endpoint>('POST', LIST, { url: URL, ...fields })
  expect(answer.status, answer.text).toBe(201)
  return answer.body
}

describe('POST /v1/webhook-endpoints', () => {
  test('makes an endpoint and shows its secret, this once', async () => {
    const { client } = await newcomer()
    const body = {
      url: 'https://Hooks.example.com',
      description: 'ours',
      eventTypes: ['transaction.posted', 'entry.*'],
    }
    const answer = await client.call<Endpoint>('POST', LIST, body)
    expect(answer.status, answer.text).toBe(201)
    const { secret, ...shown } = answer.body
    expect(secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/)
    expect(shown).toEqual({
      id: expect.stringMatching(ID('whk')),
      url: 'https://hooks.example.com/',
      description: 'ours',
      eventTypes: ['transaction.posted', 'entry.*'],
      disabled: false,
      disabledReason: null,
      disabledAt: null,
      failingSince: null,
      full: false,
      missedEvents: null,
      createdAt: expect.stringMatching(TIME),
    })
    const location = answer.headers['location'] ?? ''
    expect(location).toBe(`${LIST}/${shown.id}`)
    expect((await client.get(location)).body).toEqual(shown)
    expect((await client.get(LIST)).body).toEqual({ data: [shown], nextCursor: null })
  })

  test('takes all types if none is named', async () => {
    expect((await make((await newcomer()).client)).eventTypes).toEqual(['*'])
  })

  test('needs an idempotency key; with the same one it answers the same, and makes nothing more', async () => {
    const { client } = await newcomer()
    expectProblem(await client.call('POST', LIST, { url: URL }, { key: null }), 'idempotency_key_missing')
    const ask = (body: object = { url: URL }) => client.call<Endpoint>('POST', LIST, body, { key: 'one' })
    const copies = await Promise.all(Array.from({ length: 5 }, () => ask()))
    for (const copy of copies) expect(lasting(copy)).toEqual(lasting(copies[0] as (typeof copies)[0]))
    const replays = copies.filter(({ headers }) => headers['idempotency-replayed'] === 'true')
    expect(replays).toHaveLength(4)
    expect(await client.all(LIST)).toHaveLength(1)
    expectProblem(await ask({ url: `${URL}/other` }), 'idempotency_key_reused')
    const [first = await ask()] = copies
    await client.call('PATCH', `${LIST}/${first.body.id}`, { rotateSecret: {}, description: 'changed' })
    const { secret, ...rest } = first.body
    expect(secret).toBeDefined()
    expect((await ask()).body, 'a secret that was replaced is not shown again').toEqual(rest)
  })

  test.each([
    'http://hooks.example.com/',
    'https://127.0.0.1/',
    'https://[::ffff:10.0.0.1]/',
    'https://169.254.169.254/latest/meta-data/',
    'https://me:password@example.com/',
    'https://example.com:5432/',
    'https://localhost/',
    'not a url',
  ])('refuses %s, and says why', async (url) => {
    const { client } = await newcomer()
    const problem = expectProblem(await client.call('POST', LIST, { url }), 'webhook_url_refused')
    expect(problem.detail).toMatch(/^The URL is refused: it/)
    expect(await client.all(LIST)).toEqual([])
    const endpoint = await make(client)
    expectProblem(await client.call('PATCH', `${LIST}/${endpoint.id}`, { url }), 'webhook_url_refused')
  })

  test.each([
    [{}],
    [{ url: URL, secret: 'mine' }],
    [{ url: '' }],
    [{ url: 5 }],
    [{ url: `https://example.com/${'x'.repeat(2048)}` }],
    [{ url: URL, eventTypes: [] }],
    [{ url: URL, eventTypes: ['a*'] }],
    [{ url: URL, eventTypes: ['*.a'] }],
    [{ url: URL, eventTypes: 'a' }],
    [{ url: URL, eventTypes: [`a.${'b'.repeat(100)}`] }],
    [{ url: URL, eventTypes: Array.from({ length: 51 }, (_, i) => `a.b${i}`) }],
    [{ url: URL, description: 'x'.repeat(201) }],
    [{ url: URL, description: 'a\u0000b' }],
  ])('refuses %j', async (body) => {
    expectProblem(await api.alpha.call('POST', LIST, body), 'validation_failed')
  })

  test.each(['transfer.postd', 'transactions.*', 'a.b', 'transaction', 'ENTRY.posted'])(
    'refuses the event type %s, names the field, and says which there are',
    async (type) => {
      const { client } = await newcomer()
      const message = `must be one of ${EVENT_PATTERNS.join(', ')}`
      const errors = [{ field: 'body/eventTypes/1', message }]
      const eventTypes = ['entry.posted', type]
      const made = await client.call('POST', LIST, { url: URL, eventTypes })
      expect(expectProblem(made, 'validation_failed')).toMatchObject({
        errors,
        detail: `body/eventTypes/1: ${message}`,
      })
      const { id } = await make(client)
      const changed = await client.call('PATCH', `${LIST}/${id}`, { eventTypes })
      expect(expectProblem(changed, 'validation_failed')).toMatchObject({ errors })
    },
  )

  test.each(EVENT_PATTERNS)('takes the event type %s', async (pattern) => {
    const { client } = await newcomer()
    expect((await make(client, { eventTypes: [pattern] })).eventTypes).toEqual([pattern])
  })

  test('makes a hundred at most, also when they are asked for at once', async () => {
    const { client } = await newcomer()
    const answers = await Promise.all(
      Array.from({ length: ENDPOINTS_MAX + 5 }, () => client.call<Endpoint>('POST', LIST, { url: URL })),
    )
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(ENDPOINTS_MAX)
    const refused = answers.filter(({ status }) => status !== 201)
    for (const answer of refused) expectProblem(answer, 'too_many_webhook_endpoints')
    const all = await client.all<Endpoint>(LIST, 30)
    expect(new Set(all.map(({ id }) => id)).size).toBe(ENDPOINTS_MAX)
    expect(JSON.stringify(all)).not.toContain('whsec_')
    await client.call('DELETE', `${LIST}/${all[0]?.id}`)
    await make(client)
  })
})

describe('PATCH /v1/webhook-endpoints/{id}', () => {
  test('changes what it names and nothing else', async () => {
    const { client } = await newcomer()
    const { secret: _, ...endpoint } = await make(client)
    const path = `${LIST}/${endpoint.id}`
    const change = { url: 'https://other.example.com/', eventTypes: ['entry.posted'], description: 'new' }
    const changed = { ...endpoint, ...change }
    expect((await client.call('PATCH', path, change)).body).toEqual(changed)
    const off = { ...changed, disabled: true, disabledReason: 'manual', disabledAt: expect.stringMatching(TIME) }
    expect((await client.call('PATCH', path, { disabled: true })).body).toEqual(off)
    expect((await client.get(path)).body).toEqual(off)
    expect((await client.call('PATCH', path, { disabled: false })).body).toEqual(changed)
  })

  test('makes a new secret and shows it, this once', async () => {
    const { client } = await newcomer()
    const first = await make(client)
    const path = `${LIST}/${first.id}`
    const { body } = await client.call<Endpoint>('PATCH', path, { rotateSecret: {} })
    expect(body.secret).toMatch(/^whsec_/)
    expect(body.secret).not.toBe(first.secret)
    expect((await client.get(path)).text).not.toContain('whsec_')
  })

  test.each([
    [{}],
    [{ disabled: 'yes' }],
    [{ rotateSecret: true }],
    [{ rotateSecret: { overlapSeconds: -1 } }],
    [{ id: 'x' }],
  ])('refuses %j', async (change) => {
    const { client } = await newcomer()
    const { id } = await make(client)
    expectProblem(await client.call('PATCH', `${LIST}/${id}`, change), 'validation_failed')
  })
})

describe('DELETE /v1/webhook-endpoints/{id}', () => {
  test('takes it away, with its secrets, and a second time finds nothing', async () => {
    const { client, tenantId } = await newcomer()
    const { id } = await make(client)
    await happen(api.url, { tenantId })
    const answer = await client.call('DELETE', `${LIST}/${id}`)
    expect({ status: answer.status, text: answer.text }).toEqual({ status: 204, text: '' })
    for (const path of [`${LIST}/${id}`, `${LIST}/${id}/deliveries`]) expectProblem(await client.get(path), 'not_found')
    expectProblem(await client.call('DELETE', `${LIST}/${id}`), 'not_found')
    expect(await client.all(LIST)).toEqual([])
    const rows = await api.query<{ secret: string | null }>(
      `SELECT secret FROM webhook_endpoints WHERE tenant_id = '${tenantId}'`,
    )
    expect(rows).toEqual([{ secret: null }])
  })
})

describe('deliveries', () => {
  test('are listed newest first, by status too, with their attempts, and can be resent', async () => {
    const { client, tenantId } = await newcomer(loose)
    const receiver = await openReceiver((answer, _call, number) =>
      answer.writeHead(number === 1 ? 503 : 200).end('said'),
    )
    const { id } = await make(client, { url: receiver.url })
    const path = `${LIST}/${id}/deliveries`
    const seen = async () => (await client.get<PageOf<Delivery>>(path)).body.data
    await happen(api.url, { tenantId, data: { n: 1 } })
    const [waiting] = await seen()
    expect(waiting).toEqual({
      id: expect.stringMatching(ID('whd')),
      endpointId: id,
      messageId: expect.stringMatching(ID('msg')),
      eventType: 'transaction.posted',
      status: 'pending',
      attemptCount: 0,
      nextAttemptAt: expect.stringMatching(TIME),
      createdAt: expect.stringMatching(TIME),
      deliveredAt: null,
      lastAttempt: null,
    })
    const dispatcher = startDispatcher({
      url: api.url,
      rules: { allowPrivate: true },
      onTrouble: () => {},
      intervalMs: 20,
    })
    try {
      while ((await seen())[0]?.lastAttempt === null) await sleep(20)
      const [failed] = await seen()
      expect(failed).toMatchObject({
        status: 'pending',
        attemptCount: 1,
        lastAttempt: { number: 1, statusCode: 503, error: null, response: 'said' },
      })
      await sleep(2)
      await happen(api.url, { tenantId, data: { n: 2 } })
      const answer = await client.call<LoggedDelivery>('POST', `${path}/${failed?.id}/resend`, undefined, {
        key: 'again',
      })
      expect(answer.status, answer.text).toBe(202)
      expect(answer.headers['location']).toBe(`${path}/${failed?.id}`)
      while ((await seen()).some(({ status }) => status !== 'delivered')) await sleep(20)
    } finally {
      await dispatcher.stop()
    }
    const [second, first] = await seen()
    expect(first?.id).toBe(waiting?.id)
    expect(second?.attemptCount).toBe(1)
    const { body: whole } = await client.get<LoggedDelivery>(`${path}/${first?.id}`)
    expect(whole.payload).toBe(receiver.calls[0]?.body)
    expect(JSON.parse(whole.payload).data).toEqual({ n: 1 })
    expect(whole.attempts.map(({ number, statusCode }) => [number, statusCode])).toEqual([
      [2, 200],
      [1, 503],
    ])
    expect(receiver.calls[0]?.headers['webhook-id']).toBe(whole.messageId)
    const replay = await client.call('POST', `${path}/${first?.id}/resend`, undefined, { key: 'again' })
    expect(replay.headers['idempotency-replayed']).toBe('true')
    expectProblem(
      await client.call('POST', `${path}/${second?.id}/resend`, undefined, { key: 'again' }),
      'idempotency_key_reused',
    )
    const ids = async (status: string) =>
      (await client.all<Delivery>(`${path}?status=${status}`, 1)).map((one) => one.id)
    expect(await ids('delivered')).toEqual([second?.id, first?.id])
    expect(await ids('dead')).toEqual([])
    expectProblem(await client.get(`${path}?status=lost`), 'validation_failed')
  })

  test('to a disabled endpoint are not resent', async () => {
    const { client, tenantId } = await newcomer()
    const { id } = await make(client)
    await happen(api.url, { tenantId })
    const [delivery] = await client.all<Delivery>(`${LIST}/${id}/deliveries`)
    await client.call('PATCH', `${LIST}/${id}`, { disabled: true })
    const answer = await client.call('POST', `${LIST}/${id}/deliveries/${delivery?.id}/resend`)
    expectProblem(answer, 'webhook_endpoint_disabled')
  })
})

test('an endpoint that is full shows that, and what it missed', async () => {
  const { client, tenantId } = await newcomer()
  const { id } = await make(client)
  await happen(api.url, { tenantId })
  await api.query(`UPDATE webhook_backlogs SET room = 0, is_full = true, counted_us = counted_us + 1000000000
    WHERE endpoint_id = (SELECT id FROM webhook_endpoints WHERE tenant_id = '${tenantId}')`)
  const times = ['2126-01-01T00:00:00.000001Z', '2126-01-01T00:00:01.000000Z'] as const
  for (const time of times) {
    const timeUs = Date.parse(time) * 1000 + Number(time.slice(-4, -1))
    await happen(api.url, { tenantId, timeUs })
  }
  const missedEvents = { count: 2, from: times[0], until: times[1] }
  const shown = { full: true, missedEvents, disabled: false }
  expect((await client.get(`${LIST}/${id}`)).body).toMatchObject(shown)
  expect((await client.get(LIST)).body).toMatchObject({ data: [shown] })
  expect((await client.call('PATCH', `${LIST}/${id}`, { description: 'x' })).body).toMatchObject(shown)
})

test('a node delivers by itself what was accepted, and stops in order', async () => {
  const receiver = await openReceiver()
  const demoKey = newKey()
  const node = await startNode({ databaseUrl: api.url, demoKey, webhooksAllowPrivate: true })
  try {
    const client = clientOf(node.send, demoKey)
    await make(client, { url: receiver.url })
    await happen(api.url, { tenantId: await api.directory.ensureTenant('demo') })
    await receiver.called(1)
  } finally {
    expect(await node.stop()).toBe(0)
  }
  expect(node.output()).not.toContain('whsec_')
})
