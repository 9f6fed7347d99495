import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { verifyAll } from '../../src/audit/verification.ts'
import { addShard, drainShard, moveSlots } from '../../src/relocation/command.ts'
import { type Answer, type Api, type Hold, openApi, type Transfer } from '../support/api.ts'
import { emptyDatabase, migratedDatabase } from '../support/database.ts'

/** A request as it was sent, to be sent again. */
type Asked = { readonly path: string; readonly body: object; readonly key: string }

/** Some of everything between wallets on all shards, and what clients could see of it. */
class Life {
  readonly wallets: string[] = []
  readonly asked: Asked[] = []
  readonly transfers: string[] = []
  readonly holds: string[] = []
  readonly #api: Api

  constructor(api: Api) {
    this.#api = api
  }

  async ask<T>(path: string, body: object): Promise<Answer<T>> {
    const key = randomUUID()
    this.asked.push({ path, body, key })
    return await this.#api.alpha.call<T>('POST', path, body, { key })
  }

  async live(count: number): Promise<void> {
    for (let i = 0; i < count; i++) {
      const opened = await this.ask<{ id: string }>('/v1/wallets', {
        holderId: `holder ${i}`,
        currency: 'USD',
        name: `wallet ${i}`,
        metadata: { b: `${i}`, a: 'x' },
        ...(i % 5 === 0 ? { limits: { balanceMax: '1000000' } } : {}),
      })
      this.wallets.push(opened.body.id)
      await this.ask('/v1/top-ups', { walletId: opened.body.id, amount: '1000', currency: 'USD' })
    }
    for (let i = 0; i < count; i++) {
      const [from, to, other] = [this.#wallet(i), this.#wallet(i * 7 + 1), this.#wallet(i * 3 + 2)]
      const paid = await this.ask<Transfer>('/v1/transfers', {
        from,
        to,
        amount: `${i + 1}`,
        currency: 'USD',
        memo: `memo ${i}`,
      })
      if (paid.status === 201) this.transfers.push(paid.body.id)
      await this.ask('/v1/transfers', { from, to, amount: '999999', currency: 'USD' })
      if (i % 4 === 0 && new Set([from, to, other]).size === 3) {
        const legs = [
          { from, to, amount: '2', currency: 'USD' },
          { from: to, to: other, amount: '1', currency: 'USD' },
        ]
        const both = await this.ask<Transfer>('/v1/transfers', { legs })
        if (both.status === 201) this.transfers.push(both.body.id)
      }
      const held = await this.ask<Hold>('/v1/holds', { walletId: from, to: other, amount: '10', currency: 'USD' })
      if (held.status !== 201) continue
      this.holds.push(held.body.id)
      if (i % 4 === 1) await this.ask(`/v1/holds/${held.body.id}/capture`, { amount: '4' })
      if (i % 4 === 2) await this.ask(`/v1/holds/${held.body.id}/release`, {})
      if (i % 6 === 3 && paid.status === 201) await this.ask(`/v1/transfers/${paid.body.id}/reverse`, { amount: '1' })
    }
  }

  #wallet(i: number): string {
    return this.wallets[i % this.wallets.length] ?? ''
  }

  /** All that can be read, but for what is allowed to change: versions, and the time of a balance. */
  async seen(): Promise<Record<string, unknown>> {
    const { alpha } = this.#api
    const found: Record<string, unknown> = {}
    const read = async (path: string, without: string[] = []) => {
      const { status, body } = await alpha.get<Record<string, unknown>>(path)
      found[path] = {
        status,
        ...Object.fromEntries(Object.entries(body).filter(([name]) => ![...without, 'correlationId'].includes(name))),
      }
    }
    for (const [i, id] of this.wallets.entries()) {
      await read(`/v1/wallets/${id}`)
      await read(`/v1/wallets/${id}/balance`, ['version', 'asOf'])
      await read(`/v1/wallets?holderId=${encodeURIComponent(`holder ${i}`)}`)
      found[`entries ${id}`] = await alpha.all(`/v1/wallets/${id}/entries`, 7)
    }
    for (const id of this.transfers) {
      await read(`/v1/transfers/${id}`)
      await read(`/v1/transactions/${id.replace('trf', 'txn')}`)
    }
    for (const id of this.holds) await read(`/v1/holds/${id}`)
    return found
  }

  /** Sends all again: what was answered then must be answered now. */
  async replay(): Promise<{ status: number; body: unknown; replayed: string | undefined }[]> {
    const answers = []
    for (const { path, body, key } of this.asked) {
      const answer = await this.#api.alpha.call<Record<string, unknown>>('POST', path, body, { key })
      const { correlationId: _, ...rest } = answer.body ?? {}
      answers.push({ status: answer.status, body: rest, replayed: answer.headers['idempotency-replayed'] })
    }
    return answers
  }
}

const writer = 'mover'

describe('a third shard', () => {
  let api: Api
  let life: Life
  let urls: string[]
  const own = () => ({ databases: { urls }, writer })

  beforeAll(async () => {
    urls = [await migratedDatabase(), await migratedDatabase()]
    const added = await emptyDatabase()
    expect(await addShard(own(), added)).toBe(0)
    urls.push(added)
    api = await openApi({ url: urls[0] ?? '', moreUrls: urls.slice(1) })
    life = new Life(api)
  })
  afterAll(() => api?.close())

  const counts = () => [0, 1, 2].map((shard) => api.router.map.shards.filter((one) => one === shard).length)

  test('has nothing at first; gets its share, and nobody can tell', async () => {
    await life.live(60)
    expect(counts()[2]).toBe(0)
    const seen = await life.seen()
    const replayed = await life.replay()
    const before = await verifyAll(urls)
    expect(before).toMatchObject({ balanced: true })

    expect(await moveSlots(own())).toBe(0)

    expect(await life.seen()).toEqual(seen)
    expect(await life.replay()).toEqual(replayed)
    expect(Math.min(...counts())).toBeGreaterThan(1_200)
    expect(await verifyAll(urls)).toMatchObject({ balanced: true, transit: { inFlight: 0 } })
    expect(await moveSlots(own())).toBe(0)
  })

  test('what was begun before goes on: holds, reversals, transfers of any kind', async () => {
    for (const [i, id] of life.holds.entries()) {
      const { body } = await api.alpha.get<Hold>(`/v1/holds/${id}`)
      if (body.status !== 'held') continue
      const ended = await life.ask(`/v1/holds/${id}/${i % 2 ? 'capture' : 'release'}`, {})
      expect(ended.status, ended.text).toBe(200)
    }
    for (const id of life.transfers.slice(0, 30)) {
      const back = await life.ask(`/v1/transfers/${id}/reverse`, {})
      expect([201, 422], back.text).toContain(back.status)
    }
    await life.live(0)
    expect(await verifyAll(urls)).toMatchObject({ balanced: true, transit: { inFlight: 0 } })
  })

  test('a drained shard is empty, and filled again; all is as before', async () => {
    const seen = await life.seen()
    const replayed = await life.replay()
    expect(await drainShard(own(), 0, true)).toBe(0)
    expect(await life.seen()).toEqual(seen)
    expect(counts()[0]).toBe(0)
    expect(await verifyAll(urls)).toMatchObject({ balanced: true })
    expect(await drainShard(own(), 0, false)).toBe(0)
    expect(await life.seen()).toEqual(seen)
    expect(counts()[0]).toBeGreaterThan(1_200)
    expect(await life.replay()).toEqual(replayed)
    expect(await verifyAll(urls)).toMatchObject({ balanced: true })
  })
})
