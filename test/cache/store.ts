import { createClient } from '@redis/client'
import { until } from './wait.ts'

/** What a Redis holds, seen past the cache. */
export type Store = {
  ask(...command: string[]): Promise<unknown>
  /** Takes everything away, each by its age. @throws if something has none */
  age(): Promise<void>
  /** All that is there; afterwards it can be put back as it was, over whatever has come since: as a replica that lags has it. */
  snapshot(): Promise<{ restore(): Promise<void> }>
  close(): void
}

export async function openStore(url: string): Promise<Store> {
  const client = createClient({ url })
  await client.connect()
  return {
    ask: (...command) => client.sendCommand(command),
    async age() {
      for (const key of await client.keys('*')) {
        if ((await client.pTTL(key)) < 0) throw new Error(`${key} would stay for ever`)
        await client.pExpire(key, 1)
      }
      await until(async () => (await client.dbSize()) === 0)
    },
    async snapshot() {
      const keys = await client.keys('*')
      const values = await Promise.all(keys.map((key) => client.get(key)))
      return {
        async restore() {
          await client.flushAll()
          await Promise.all(keys.map((key, i) => client.set(key, values[i] ?? '', { PX: 600_000 })))
        },
      }
    },
    close: () => client.destroy(),
  }
}
