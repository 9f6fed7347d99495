import { freePorts } from './ports.ts'
import { dataDirectory, removeDirectory, type ServerProcess, startProcess } from './process.ts'
import { askRedis } from './resp.ts'

/** A Redis server of a test's own. It keeps nothing on disk: after `kill` and `restart` it is empty. */
export type RedisServer = Omit<ServerProcess, 'stop'> & {
  /** `redis://127.0.0.1:…`; the same after a restart. */
  readonly url: string
  readonly port: number
  /** Sends one command by itself, and not by a client's connection; see `askRedis`. */
  ask(...args: string[]): Promise<string | null>
  /** Removes all keys. */
  flush(): Promise<void>
  /** Ends it and removes its folder. */
  stop(): Promise<void>
}

/**
 * Starts `redis-server` on a free port of the loopback.
 * @param more of its arguments
 * @throws Error if it is not there or does not start
 */
export async function startRedis(...more: string[]): Promise<RedisServer> {
  const [port = 0] = await freePorts(1)
  const directory = await dataDirectory('redis')
  const server = await startProcess({
    name: 'Redis',
    file: 'redis-server',
    args: [
      ...['--port', `${port}`, '--bind', '127.0.0.1', '--dir', directory, '--daemonize', 'no'],
      ...['--save', '', '--appendonly', 'no', '--databases', '1', ...more],
    ],
    isReady: () =>
      askRedis(port, ['PING'], 1_000).then(
        (answer) => answer === 'PONG',
        () => false,
      ),
  })
  return {
    url: `redis://127.0.0.1:${port}`,
    port,
    get pid() {
      return server.pid
    },
    kill: server.kill,
    pause: server.pause,
    resume: server.resume,
    restart: server.restart,
    ask: (...args) => askRedis(port, args),
    async flush() {
      await askRedis(port, ['FLUSHALL'])
    },
    async stop() {
      await server.stop()
      await removeDirectory(directory)
    },
  }
}
