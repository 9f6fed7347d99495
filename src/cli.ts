#!/usr/bin/env node
import { constants } from 'node:os'
// What has most of the program behind it (main.ts, the clients of Kafka and Redis) is loaded by the command that needs it: the others begin at once.
import { createPools } from './bus/pools.ts'
import { alignWithChains, NodesRunning } from './bus/restored.ts'
import { type Config, ConfigError, readConfig } from './config.ts'
import { shareDatabases } from './databases.ts'
import { demoText } from './demo.ts'
import { type Log, openLog } from './observe/log.ts'
import { RedisRefused } from './redis/connection.ts'
import { addShard, drainShard, moveSlots, printPlan } from './relocation/command.ts'
import { ShardsAway } from './shards/awaitShards.ts'
import { checkShards, prepareShards, ShardListError } from './shards/map.ts'
import { runKeys } from './tenants/command.ts'
import { createDirectory, newKey, SCOPES, type Scope } from './tenants/directory.ts'
import { isCertificateName } from './tls/certificateName.ts'
import { verifyShards } from './verify.ts'

const USAGE = `usage: zerosum COMMAND

  start                     run a node: the HTTP API, with an embedded PostgreSQL unless ZEROSUM_SHARDS is set
  verify [--json]           recompute the whole ledger; exit 1 if the books do not agree
  doctor [--json]           look at all that a node depends on, also beside a running one; exit 1 if something fails
  migrate                   bring the databases to the newest schema
  shards plan               how the slots lie, and how they should
  shards add URL            one database more; without URL if PostgreSQL is embedded. It has no wallets before they are moved
  shards move               move wallets until all shards have their share, while transfers run; goes on where it was broken off
  shards drain NUMBER       move all wallets away from a shard; shards undrain NUMBER lets it have its share again
  replay projections [--from BLOCK]
                            make activity feeds and daily totals again; from a later block of every shard: fetch what they lack
  cache flush               forget what is in Redis of this installation
  restored                  after a database was restored from a backup, before nodes start: docs/operations/restore.md
  dlq list [--json]         requests that were accepted with "Prefer: respond-async" and could not be posted, with the reason
  dlq retry ID… | --all     have them posted again
  keys create TENANT [SCOPE …]  make an API key (and the tenant, if it is new); scopes: ${SCOPES.join(' ')}
  keys create TENANT --certificate NAME [SCOPE …]
                            let clients with that certificate work for the tenant; NAME: URI:… DNS:… or CN:… (docs/security.md)
  keys list [TENANT]        the keys that there are, by their ids
  keys revoke ID            take a key's rights away: nodes refuse it within ten seconds

Settings come from the environment: see README.md.`

async function start(): Promise<number> {
  const config = readConfig()
  const log = openLog(config.log)
  // Whoever read what is said may go away: the node goes on.
  process.stdout.on('error', () => {})
  const say = config.log.form === 'json' ? (text: string) => log.logger.info(text) : console.log
  try {
    return await runNode(config, log, say)
  } finally {
    await log.close()
  }
}

async function runNode(config: Config, log: Log, say: (text: string) => void): Promise<number> {
  if (config.shardUrls.length === 0) say(`Starting the embedded PostgreSQL in ${config.dataDir} …`)
  let isUp = false
  // Heard from the beginning: the first process of a container is not ended by signals that it does not hear.
  const stopped = new Promise<string>((done) => {
    let isAsked = false
    for (const name of ['SIGINT', 'SIGTERM'] as const) {
      process.on(name, () => {
        // Before it is up there is nothing to answer, and who asks again does not want to wait. As a shell says what a signal has ended.
        if (!isUp || isAsked) process.exit(128 + constants.signals[name])
        isAsked = true
        done(name)
      })
    }
  })
  const { startNode } = await import('./main.ts')
  const node = await startNode(config, log)
  isUp = true
  if (config.shardUrls.length === 0 && node.shardCount === 1) {
    say(`The data in ${config.dataDir} were begun with one shard: it goes on with one.`)
  }
  say(`Zerosum listens on ${node.url}; the API reference is at ${node.url}/docs`)
  // It has a key in it: for people, and not for where logs go.
  if (node.demo && config.log.form !== 'json') console.log(`\n${demoText(node.url, node.demo)}`)
  say(`${await stopped}: answering what is under way, then stopping …`)
  await node.stop()
  // What was left behind when the time was over does not keep the process.
  setTimeout(() => process.exit(0), LEFT_BEHIND_MS).unref()
  return 0
}

/** Time to write out what was printed. */
const LEFT_BEHIND_MS = 500

async function verify(args: string[]): Promise<number> {
  const databases = await shareDatabases(readConfig())
  try {
    await checkShards(databases.urls)
    return await verifyShards(databases.urls, { json: args.includes('--json') })
  } finally {
    await databases.close()
  }
}

async function migrate(): Promise<number> {
  const databases = await shareDatabases(readConfig())
  try {
    const { applied } = await prepareShards(databases.urls)
    for (const [number, files] of applied.entries()) {
      console.log(`shard ${number}: ${files.length > 0 ? `applied ${files.join(', ')}` : 'up to date'}`)
    }
    return 0
  } finally {
    await databases.close()
  }
}

async function createKey([tenant, ...more]: string[]): Promise<number> {
  const [certificate, scopes] = more[0] === '--certificate' ? [more[1] ?? '', more.slice(2)] : [undefined, more]
  const isScope = (text: string): text is Scope => SCOPES.some((scope) => scope === text)
  const unknown = scopes.find((scope) => !isScope(scope))
  if (!tenant || unknown) {
    console.error(unknown ? `unknown scope ${unknown}\n\n${USAGE}` : USAGE)
    return 2
  }
  if (certificate !== undefined && !isCertificateName(certificate)) {
    console.error(`"${certificate}" names no certificate: say URI:spiffe://…, DNS:… or CN:…`)
    return 2
  }
  const databases = await shareDatabases(readConfig())
  const directory = createDirectory(databases.urls[0] ?? '')
  try {
    await checkShards(databases.urls)
    const tenantId = await directory.ensureTenant(tenant)
    const given = scopes.length > 0 ? scopes.filter(isScope) : SCOPES.filter((s) => s !== 'admin')
    if (certificate !== undefined) {
      if (await directory.addCertificate(tenantId, certificate, given)) return 0
      console.error(`${certificate} is in use already, or was, and stays whose it was. Name another.`)
      return 1
    }
    const key = newKey()
    await directory.addKey(tenantId, key, given)
    console.log(key)
    console.error('Keep it: only its hash is stored.')
    return 0
  } finally {
    await directory.close()
    await databases.close()
  }
}

/** @returns `undefined` if that is not how it is called */
async function keys(args: string[]): Promise<number | undefined> {
  const databases = await shareDatabases(readConfig())
  const directory = createDirectory(databases.urls[0] ?? '')
  try {
    await checkShards(databases.urls)
    return await runKeys(directory, args)
  } finally {
    await directory.close()
    await databases.close()
  }
}

/** @returns `undefined` if that is not how it is called */
async function shards([command, argument, ...rest]: string[]): Promise<number | undefined> {
  const isNumbered = command === 'drain' || command === 'undrain'
  if (rest.length > 0 || (argument !== undefined && !isNumbered && command !== 'add')) return undefined
  if (isNumbered && !/^\d{1,4}$/.test(argument ?? '')) return undefined
  const config = readConfig()
  const databases = await shareDatabases(config)
  const asked = { databases, writer: config.writer }
  try {
    switch (command) {
      case 'plan':
        return await printPlan(asked)
      case 'add':
        return await addShard(asked, argument)
      case 'move':
        return await moveSlots(asked)
      case 'drain':
      case 'undrain':
        return await drainShard(asked, Number(argument), command === 'drain')
      default:
        return undefined
    }
  } finally {
    await databases.close()
  }
}

/** @returns `undefined` if that is not how it is called */
async function replay([what, ...options]: string[]): Promise<number | undefined> {
  const [option, block, ...rest] = options.length === 0 ? ['--from', '0'] : options
  if (what !== 'projections' || option !== '--from' || !/^\d{1,15}$/.test(block ?? '') || rest.length > 0)
    return undefined
  const { replayProjections } = await import('./projections/command.ts')
  const config = readConfig()
  const databases = await shareDatabases(config)
  try {
    return await replayProjections({ urls: databases.urls, from: Number(block) })
  } finally {
    await databases.close()
  }
}

/** @returns `undefined` if that is not how it is called */
async function dlq(args: string[]): Promise<number | undefined> {
  const [{ openQueue }, { runDlq }] = await Promise.all([import('./async/start.ts'), import('./async/command.ts')])
  const config = readConfig()
  const databases = await shareDatabases(config)
  const queue = openQueue({
    ...{ brokers: config.kafkaBrokers, partitions: config.kafkaPartitions, onTrouble: console.error },
    security: config.kafkaSecurity,
    ...{ shards: () => databases.urls.map((_, shard) => shard), urlOf: databases.urlOf, shardOf: () => 0 },
  })
  try {
    return await runDlq(queue, args)
  } finally {
    await queue.close()
    await databases.close()
  }
}

async function flush(): Promise<number> {
  const { flushCache } = await import('./cache/command.ts')
  const config = readConfig()
  const databases = await shareDatabases(config)
  try {
    return await flushCache(databases.urls[0] ?? '', config.redis)
  } finally {
    await databases.close()
  }
}

/** What outlives a database, and what other databases know of it, is brought back to where it is. */
async function restored(): Promise<number> {
  const config = readConfig()
  const { redis } = config
  const databases = await shareDatabases(config)
  const { urls } = databases
  const pool = createPools((shard) => urls[shard], 'zerosum restored', 1)
  try {
    await checkShards(urls)
    const shards = urls.map((_, shard) => shard)
    const { marks, readers } = await alignWithChains(pool, shards)
    console.log(`${marks} marks of blocks that are gone were moved back; ${readers} readers were sent back.`)
    const code = redis ? await (await import('./cache/command.ts')).flushCache(urls[0] ?? '', redis) : 0
    if (code === 0) console.log('Next: zerosum replay projections, and zerosum verify.')
    return code
  } finally {
    await pool.end()
    await databases.close()
  }
}

async function run([command, ...args]: string[]): Promise<number> {
  switch (command) {
    case 'start':
      return await start()
    case 'verify':
      return await verify(args)
    case 'doctor':
      return await (await import('./doctor/command.ts')).doctor({
        readConfig,
        openDatabases: shareDatabases,
        json: args.includes('--json'),
      })
    case 'migrate':
      return await migrate()
    case 'shards':
      return (await shards(args)) ?? usage()
    case 'replay':
      return (await replay(args)) ?? usage()
    case 'restored':
      return args.length === 0 ? await restored() : usage()
    case 'cache':
      return args.join(' ') === 'flush' ? await flush() : usage()
    case 'dlq':
      return (await dlq(args)) ?? usage()
    case 'keys':
      if (args[0] === 'create') return await createKey(args.slice(1))
      return (await keys(args)) ?? usage()
  }
  return usage()
}

function usage(): number {
  console.error(USAGE)
  return 2
}

try {
  process.exitCode = await run(process.argv.slice(2))
} catch (error) {
  const expected = [ConfigError, ShardListError, ShardsAway, RedisRefused, NodesRunning]
  const isExpected = expected.some((kind) => error instanceof kind)
  console.error(isExpected && error instanceof Error ? error.message : error)
  process.exitCode = 1
}
