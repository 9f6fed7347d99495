import { randomUUID } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { accept, BODY_BYTES_MAX, COUNT_AGAIN_US, type WebhookEvent } from '../../src/webhooks/accept.ts'
import { EVENT_PATTERNS, EVENT_TYPES, isChosen } from '../../src/webhooks/eventTypes.ts'
import { openStage, type Stage } from './stage.ts'

const HOOK = 'http://127.0.0.1:9/'

describe('a pattern', () => {
  it.each([
    ['transaction.posted', ['transaction.posted'], true],
    ['transaction.posted', ['entry.posted', 'transaction.posted'], true],
    ['transaction.posted', ['entry.posted'], false],
    ['transaction.posted', ['*'], true],
    ['transaction.posted', ['transaction.*'], true],
    ['transaction.posted.late', ['transaction.*'], true],
    ['transaction', ['transaction.*'], false],
    ['transactions.posted', ['transaction.*'], false],
    ['transaction.posted', ['transaction'], false],
    ['transaction.posted', [], false],
  ])('%s, asked for by %o: %s', (type, patterns, expected) => {
    expect(isChosen(type, patterns)).toBe(expected)
  })

  it('that may be named is a type, the beginning of one with a star, or a star; each chooses something', () => {
    expect(EVENT_PATTERNS).toEqual(expect.arrayContaining(['*', 'entry.*', ...EVENT_TYPES]))
    expect(new Set(EVENT_PATTERNS).size).toBe(EVENT_PATTERNS.length)
    for (const pattern of EVENT_PATTERNS) expect(EVENT_TYPES.some((type) => isChosen(type, [pattern]))).toBe(true)
  })
})

/** An event of the stage's tenant that happens now. */
const eventOf = (tenantId: string, fields: Partial<WebhookEvent> = {}): WebhookEvent => ({
  ...{ id: randomUUID(), tenantId, type: 'transaction.posted', timeUs: Date.now() * 1000, data: null },
  ...{ href: '/v1/transactions/txn_1', ...fields },
})

describe('an event', () => {
  it('goes to the enabled endpoints of its tenant that chose its type, and to no others', async () => {
    const stage = await openStage()
    const wanted = [await stage.listen(HOOK), await stage.listen(HOOK, ['x', 'transaction.*'])]
    await stage.listen(HOOK, ['entry.*'])
    await stage.listen(HOOK, ['*'], await stage.tenant())
    const disabled = await stage.listen(HOOK)
    await stage.endpoints.change(stage.tenantId, disabled.id, { disabled: true })
    const deleted = await stage.listen(HOOK)
    await stage.endpoints.remove(stage.tenantId, deleted.id)
    expect(await stage.happen({})).toBe(2)
    const rows = await stage.deliveries()
    expect(rows.map((row) => row.endpoint_id).sort()).toEqual(wanted.map(({ id }) => id).sort())
  })

  it('that comes again, later, at once, or twice in one portion, is delivered once', async () => {
    const stage = await openStage()
    await stage.listen(HOOK)
    expect(await stage.happen({ id: 'a' }, { id: 'a' }, { id: 'b' })).toBe(2)
    expect(await stage.happen({ id: 'b' }, { id: 'a' })).toBe(0)
    const many = Array.from({ length: 20 }, (_, i) => ({ id: `event ${i}` }))
    const made = await Promise.all([stage.happen(...many), stage.happen(...many.toReversed())])
    expect(made.toSorted()).toEqual([0, 20])
    expect(await stage.deliveries()).toHaveLength(22)
  })

  it('is not delivered to an endpoint that was made after it happened', async () => {
    const stage = await openStage()
    const before = Date.now() * 1000 - 60_000_000
    await stage.listen(HOOK)
    const event = eventOf(stage.tenantId, { timeUs: before })
    await stage.sql.begin(async (sql) => expect((await accept(sql, [event])).deliveries).toBe(0))
  })

  it('is not delivered when the transaction that accepted it is rolled back, and is when it comes again', async () => {
    const stage = await openStage()
    await stage.listen(HOOK)
    const event = eventOf(stage.tenantId, { id: 'a' })
    const failing = stage.sql.begin(async (sql) => {
      expect((await accept(sql, [event])).deliveries).toBe(1)
      throw new Error('no')
    })
    await expect(failing).rejects.toThrow('no')
    expect(await stage.deliveries()).toEqual([])
    expect(await stage.happen({ id: 'a' })).toBe(1)
  })

  it('of another tenant may have the same id', async () => {
    const stage = await openStage()
    const other = await stage.tenant()
    await stage.listen(HOOK)
    await stage.listen(HOOK, ['*'], other)
    expect(await stage.happen({ id: 'a' }, { id: 'a', tenantId: other })).toBe(2)
  })

  it('that nobody wants leaves nothing behind', async () => {
    const stage = await openStage()
    await stage.listen(HOOK, ['entry.posted'])
    expect(await stage.happen({})).toBe(0)
    expect(await stage.sql`SELECT FROM webhook_events`).toHaveLength(0)
  })

  it('that is larger than 256 KB is sent without its large parts, and says where to find it', async () => {
    const stage = await openStage()
    await stage.listen(HOOK)
    const [type, href] = ['transaction.posted', '/v1/transactions/txn_2'] as const
    const small = { id: 'txn_2', memo: null, statement: true }
    const sized = (size: number) => {
      const envelope = { type, timestamp: '1970-01-01T00:00:00.000000Z', data: { ...small, metadata: { a: '' } } }
      return { type, href, data: { ...small, metadata: { a: 'x'.repeat(size - JSON.stringify(envelope).length) } } }
    }
    const bodyOf = async (size: number) => {
      expect(await stage.happen(sized(size))).toBe(1)
      const [row] = await stage.sql<{ body: string }[]>`SELECT body FROM webhook_events ORDER BY length(body) LIMIT 1`
      return row?.body ?? ''
    }
    expect(await bodyOf(BODY_BYTES_MAX)).toHaveLength(BODY_BYTES_MAX)
    expect(JSON.parse(await bodyOf(BODY_BYTES_MAX + 1))).toEqual({
      ...{ type, timestamp: expect.stringMatching(/Z$/) },
      data: { ...small, truncated: true, href },
    })
  })
})

describe('an endpoint for which much waits', () => {
  const PENDING = 20
  /** Has so many events happen, under a bound that is soon reached. */
  async function happen(stage: Stage, count: number) {
    const events = Array.from({ length: count }, () => eventOf(stage.tenantId, { timeUs: stage.clock.nowMs * 1000 }))
    return await stage.sql.begin((sql) => accept(sql, events, { nowMs: stage.clock.nowMs, pendingMax: PENDING }))
  }
  const waiting = async (stage: Stage, id: string) =>
    (await stage.deliveries()).filter((row) => row.endpoint_id === id && row.status === 'pending').length

  it('gets no more when it is full; what it misses is counted, and another endpoint gets it', async () => {
    const stage = await openStage()
    const { id } = await stage.listen(HOOK)
    for (let i = 0; i < 2; i++) expect(await happen(stage, 10)).toEqual({ deliveries: 10, filled: [] })
    expect(await stage.endpoints.find(stage.tenantId, id)).toMatchObject({ isFull: false, missed: null })
    const other = await stage.listen(HOOK)
    const fromUs = stage.clock.nowMs * 1000
    expect(await happen(stage, 3)).toEqual({ deliveries: 3, filled: [id] })
    stage.clock.nowMs += 1_000
    expect(await happen(stage, 4), 'said once').toEqual({ deliveries: 4, filled: [] })
    expect(await waiting(stage, id)).toBe(20)
    expect(await waiting(stage, other.id)).toBe(7)
    const missed = { count: 7, fromUs, untilUs: stage.clock.nowMs * 1000 }
    expect(await stage.endpoints.find(stage.tenantId, id)).toMatchObject({ isFull: true, missed })
    expect(await stage.endpoints.list(stage.tenantId, { limit: 2, before: null })).toMatchObject([
      { id: other.id, isFull: false, missed: null },
      { id, isFull: true, missed },
    ])
  })

  it('gets what happens again when there is room, which is looked at a minute after it was found full', async () => {
    const stage = await openStage()
    const { id } = await stage.listen(HOOK)
    await happen(stage, 19)
    expect(await happen(stage, 2)).toMatchObject({ filled: [id] })
    await stage.sql`UPDATE webhook_deliveries SET status = 'delivered' WHERE id IN (
      SELECT id FROM webhook_deliveries LIMIT 10)`
    stage.clock.nowMs += COUNT_AGAIN_US / 1000 - 1
    expect(await happen(stage, 1)).toEqual({ deliveries: 0, filled: [] })
    stage.clock.nowMs += 1
    expect(await happen(stage, 1)).toEqual({ deliveries: 1, filled: [] })
    expect(await stage.endpoints.find(stage.tenantId, id)).toMatchObject({ isFull: false, missed: { count: 3 } })
    // The next time begins anew, the count goes on.
    stage.clock.nowMs += 1_000
    const fromUs = stage.clock.nowMs * 1000
    expect(await happen(stage, 20)).toEqual({ deliveries: 0, filled: [id] })
    expect((await stage.endpoints.find(stage.tenantId, id)).missed).toEqual({ count: 23, fromUs, untilUs: fromUs })
  })

  it('is full with a tenth of room left, and is counted no more often than a tenth of all that may wait has come', async () => {
    const stage = await openStage()
    const { id } = await stage.listen(HOOK)
    const countedUs = async () => {
      const [row] = await stage.sql<{ counted_us: bigint }[]>`SELECT counted_us FROM webhook_backlogs`
      return Number(row?.counted_us)
    }
    await happen(stage, 1)
    const first = await countedUs()
    for (let i = 0; i < 18; i++) {
      stage.clock.nowMs += 1
      expect(await happen(stage, 1)).toMatchObject({ deliveries: 1 })
    }
    // Half of them are delivered: nobody counts that before the room is used up that there was.
    await stage.sql`UPDATE webhook_deliveries SET status = 'delivered' WHERE id IN (
      SELECT id FROM webhook_deliveries LIMIT 9)`
    expect(await happen(stage, 1)).toMatchObject({ deliveries: 1 })
    expect(await countedUs()).toBe(first)
    stage.clock.nowMs += 1
    expect(await happen(stage, 1)).toMatchObject({ deliveries: 1 })
    expect(await countedUs()).toBe(stage.clock.nowMs * 1000)
    expect(await waiting(stage, id)).toBe(12)
    // One place is left, which is less than a tenth.
    for (let i = 0; i < 7; i++) await happen(stage, 1)
    await stage.sql`UPDATE webhook_backlogs SET room = 0`
    expect(await waiting(stage, id)).toBe(19)
    expect(await happen(stage, 1)).toEqual({ deliveries: 0, filled: [id] })
  })

  it('is not overfilled by many who bring events at once, beyond what they bring together', async () => {
    const stage = await openStage()
    const { id } = await stage.listen(HOOK)
    await happen(stage, 12)
    await Promise.all([happen(stage, 8), happen(stage, 8)])
    await happen(stage, 8)
    expect(await waiting(stage, id)).toBeLessThanOrEqual(28)
    expect((await stage.endpoints.find(stage.tenantId, id)).isFull).toBe(true)
  })
})
