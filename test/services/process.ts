import { type ChildProcess, spawn } from 'node:child_process'
import { rmSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

const START_MS_MAX = 120_000
const STOP_MS_MAX = 20_000
const OUTPUT_CHARACTERS_MAX = 100_000

/** How to run a server program. */
export type Program = {
  /** For messages: "Redis". */
  readonly name: string
  readonly file: string
  readonly args: readonly string[]
  /** Beside what this process has. */
  readonly env?: NodeJS.ProcessEnv
  /** Whether it serves by now, from what it has printed since it was started. */
  isReady(output: string): boolean | Promise<boolean>
}

/**
 * A server program that can be treated badly: running, paused or gone, and started again with the same arguments.
 * Pausing is SIGSTOP: connections stay open, and nothing answers.
 */
export type ServerProcess = {
  /** @throws Error while it does not run */
  readonly pid: number
  /** kill -9, also while it is paused. Nothing happens if it does not run. */
  kill(): Promise<void>
  pause(): void
  resume(): void
  /** Starts it anew; one that still runs is killed first. Resolves when it serves. */
  restart(): Promise<void>
  /** SIGTERM; SIGKILL if that takes longer than 20 seconds. */
  stop(): Promise<void>
}

type Running = { readonly child: ChildProcess; readonly pid: number; readonly ended: Promise<void>; output: string }

// When the test process ends, its servers end: also those of a test that threw before it could stop them.
const running = new Set<ChildProcess>()
const directories = new Set<string>()
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL')
  for (const directory of directories) {
    try {
      // Again and again, while those that were just killed may still be writing there.
      rmSync(directory, { recursive: true, force: true, maxRetries: 10 })
    } catch (error) {
      console.error(`${directory} stays behind: ${error instanceof Error ? error.message : error}`)
    }
  }
})

/** A folder for a server's data, gone when the test process ends at the latest. */
export async function dataDirectory(name: string): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), `zerosum-${name}-`))
  directories.add(directory)
  return directory
}

export async function removeDirectory(directory: string): Promise<void> {
  await rm(directory, { recursive: true, force: true, maxRetries: 3 })
  directories.delete(directory)
}

/**
 * Starts a server; resolves when it serves.
 * @throws Error with what it printed, if it ends before that or takes longer than two minutes
 */
export async function startProcess(program: Program): Promise<ServerProcess> {
  let current: Running | undefined = await started(program)
  const signal = (name: NodeJS.Signals) => {
    if (!current?.child.kill(name)) throw new Error(`${program.name} does not run`)
  }
  const end = async (name: 'SIGTERM' | 'SIGKILL') => {
    const process = current
    current = undefined
    if (process) await ended(process, name)
  }
  return {
    get pid() {
      if (!current) throw new Error(`${program.name} does not run`)
      return current.pid
    },
    kill: () => end('SIGKILL'),
    pause: () => signal('SIGSTOP'),
    resume: () => signal('SIGCONT'),
    async restart() {
      await end('SIGKILL')
      current = await started(program)
    },
    stop: () => end('SIGTERM'),
  }
}

async function started(program: Program): Promise<Running> {
  const server = await spawned(program)
  let hasEnded = false
  void server.ended.then(() => {
    hasEnded = true
  })
  const deadline = Date.now() + START_MS_MAX
  while (!hasEnded && Date.now() < deadline) {
    if (await program.isReady(server.output)) return server
    await sleep(20)
  }
  await ended(server, 'SIGKILL')
  throw new Error(`${program.name} did not start; it said:\n${server.output}`)
}

async function spawned({ name, file, args, env }: Program): Promise<Running> {
  const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } })
  await new Promise<void>((done, fail) => {
    child.once('spawn', done).once('error', (cause) => fail(new Error(`${name} cannot be run: ${file}`, { cause })))
  })
  const { pid } = child
  if (pid === undefined) throw new Error(`${name} cannot be run: ${file}`)
  running.add(child)
  const ended = new Promise<void>((done) => {
    child.once('close', () => {
      running.delete(child)
      done()
    })
  })
  const server: Running = { child, pid, ended, output: '' }
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      server.output = (server.output + text).slice(-OUTPUT_CHARACTERS_MAX)
    })
  }
  return server
}

async function ended({ child, ended }: Running, name: 'SIGTERM' | 'SIGKILL'): Promise<void> {
  child.kill(name)
  // A paused process hears of SIGTERM when it goes on.
  if (name === 'SIGTERM') child.kill('SIGCONT')
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS_MAX)
  await ended
  clearTimeout(timer)
}
