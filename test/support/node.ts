import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { Agent, request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { Config } from '../../src/config.ts'
import type { Received, Send, Sent } from './api.ts'

const CLI = fileURLToPath(new URL('../../src/cli.ts', import.meta.url))
const COMPILED = join(tmpdir(), 'zerosum-test-compiled')
const START_MS_MAX = 60_000
/** What Kubernetes gives a pod before it kills it. */
const STOP_MS_MAX = 30_000

/** A node in a process of its own: `node src/cli.ts start`. */
export type NodeProcess = {
  readonly pid: number
  /** Where it listens. */
  readonly url: string
  /** Calls it; rejects when the connection breaks before the answer is whole. */
  readonly send: Send
  /** Everything that it has printed so far. */
  output(): string
  /** How it ended, once it has. */
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>
  /** kill -9. */
  kill(): Promise<void>
  /** Asks it to stop, by SIGTERM; its exit code. Kills it, and throws, if it is still there after 30 seconds. */
  stop(): Promise<number | null>
}

export type NodeSettings = {
  /** Databases that it works on; none is the embedded one. */
  databaseUrl?: string
  demoKey?: string
  dataDir?: string
  /** Webhooks may go to the loopback. */
  webhooksAllowPrivate?: boolean
  /** Where balances are cached. */
  redisUrl?: string
  /** How long it says that it is about to stop before it does; none by itself. */
  drainMs?: number
  /** How long it waits for databases; ten seconds by itself. */
  startWaitMs?: number
  /** Where its events go; none is nowhere. */
  kafkaBrokers?: string
  /** Whatever else is to be in its environment. */
  env?: Readonly<Record<string, string>>
  /** OpenTelemetry's variables, `OTEL_…`. */
  otel?: Readonly<Record<string, string>>
  /** How it logs; only what went wrong, as text, if nothing is said. */
  log?: Partial<Config['log']>
  /** The consumer groups that it works for, as ZEROSUM_CONSUMERS has them. */
  consumers?: string
}

const running = new Set<ChildProcess>()
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})

/** Starts a node on a free port of the loopback; resolves when it listens. */
export async function startNode(settings: NodeSettings): Promise<NodeProcess> {
  const child = spawnCli(['start'], settings)
  const { pid } = child
  if (pid === undefined) throw new Error(`${process.execPath} cannot be run`)
  const output = outputOf(child)
  const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((done) => {
    child.once('exit', (code, signal) => {
      done({ code, signal })
    })
  })
  let hasEnded = false
  void ended.then(() => {
    hasEnded = true
  })
  const url = await listening()
  const agent = new Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY })
  const kill = async (): Promise<void> => {
    child.kill('SIGKILL')
    await ended
    agent.destroy()
  }
  return {
    pid,
    url,
    send: sendTo(url, agent),
    output,
    ended,
    kill,
    async stop() {
      child.kill('SIGTERM')
      const end = await Promise.race([ended, sleep(STOP_MS_MAX, undefined, { ref: false })])
      if (!end) await kill()
      agent.destroy()
      if (!end) throw new Error(`the node does not stop; it said:\n${output()}`)
      return end.code
    },
  }

  async function listening(): Promise<string> {
    for (let ms = 0; ms < START_MS_MAX && !hasEnded; ms += 20) {
      const [, found] = /listens on (https?:\/\/[^\s;]+)/.exec(output()) ?? []
      if (found) return found
      await sleep(20)
    }
    child.kill('SIGKILL')
    throw new Error(`the node did not start; it said:\n${output()}`)
  }
}

/** Runs `node src/cli.ts verify`: what it prints and its exit code, 0 if the books agree. */
export async function verifyBooks(settings: NodeSettings): Promise<{ code: number | null; output: string }> {
  return await startCommand(['verify'], settings).ended
}

/** A command of the CLI in a process of its own. */
export type CommandProcess = {
  readonly pid: number | undefined
  /** What it printed and its exit code, once it has ended; the code is `null` if it was killed. */
  readonly ended: Promise<{ code: number | null; output: string }>
  /** Everything that it has printed so far. */
  output(): string
  /** kill -9; nothing if it has ended. */
  kill(): void
  /** SIGSTOP: its connections stay, it does nothing. */
  freeze(): void
  thaw(): void
}

/** Starts `node src/cli.ts` with these arguments, as an operator would. */
export function startCommand(args: readonly string[], settings: NodeSettings): CommandProcess {
  const child = spawnCli(args, settings)
  const output = outputOf(child)
  return {
    pid: child.pid,
    ended: once(child, 'close').then(([code]) => ({ code, output: output() })),
    output,
    kill() {
      child.kill('SIGKILL')
    },
    freeze() {
      child.kill('SIGSTOP')
    },
    thaw() {
      child.kill('SIGCONT')
    },
  }
}

function spawnCli(
  args: readonly string[],
  {
    databaseUrl,
    demoKey,
    dataDir,
    webhooksAllowPrivate,
    kafkaBrokers,
    redisUrl,
    consumers,
    otel,
    env = {},
    log = {},
    ...times
  }: NodeSettings,
): ChildProcess {
  const { PATH, HOME, TMPDIR } = process.env
  const child = spawn(process.execPath, [CLI, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      // A node is a thousand modules; compiled once for all that are started.
      NODE_COMPILE_CACHE: COMPILED,
      ...{ PATH, HOME, TMPDIR, HOST: '127.0.0.1', PORT: '0' },
      // The machine may be busy with other tests: a node that gets no time would refuse what is asked.
      ZEROSUM_AGE_MS_MAX: '60000',
      ...{ ZEROSUM_DRAIN_MS: `${times.drainMs ?? 0}`, ZEROSUM_START_WAIT_MS: `${times.startWaitMs ?? 10_000}` },
      ...{ ZEROSUM_LOG: log.form ?? 'pretty', ZEROSUM_LOG_LEVEL: log.level ?? 'warn' },
      ...(databaseUrl === undefined ? {} : { ZEROSUM_SHARDS: databaseUrl }),
      ...(demoKey === undefined ? {} : { ZEROSUM_DEMO_KEY: demoKey }),
      ...(dataDir === undefined ? {} : { ZEROSUM_DATA_DIR: dataDir }),
      ...(webhooksAllowPrivate === undefined ? {} : { ZEROSUM_WEBHOOKS_ALLOW_PRIVATE: `${webhooksAllowPrivate}` }),
      ...(kafkaBrokers === undefined ? {} : { KAFKA_BROKERS: kafkaBrokers }),
      ...(consumers === undefined ? {} : { ZEROSUM_CONSUMERS: consumers }),
      ...(redisUrl === undefined ? {} : { REDIS_URL: redisUrl }),
      ...otel,
      ...env,
    },
  })
  running.add(child)
  child.once('exit', () => running.delete(child))
  return child
}

/** What a process prints, as it comes. */
function outputOf({ stdout, stderr }: ChildProcess): () => string {
  let output = ''
  for (const stream of [stdout, stderr]) {
    stream?.setEncoding('utf8').on('data', (text: string) => {
      output += text
    })
  }
  return () => output
}

/** A way to call what listens at `url`, over connections that are kept. Paths are sent as they are. */
export function sendTo(url: string, agent: Agent): Send {
  const { hostname, port } = new URL(url)
  return async ({ method, path, headers, body }: Sent): Promise<Received> => {
    const length = body === undefined ? {} : { 'content-length': `${Buffer.byteLength(body)}` }
    const call = request({ hostname, port, path, method, agent, headers: { ...headers, ...length } })
    call.end(body)
    const [answer] = await once(call, 'response')
    // From here on errors are the answer's; without a listener, those of the call would end the process.
    call.on('error', () => {})
    let text = ''
    for await (const chunk of answer.setEncoding('utf8')) text += chunk
    return { status: answer.statusCode ?? 0, headers: answer.headers, text }
  }
}

/**
 * kill -9 for the embedded PostgreSQL of a data directory: the server and the processes it has made, nothing else.
 * @returns how many processes were killed
 */
export async function killEmbedded(dataDir: string): Promise<number> {
  const [line = ''] = (await readFile(join(dataDir, 'postgres', 'postmaster.pid'), 'utf8')).split('\n')
  const server = Number(line)
  // What the file says may be old, and the number another process's by now.
  const command = await readFile(`/proc/${server}/cmdline`, 'utf8').catch(() => '')
  if (!command.includes(join(dataDir, 'postgres'))) throw new Error(`no PostgreSQL of ${dataDir} runs as ${line}`)
  // Stopped first, so that it makes no new one while they are counted.
  process.kill(server, 'SIGSTOP')
  const children = (await readFile(`/proc/${server}/task/${server}/children`, 'utf8')).trim().split(' ').map(Number)
  const pids = [server, ...children.filter((pid) => pid > 1)]
  for (const pid of pids) killNow(pid)
  while ((await Promise.all(pids.map(isAlive))).some(Boolean)) await sleep(10)
  return pids.length
}

function killNow(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/** Runs, or is about to end; what is dead and was not yet fetched by its parent does not count. */
async function isAlive(pid: number): Promise<boolean> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '')
  return stat !== '' && stat.slice(stat.lastIndexOf(')') + 2, stat.lastIndexOf(')') + 3) !== 'Z'
}
