import { randomUUID } from 'node:crypto'
import { expect, onTestFinished, test } from 'vitest'
import { parseId } from '../../src/core/ids.ts'
import { createBlockFeed } from '../../src/live/blockFeed.ts'
import { createRedisFeed } from '../../src/live/redisFeed.ts'
import { until } from '../cache/wait.ts'
import { describeWith } from '../services/available.ts'
import { startRedis } from '../services/redis.ts'
import { openApi } from '../support/api.ts'
import { migratedDatabase } from '../support/database.ts'
import { describeFeed } from './feedContract.ts'

describeFeed('of blocks', async () => {
  const url = await migratedDatabase()
  const [here, there] = [await openApi({ url }), await openApi({ url })]
  const feeds = [here, there].map(({ router }) => createBlockFeed({ shards: () => router.shards }))
  const [one, two] = feeds
  if (!one || !two) throw new Error('no feeds')
  return {
    ...{ here: one, there: two },
    wallet: async () => parseId('wal', await there.alpha.wallet()) ?? '',
    async change(id) {
      await there.alpha.topUp(`wal_${id.replaceAll('-', '')}`, 1)
    },
    async close() {
      await Promise.all(feeds.map((feed) => feed.close()))
      await here.close()
      await there.close()
    },
  }
})

describeWith('redis', 'feeds in Redis', () => {
  describeFeed('in Redis', async () => {
    const redis = await startRedis()
    const [here, there] = [createRedisFeed({ url: redis.url }), createRedisFeed({ url: redis.url })]
    let version = 0
    await connected(redis)
    // `there` can send, too.
    const first = randomUUID()
    let heard = 0
    const end = here.watch(first, () => heard++)
    await until(() => {
      there.tell([{ walletId: first, version: 1 }])
      return heard > 0
    })
    end()
    return {
      ...{ here, there },
      wallet: async () => randomUUID(),
      async change(walletId) {
        version += 1
        there.tell([{ walletId, version }])
      },
      async close() {
        await Promise.all([here.close(), there.close()])
        await redis.stop()
      },
    }
  })

  test('a feed whose Redis was away wakes all who wait when it is back, and then goes on', async () => {
    const redis = await startRedis()
    onTestFinished(() => redis.stop())
    const troubles: unknown[] = []
    const open = () => createRedisFeed({ url: redis.url, onTrouble: (error) => troubles.push(error) })
    const [here, there] = [open(), open()]
    onTestFinished(async () => {
      await Promise.all([here.close(), there.close()])
    })
    await connected(redis)
    const id = randomUUID()
    const woken: (number | undefined)[] = []
    here.watch(id, (version) => woken.push(version))
    await redis.kill()
    await until(() => troubles.length > 0)
    there.tell([{ walletId: id, version: 1 }])
    woken.length = 0
    await redis.restart()
    await until(() => woken.includes(undefined))
    await until(() => {
      there.tell([{ walletId: id, version: 2 }])
      return woken.includes(2)
    })
  })

  test('what others write into the channel wakes nobody, and breaks nothing', async () => {
    const redis = await startRedis()
    onTestFinished(() => redis.stop())
    const feed = createRedisFeed({ url: redis.url })
    onTestFinished(() => feed.close())
    await connected(redis, 1)
    const [id, other] = [randomUUID(), randomUUID()]
    // Who begins to listen wakes all. When it has heard something, that is over.
    let heard = 0
    const end = feed.watch(other, (version) => version === undefined || heard++)
    await until(async () => {
      await redis.ask('PUBLISH', 'zerosum:news', `${other}:1`)
      return heard > 0
    })
    end()
    const woken: (number | undefined)[] = []
    feed.watch(id, (version) => woken.push(version))
    for (const text of ['', id, `${id}:`, `${id}:x`, `${id}:1e3`, '{}', `${id}:1 `.repeat(2_000)]) {
      await redis.ask('PUBLISH', 'zerosum:news', text)
    }
    await redis.ask('PUBLISH', 'zerosum:news', `${id}:7`)
    await until(() => woken.length > 0)
    expect(woken).toEqual([7])
  })
})

/** Waits until so many nodes listen. */
async function connected(redis: { ask(...args: string[]): Promise<string | null> }, nodes = 2): Promise<void> {
  await until(async () => {
    return Number(await redis.ask('PUBLISH', 'zerosum:news', '')) >= nodes
  })
}
