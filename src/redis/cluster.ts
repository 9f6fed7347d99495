import { createClient } from '@redis/client'
import { connectionOptions, RedisRefused, type RedisServer } from './connection.ts'

const ASK_MS_MAX = 3_000

/**
 * Asks a Redis whether it is part of a cluster, which Zerosum does not know how to talk to. One that does not answer, or does not let itself be
 * asked, is taken as it is.
 * @throws RedisRefused
 */
export async function refuseCluster(server: RedisServer): Promise<void> {
  const client = createClient({ ...connectionOptions({ ...server, name: 'zerosum-check', commandsMax: 10 }) })
  client.on('error', () => {}) // the connections that stay tell
  try {
    const asked = (async () => {
      await client.connect()
      return await client.info('cluster')
    })().catch(() => '')
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<string>((done) => {
      timer = setTimeout(() => done(''), ASK_MS_MAX)
    })
    const info = await Promise.race([asked, late])
    clearTimeout(timer)
    if (/^cluster_enabled:1/m.test(info)) {
      throw new RedisRefused('REDIS_URL is of a Redis Cluster: give a single server, or a primary with replicas')
    }
  } finally {
    client.destroy()
  }
}
