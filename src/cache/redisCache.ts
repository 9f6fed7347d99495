import { createClient, defineScript } from '@redis/client'
import { connectionOptions, tellTrouble } from '../redis/connection.ts'
import type { Tls } from '../tls/files.ts'
import {
  type BalanceCache,
  type Cached,
  isMissing,
  LIFETIMES,
  type Lifetimes,
  lifetimeMs,
  MISSING_VERSION,
} from './cache.ts'

export type RedisCacheOptions = {
  /** `redis://user:password@host:port/database`, or `rediss://` with TLS. */
  url: string
  /** For `rediss://`. */
  tls?: Tls | undefined
  /** What all keys begin with; installations that share a Redis need different ones (redis/installation.ts). */
  keyPrefix?: string
  lifetimes?: Lifetimes
  /** How long to wait for an answer. */
  answerMsMax?: number
  /** Told when the connection breaks or can't be made: once, until it has been there again. */
  onTrouble?: (error: Error) => void
}

/** A block that was once the last of a shard. */
export type RecordedHead = { readonly shard: number; readonly block: number; readonly hash: string }

export type RedisCache = BalanceCache & {
  /** The ends of the chains, as they were last recorded here. @throws if Redis does not answer, or not in time */
  heads(): Promise<RecordedHead[]>
  recordHeads(heads: readonly RecordedHead[]): Promise<void>
  /**
   * Forgets all of this installation's keys, and only those, in portions; what is written meanwhile may stay.
   * @returns how many there were
   * @throws if Redis does not answer, or not in time; some may be forgotten
   */
  flush(): Promise<number>
}

/** Redis did not answer in time, or is known not to answer. What was sent may yet have its effect. */
export class CacheSilent extends Error {}

/** Ids are UUIDs. What is longer is no wallet's, and is not asked for. */
const ID_LENGTH_MAX = 36
/** Redis does nothing else while a script runs: this many entries are written in a few milliseconds. */
const BATCH_MAX = 250
/** Keys that are looked at in one step of a flush, those of others included. */
const SCAN_COUNT = 1_000
/** Longer than any balance lives. */
const HEADS_LIFE_MS = 3_600_000
/** Commands that wait to be sent, or for their answers. Beyond, they are refused. */
const COMMANDS_MAX = 2_000

/**
 * Newer wins, for all entries at once (`isNewer` says what that is). A value begins with its version and its time. What doesn't look like that
 * counts as nothing, whatever it is.
 */
const WRITE_NEWER = `
local function age(value)
  if type(value) ~= 'string' then return nil end
  local version, time = string.match(value, '^(%-?%d+) (%d+) ')
  return tonumber(version), tonumber(time)
end
local mustBeThere = ARGV[2 * #KEYS + 1] == 'repair'
for i, key in ipairs(KEYS) do
  local value, lifetime = ARGV[2 * i - 1], ARGV[2 * i]
  local version, time = age(value)
  local knownVersion, knownTime = age(redis.pcall('GET', key))
  if (not knownVersion and not mustBeThere)
    or (knownVersion and (version > knownVersion or (version == knownVersion and time > knownTime))) then
    redis.call('SET', key, value, 'PX', lifetime)
  end
end
return #KEYS
`

const scripts = {
  // The client sends the script's hash, and the script itself only if the server says that it doesn't know it.
  writeNewer: defineScript({
    SCRIPT: WRITE_NEWER,
    parseCommand(parser, keys: string[], values: string[]) {
      parser.push(`${keys.length}`)
      parser.pushKeys(keys)
      parser.push(...values)
    },
    transformReply: (reply: unknown) => reply,
  }),
}

/**
 * A cache in Redis 7 or newer (or a server that speaks like it), which all nodes share. One connection, on which commands follow each other
 * without waiting.
 *
 * It connects by itself, now and whenever the connection has broken; meanwhile every call fails at once. When an answer is late, every call fails at
 * once until it has come: Redis answers in order, so none of them could be faster. If it never comes, the connection is given up after
 * SILENCE_MS_MAX. So nothing piles up, in no state that Redis can be in.
 *
 * Redis may throw entries away; let it (`maxmemory-policy allkeys-lru`).
 */
export function createRedisCache({
  url,
  tls,
  keyPrefix = 'zerosum:',
  lifetimes = LIFETIMES,
  answerMsMax = 250,
  onTrouble = () => {},
}: RedisCacheOptions): RedisCache {
  /** How many calls gave up waiting for an answer that has still not come. */
  let late = 0
  const client = createClient({
    ...connectionOptions({ url, tls, name: 'zerosum-cache', commandsMax: COMMANDS_MAX }),
    scripts,
  })
  tellTrouble(client, onTrouble)
  // It goes on trying until it is closed, and that is when this fails.
  client.connect().catch(() => {})

  async function ask<T>(send: () => Promise<T>): Promise<T> {
    if (late > 0) throw new CacheSilent('Redis has not answered what it was asked before')
    const answer = send()
    let timer: NodeJS.Timeout | undefined
    const tooLate = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        late += 1
        const done = () => {
          late -= 1
        }
        answer.then(done, done)
        reject(new CacheSilent(`Redis did not answer within ${answerMsMax} ms`))
      }, answerMsMax)
    })
    try {
      return await Promise.race([answer, tooLate])
    } finally {
      clearTimeout(timer)
    }
  }

  const keyOf = (walletId: string): string => `${keyPrefix}balance:${walletId}`
  const headsKey = `${keyPrefix}heads`

  async function writeNewer(entries: readonly Cached[], mode: 'write' | 'repair'): Promise<void> {
    const known = entries.filter(({ walletId }) => walletId.length <= ID_LENGTH_MAX)
    for (let start = 0; start < known.length; start += BATCH_MAX) {
      const batch = known.slice(start, start + BATCH_MAX)
      const keys = batch.map(({ walletId }) => keyOf(walletId))
      const values = batch.flatMap((entry) => [encode(entry), `${lifetimeMs(entry, lifetimes)}`])
      await ask(() => client.writeNewer(keys, [...values, mode]))
    }
  }

  return {
    async read(walletId) {
      if (walletId.length > ID_LENGTH_MAX) return undefined
      const value = await ask(() => client.get(keyOf(walletId)))
      return value === null ? undefined : decode(walletId, value)
    },
    write: (entries) => writeNewer(entries, 'write'),
    repair: (entries) => writeNewer(entries, 'repair'),
    async forget(walletIds) {
      for (let start = 0; start < walletIds.length; start += BATCH_MAX) {
        const keys = walletIds.slice(start, start + BATCH_MAX).map(keyOf)
        await ask(() => client.unlink(keys))
      }
    },
    async heads() {
      const fields = await ask(() => client.hGetAll(headsKey))
      return Object.entries(fields).flatMap(([shard, value]) => {
        const [, block, hash] = /^(\d{1,15}) ([0-9a-f]{64})$/.exec(value) ?? []
        return hash === undefined ? [] : [{ shard: Number(shard), block: Number(block), hash }]
      })
    },
    async recordHeads(heads) {
      if (heads.length === 0) return
      const fields = Object.fromEntries(heads.map(({ shard, block, hash }) => [`${shard}`, `${block} ${hash}`]))
      await ask(() => client.multi().hSet(headsKey, fields).pExpire(headsKey, HEADS_LIFE_MS).exec())
    },
    async flush() {
      const match = { MATCH: `${literal(keyPrefix)}*`, COUNT: SCAN_COUNT }
      let count = 0
      for (let cursor = '0'; ; ) {
        const found = await ask(() => client.scan(cursor, match))
        if (found.keys.length > 0) count += await ask(() => client.unlink(found.keys))
        cursor = found.cursor
        if (cursor === '0') return count
      }
    },
    async close() {
      client.destroy()
    },
  }
}

/** A text as a pattern that matches it and nothing else. */
function literal(text: string): string {
  return text.replace(/[*?[\]\\^-]/g, '\\$&')
}

/** One line of text: what compares first, then the rest. */
function encode(entry: Cached): string {
  if (isMissing(entry)) return `${MISSING_VERSION} ${entry.asOfUs} ${entry.tenantId}`
  const { version, asOfUs, tenantId, currency, posted, pendingIn, pendingOut } = entry
  return `${version} ${asOfUs} ${tenantId} ${currency} ${posted} ${pendingIn} ${pendingOut}`
}

const BALANCE = /^(\d{1,15}) (\d{1,16}) (\S{1,64}) ([A-Z]{3}) (-?\d{1,19}) (-?\d{1,19}) (-?\d{1,19})$/
const MISSING = /^-1 (\d{1,16}) (\S{1,64})$/

/** What somebody else has written there, or a version of this program that writes otherwise, is nothing. */
function decode(walletId: string, value: string): Cached | undefined {
  const [, version, asOfUs, tenantId, currency, posted, pendingIn, pendingOut] = BALANCE.exec(value) ?? []
  if (tenantId !== undefined && currency !== undefined) {
    return {
      ...{ tenantId, walletId, currency },
      posted: BigInt(posted ?? 0),
      pendingIn: BigInt(pendingIn ?? 0),
      pendingOut: BigInt(pendingOut ?? 0),
      version: Number(version),
      asOfUs: Number(asOfUs),
    }
  }
  const [, askedUs, askerId] = MISSING.exec(value) ?? []
  return askerId === undefined ? undefined : { tenantId: askerId, walletId, missing: true, asOfUs: Number(askedUs) }
}
