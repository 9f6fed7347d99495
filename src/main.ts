import { startAudits } from './audit/background.ts'
import type { Config } from './config.ts'
import { type Demo, ensureDemo } from './demo.ts'
import { buildApp } from './http/app.ts'
import { attachEmbedded, DirectoryInUse, type EmbeddedServer, startEmbedded } from './postgres/embedded.ts'
import { startRelocationRecovery } from './relocation/recovery.ts'
import { startHoldExpiry } from './saga/holdExpiry.ts'
import { createSagas } from './saga/sagas.ts'
import { prepareShards } from './shards/map.ts'
import { createRouter } from './shards/router.ts'
import { openShard } from './shards/shard.ts'
import { shardCountOf } from './shards/storedMap.ts'
import { createDirectory } from './tenants/directory.ts'

/** Longer than any answer takes (`ANSWER_MS_MAX`). */
const CLOSE_MS_MAX = 12_000

/** A running node. */
export type Node = {
  /** Where it listens, like `http://127.0.0.1:3000`. */
  url: string
  shardCount: number
  /** The sample tenant; in embedded mode, or when a demo key was chosen. */
  demo: Demo | undefined
  /** Answers what has come in, takes nothing more, closes everything. */
  stop(): Promise<void>
}

/** Databases to work on, and what ends that. */
export type Databases = {
  /** Makes the database of a shard that is to be added; it is `undefined` where databases are made by somebody else. */
  create?(number: number): Promise<string>
  /** Of the shards that there are, by number. */
  readonly urls: readonly string[]
  /** Also of those that are added later, if they are known already. */
  urlOf(number: number): string | undefined
  close(): Promise<void>
}

/** Of a new data directory; an older one keeps its own number. */
const EMBEDDED_SHARDS = 2

/** The databases a config names; the embedded server is started if it names none. @throws DirectoryInUse */
export async function openDatabases(config: Config): Promise<Databases> {
  if (config.shardUrls.length > 0) return databasesOf(config.shardUrls, async () => {})
  const server = await startEmbedded(config.dataDir)
  try {
    await server.createDatabase('shard0')
    const names = await embeddedDatabases(server)
    for (const name of names) await server.createDatabase(name)
    return embedded(server, names, () => server.stop())
  } catch (error) {
    await server.stop()
    throw error
  }
}

function databasesOf(urls: readonly string[], close: () => Promise<void>): Databases {
  return { urls, urlOf: (number) => urls[number], close }
}

function embedded(
  server: Pick<EmbeddedServer, 'url' | 'createDatabase'>,
  names: readonly string[],
  close: () => Promise<void>,
): Databases {
  const urlOf = (number: number) => server.url(nameOf(number))
  return {
    ...{ urls: names.map((name) => server.url(name)), urlOf, close },
    async create(number) {
      await server.createDatabase(nameOf(number))
      return urlOf(number)
    },
  }
}

const nameOf = (number: number) => `shard${number}`

/** The names of the databases that an embedded server has, or is to have. */
async function embeddedDatabases(server: Pick<EmbeddedServer, 'url'>): Promise<string[]> {
  const count = (await shardCountOf(server.url('shard0'))) ?? EMBEDDED_SHARDS
  return Array.from({ length: count }, (_, number) => nameOf(number))
}

/** The same for commands that may work beside a running node: its embedded server is used if there is one. */
export async function shareDatabases(config: Config): Promise<Databases> {
  try {
    return await openDatabases(config)
  } catch (error) {
    if (!(error instanceof DirectoryInUse)) throw error
    const server = await attachEmbedded(config.dataDir)
    return embedded(server, await embeddedDatabases(server), async () => {})
  }
}

/** Starts a node: databases, shards, HTTP, in this order; what was opened is closed again if a later step fails. */
export async function startNode(config: Config): Promise<Node> {
  const closers: (() => Promise<unknown>)[] = []
  const stop = async () => {
    for (const close of closers.splice(0).reverse()) await close()
  }
  try {
    const databases = await openDatabases(config)
    closers.push(() => databases.close())
    const { map } = await prepareShards(databases.urls)
    const open = (url: string, number: number) =>
      openShard({
        number,
        url,
        writer: config.writer,
        onTrouble: (error) => log('posting met trouble and goes on', error),
      })
    const router = createRouter(databases.urls.map(open), map, (number) => {
      const url = databases.urlOf(number)
      return url === undefined ? undefined : open(url, number)
    })
    closers.push(() => Promise.all(router.shards.map((shard) => shard.close())))
    const onTrouble = (error: unknown) => log('a saga met trouble and goes on', error)
    const sagas = createSagas({ router, onTrouble })
    closers.push(() => sagas.close())
    closers.push(startHoldExpiry({ router, sagas }, (error) => log('holds could not be expired and will be', error)))
    const recovery = startRelocationRecovery({
      router,
      urlOf: databases.urlOf,
      onTrouble: (error) => log('a change of the shard map met trouble and goes on', error),
    })
    closers.push(() => recovery.stop())
    const directory = createDirectory(databases.urls[0] ?? '')
    closers.push(() => directory.close())

    const wantsDemo = config.shardUrls.length === 0 || config.demoKey !== undefined
    const { dataDir, demoKey: chosenKey } = config
    const demo = wantsDemo ? await ensureDemo({ directory, sagas }, { chosenKey, dataDir }) : undefined

    const audits = startAudits({
      urls: () => router.shards.flatMap(({ number }) => databases.urlOf(number) ?? []),
      onTrouble: (error) => log('an audit failed', error),
    })
    closers.push(() => audits.close())

    const app = await buildApp({ router, sagas, directory, audits })
    closers.push(() => closeApp(app))
    const url = await app.listen({ host: config.host, port: config.port })
    return { url, shardCount: router.shards.length, demo, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

/** Answers what has come in; who is still silent, or in the middle of a request, after a while is cut off. */
async function closeApp(app: Awaited<ReturnType<typeof buildApp>>): Promise<void> {
  const timer = setTimeout(() => app.server.closeAllConnections(), CLOSE_MS_MAX)
  await app.close()
  clearTimeout(timer)
}

/** One JSON line on stderr. */
function log(msg: string, error: unknown): void {
  const { message, stack, code } = (error ?? {}) as { message?: string; stack?: string; code?: string }
  console.error(JSON.stringify({ level: 'warn', time: new Date().toISOString(), msg, code, err: message, stack }))
}
