import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type EmbeddedServer, startEmbedded } from '../../src/postgres/embedded.ts'
import { openPassage, type Passage } from '../http/passage.ts'
import { kill, killCluster, postmasterOf, processesOf } from '../postgres/cluster.ts'

/** A PostgreSQL server of its own for one shard, at an address that stays the same though the server comes and goes. */
export type ShardServer = {
  /** What nodes are told. */
  readonly url: string
  /** What leads there; it can be cut. */
  readonly passage: Passage
  /** Of the server as it runs now, not by way of the passage; logs in as a superuser. */
  directUrl(): string
  /** kill -9 for the server and all of its processes. */
  kill(): Promise<void>
  /** Starts it anew after `kill`. */
  restart(): Promise<void>
  /** SIGSTOP for the server and all of its processes: connections stay, nothing answers. */
  freeze(): Promise<void>
  thaw(): void
  close(): Promise<void>
}

/** Small: several run beside each other. */
const SETTINGS = { shared_buffers: '64MB' }

export async function startShardServer(): Promise<ShardServer> {
  const directory = await mkdtemp(join(tmpdir(), 'zerosum-saga-'))
  const start = () => startEmbedded(directory, process.env['ZEROSUM_TEST_POSTGRES_BIN'], SETTINGS)
  let server: EmbeddedServer = await start()
  await server.createDatabase('shard')
  const directUrl = () => server.url('shard')
  const passage = await openPassage(directUrl())
  let frozen: number[] = []
  return {
    url: passage.urlOf(directUrl()),
    passage,
    directUrl,
    kill: () => killCluster(directory),
    async restart() {
      await server.stop().catch(() => {}) // it is dead; this gives the directory free
      server = await start()
      passage.leadTo(directUrl())
    },
    async freeze() {
      // The first one at once, so that it makes no new ones while they are counted.
      const first = await postmasterOf(directory)
      if (first === undefined) throw new Error(`no PostgreSQL runs in ${directory}`)
      kill(first, 'SIGSTOP')
      frozen = await processesOf(directory)
      for (const pid of frozen) kill(pid, 'SIGSTOP')
    },
    thaw() {
      for (const pid of frozen) kill(pid, 'SIGCONT')
      frozen = []
    },
    async close() {
      await killCluster(directory)
      await server.stop().catch(() => {})
      await passage.close()
      await rm(directory, { recursive: true, force: true })
    },
  }
}

/** The same for so many shards, by their numbers. */
export async function startShardServers(count: number): Promise<ShardServer[]> {
  return await Promise.all(Array.from({ length: count }, startShardServer))
}

/** As ZEROSUM_SHARDS lists them. */
export function listOf(servers: readonly ShardServer[]): string {
  return servers.map(({ url }) => url).join(',')
}
