import { createClient } from '@redis/client'
import { connectionOptions, type RedisServer } from '../redis/connection.ts'
import { type Finding, notesOn, reasonOf } from './finding.ts'

const VERSION_MIN = 7

/** Redis as a cache that all nodes share, and by which they tell each other what changed. */
export async function checkRedis(server: RedisServer): Promise<Finding[]> {
  const notes = notesOn('redis')
  const options = connectionOptions({ ...server, name: 'zerosum-doctor', commandsMax: 10 })
  const client = createClient({ ...options, socket: { ...options.socket, reconnectStrategy: false } })
  client.on('error', () => {}) // whoever asks is told
  try {
    await client.connect()
    look(fieldsOf(await client.info()))
  } catch (error) {
    notes.fail(
      `it does not answer: ${reasonOf(error)}`,
      'start it, or look at REDIS_URL. Nodes read from the databases meanwhile, and streams are late',
    )
  } finally {
    client.destroy()
  }
  return [...notes.findings]

  function look(info: ReadonlyMap<string, string>): void {
    const version = info.get('redis_version') ?? 'unknown'
    if (Number.parseInt(version, 10) >= VERSION_MIN) notes.ok(`it answers, version ${version}`)
    else notes.fail(`version ${version}`, `take Redis ${VERSION_MIN} or newer, or a server that speaks like it`)
    if (info.get('role') === 'slave')
      notes.fail('it is a replica, and takes no writes', 'name the primary in REDIS_URL')
    if (info.get('cluster_enabled') === '1')
      notes.fail('it is a Redis Cluster, which nodes refuse', 'give a single server, or a primary with replicas')
    if (info.get('loading') === '1') notes.warn('it is loading its data', 'wait until it has')
    const policy = info.get('maxmemory_policy') ?? 'unknown'
    if (info.get('maxmemory') === '0') {
      notes.warn('it may take all of the memory', 'set maxmemory, and maxmemory-policy allkeys-lru')
    } else if (policy === 'noeviction') {
      notes.warn(
        'when it is full it refuses to write (noeviction)',
        'set maxmemory-policy allkeys-lru: what it has can be made anew',
      )
    } else notes.ok(`when it is full it lets old entries go (${policy})`)
  }
}

/** `name:value` lines. */
function fieldsOf(info: string): Map<string, string> {
  const pairs = info.split('\r\n').flatMap((line): [string, string][] => {
    const [, name, value] = /^(\w+):(.*)$/.exec(line) ?? []
    return name === undefined || value === undefined ? [] : [[name, value]]
  })
  return new Map(pairs)
}
