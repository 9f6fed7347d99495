import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { createRedisCache } from '../../src/cache/redisCache.ts'
import { createRedisFeed } from '../../src/live/redisFeed.ts'
import type { Tls } from '../../src/tls/files.ts'
import { connected, until } from '../cache/wait.ts'
import { describeWith } from '../services/available.ts'
import { freePorts } from '../services/ports.ts'
import { type ServerProcess, startProcess } from '../services/process.ts'
import { createAuthority, writeFiles } from '../support/authority.ts'

const servers = createAuthority('servers')
const clients = createAuthority('clients')
const right = { ca: servers.cert, ...clients.issue({ commonName: 'zerosum' }) } satisfies Tls

describeWith('redis', 'a Redis with TLS', () => {
  let port = 0
  let redis: ServerProcess
  const cleaners: (() => Promise<void>)[] = []

  // Its certificate is for 127.0.0.1, not for localhost.
  beforeAll(async () => {
    const { cert, key } = servers.issue({ names: ['IP:127.0.0.1'] })
    const files = await writeFiles({ cert, key, ca: clients.cert }, (work) => cleaners.push(work))
    port = (await freePorts(1))[0] ?? 0
    const tls = ['--tls-cert-file', files.cert, '--tls-key-file', files.key, '--tls-ca-cert-file', files.ca]
    redis = await startProcess({
      ...{ name: 'Redis', file: 'redis-server' },
      args: ['--port', '0', '--tls-port', `${port}`, '--bind', '127.0.0.1', '--save', '', ...tls],
      isReady: (output) => output.includes('Ready to accept connections'),
    })
  })
  afterAll(async () => {
    await redis?.stop()
    for (const clean of cleaners) await clean()
  })

  test('keeps balances for who has a certificate and trusts its CA', async () => {
    const cache = createRedisCache({ url: `rediss://127.0.0.1:${port}`, tls: right, answerMsMax: 10_000 })
    onTestFinished(() => cache.close())
    await connected(cache)
    expect(await cache.read(randomUUID())).toBeUndefined()
  })

  test('carries news', async () => {
    const feeds = [0, 1].map(() => createRedisFeed({ url: `rediss://127.0.0.1:${port}`, tls: right }))
    onTestFinished(async () => void (await Promise.all(feeds.map((feed) => feed.close()))))
    const walletId = randomUUID()
    let heard = 0
    const end = feeds[0]?.watch(walletId, () => heard++)
    await until(() => {
      feeds[1]?.tell([{ walletId, version: 1 }])
      return heard > 0
    })
    end?.()
  })

  test.each<[string, string, Tls | undefined, RegExp]>([
    ['another CA', 'rediss://127.0.0.1', { ...right, ca: clients.cert }, /certificate/],
    ['public CAs alone', 'rediss://127.0.0.1', { cert: right.cert, key: right.key }, /certificate/],
    ['a name that the certificate does not have', 'rediss://localhost', right, /localhost/],
    [
      'no certificate of its own',
      'rediss://127.0.0.1',
      { ca: servers.cert },
      /certificate required|closed|hang up|ECONNRESET/i,
    ],
    ['plain text', 'redis://127.0.0.1', undefined, /./],
  ])('is not used with %s', async (_, url, tls, reason) => {
    const trouble: string[] = []
    const onTrouble = (error: unknown) => trouble.push(String(error))
    const cache = createRedisCache({ url: `${url}:${port}`, tls, answerMsMax: 1_000, onTrouble })
    onTestFinished(() => cache.close())
    await until(() => trouble.length > 0)
    expect(trouble[0]).toMatch(reason)
    // It goes on trying, and goes on being refused.
    for (let i = 0; i < 10; i++) {
      await expect(cache.read(randomUUID())).rejects.toThrow()
      await sleep(20)
    }
  })
})
