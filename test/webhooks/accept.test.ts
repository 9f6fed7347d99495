import { randomUUID } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { accept, BODY_BYTES_MAX } from '../../src/webhooks/accept.ts'
import { EVENT_PATTERN, isChosen } from '../../src/webhooks/eventTypes.ts'
import { openStage } from './stage.ts'

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

  it.each([
    ...['*', 'a', 'a.b', 'a.*', 'a.b_c.d2', 'a.b.*'].map((pattern) => [pattern, true] as const),
    ...['', '**', '*.a', 'a.*.b', 'a*', 'a.', '.a', 'A.b', 'a..b', 'a b', '1a'].map(
      (pattern) => [pattern, false] as const,
    ),
  ])('"%s" is one: %s', (pattern, expected) => {
    expect(new RegExp(EVENT_PATTERN).test(pattern)).toBe(expected)
  })
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
    const event = { id: 'old', tenantId: stage.tenantId, type: 'x', timeUs: before, data: null }
    await stage.sql.begin(async (sql) => expect((await accept(sql, [event])).deliveries).toBe(0))
  })

  it('is not delivered when the transaction that accepted it is rolled back, and is when it comes again', async () => {
    const stage = await openStage()
    await stage.listen(HOOK)
    const event = { id: 'a', tenantId: stage.tenantId, type: 'x', timeUs: Date.now() * 1000, data: null }
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

  it('that is larger than 256 KB is named and not sent; the others are', async () => {
    const stage = await openStage()
    await stage.listen(HOOK)
    const event = (id: string, size: number) => {
      const whole = { id, tenantId: stage.tenantId, type: 'x', timeUs: Date.now() * 1000 }
      const room = size - JSON.stringify({ type: 'x', timestamp: '1970-01-01T00:00:00.000000Z', data: '' }).length
      return { ...whole, data: 'x'.repeat(room) }
    }
    const events = [event('fits', BODY_BYTES_MAX), event('does not', BODY_BYTES_MAX + 1)]
    const accepted = await stage.sql.begin((sql) => accept(sql, events))
    expect(accepted).toEqual({ deliveries: 1, tooLarge: ['does not'] })
  })

  it.each(['', 'Transaction', 'a b', 'a.*', '*', 'x'.repeat(101)])('of the type "%s" is a bug', async (type) => {
    const stage = await openStage()
    await expect(stage.happen({ id: randomUUID(), type })).rejects.toThrow('not a type')
  })
})
