import type { Config } from './config.ts'
import { attachEmbedded, DirectoryInUse, type EmbeddedServer, startEmbedded } from './postgres/embedded.ts'
import { shardCountOf } from './shards/storedMap.ts'

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
