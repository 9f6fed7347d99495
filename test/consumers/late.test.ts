import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { createEmbeddedBus } from '../../src/bus/embeddedBus.ts'
import { createMemoryCache } from '../../src/cache/memoryCache.ts'
import { cacheGroup } from '../../src/consumers/cacheGroup.ts'
import { parseId } from '../../src/core/ids.ts'
import { openApi } from '../support/api.ts'

const WAIT_MS_MAX = 60_000

test('a group that comes late to a ledger puts right what the cache has, and shows nothing out of date', async () => {
  const api = await openApi()
  const [payer, payee] = [await api.alpha.wallet(10_000), await api.alpha.wallet()]
  for (let i = 0; i < 5; i++) expect((await api.alpha.pay(payer, payee, 1)).status).toBe(201)
  const cache = createMemoryCache()
  const bus = createEmbeddedBus({ shards: () => [0], urlOf: () => api.url, onTrouble: () => {} })
  onTestFinished(async () => {
    await bus.close()
    await api.close()
  })
  const [from, to] = [payer, payee].map((id) => parseId('wal', id) ?? '') as [string, string]
  const stale = await api.router.read(to, ({ reader }) => reader.balance(api.tenantIds.alpha, to))
  if (!stale) throw new Error('no balance')
  await cache.write([{ ...stale, tenantId: api.tenantIds.alpha, walletId: to }])
  bus.subscribe(cacheGroup(cache))
  // From here on nobody writes the cache but the group.
  const deadline = Date.now() + WAIT_MS_MAX
  let posted = 0n
  while (posted < 8n && Date.now() < deadline) {
    expect((await api.alpha.pay(payer, payee, 1)).status).toBe(201)
    await sleep(50)
    const cached = await cache.read(to)
    posted = cached && 'posted' in cached ? cached.posted : 0n
  }
  expect(posted).toBeGreaterThanOrEqual(8n)
  expect(await cache.read(from)).toBeUndefined()
})
