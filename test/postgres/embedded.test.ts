import { type ChildProcess, fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { access, chown, constants, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, describe, expect, it, onTestFinished } from 'vitest'
import { connect, type Sql } from '../../src/postgres/connect.ts'
import { type EmbeddedServer, startEmbedded } from '../../src/postgres/embedded.ts'
import { migrate } from '../../src/postgres/migrate.ts'
import { kill, killCluster, postmasterOf, processesOf, runningOf, untilGone } from './cluster.ts'
import type { StartOrder, StartReport } from './start.ts'

const START = fileURLToPath(new URL('start.ts', import.meta.url))

const directories: string[] = []
const programs: ChildProcess[] = []

async function freshDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'zerosum-embedded-'))
  directories.push(directory)
  return directory
}

afterEach(async () => {
  for (const program of programs.splice(0)) if (program.exitCode === null) program.kill('SIGKILL')
  for (const directory of directories.splice(0)) {
    await killCluster(directory)
    await rm(directory, { recursive: true, force: true })
  }
})

type Program = { process: ChildProcess; pid: number; tell(order: StartOrder): void }

/** A program of its own that will start a server when told; in a process group of its own, as a terminal gives one. */
async function readyElsewhere(directory: string, identity: { uid?: number; gid?: number } = {}): Promise<Program> {
  const program = fork(START, [directory], { execArgv: [], detached: true, cwd: '/', ...identity })
  programs.push(program)
  await once(program, 'message')
  if (program.pid === undefined) throw new Error('the program did not start')
  return { process: program, pid: program.pid, tell: (order) => program.send(order) }
}

async function reportOf(program: Program): Promise<StartReport> {
  const [report] = (await once(program.process, 'message')) as [StartReport]
  return report
}

/** A program that has started a server, or tried to, and what it said of it. */
async function startElsewhere(...place: Parameters<typeof readyElsewhere>): Promise<Program & { report: StartReport }> {
  const program = await readyElsewhere(...place)
  program.tell('start')
  return { ...program, report: await reportOf(program) }
}

/** Tells a program to stop its server, and waits for the end of both. */
async function stopElsewhere(program: Program): Promise<void> {
  const ended = once(program.process, 'exit')
  program.tell('stop')
  await ended
}

function urlIn(report: StartReport): string {
  if ('error' in report) throw new Error(report.error)
  return report.url
}

async function withSql<T>(url: string, work: (sql: Sql) => Promise<T>): Promise<T> {
  const sql = connect(url, { max: 1, role: null })
  try {
    return await work(sql)
  } finally {
    await sql.end()
  }
}

const remember = (url: string, note: string) =>
  withSql(url, async (sql) => {
    await sql`CREATE TABLE IF NOT EXISTS notes (note text)`
    await sql`INSERT INTO notes VALUES (${note})`
  })

const remembered = (url: string) =>
  withSql(url, async (sql) => (await sql`SELECT note FROM notes ORDER BY note`).map(({ note }) => note))

const urlOf = (server: EmbeddedServer) => server.url('postgres')

describe('an embedded server', () => {
  it('keeps its data over stop and start', async () => {
    const directory = await freshDirectory()
    const first = await startEmbedded(directory)
    await first.createDatabase('shard0')
    await first.createDatabase('shard0')
    await remember(first.url('shard0'), 'before the stop')
    await first.stop()
    expect(await processesOf(directory)).toEqual([])

    const second = await startEmbedded(directory)
    expect(await remembered(second.url('shard0'))).toEqual(['before the stop'])
    await second.stop()
  })

  it('writes to disk before it says so, and keeps its password from other users', async () => {
    const directory = await freshDirectory()
    const server = await startEmbedded(directory)
    const settings = await withSql(
      urlOf(server),
      (sql) => sql`
        SELECT name, setting FROM pg_settings
        WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes', 'data_checksums', 'listen_addresses')`,
    )
    expect(Object.fromEntries(settings.map(({ name, setting }) => [name, setting]))).toEqual({
      fsync: 'on',
      synchronous_commit: 'on',
      full_page_writes: 'on',
      data_checksums: 'on',
      listen_addresses: '127.0.0.1',
    })
    expect((await stat(join(directory, 'password'))).mode & 0o077).toBe(0)
    const guessed = urlOf(server).replace(/postgres:[0-9a-f]+@/, 'postgres:guess@')
    await expect(withSql(guessed, (sql) => sql`SELECT 1`)).rejects.toThrow(/password authentication failed/)
    await server.stop()
  })

  it('runs with the settings it is given, and with its own otherwise', async () => {
    const server = await startEmbedded(await freshDirectory(), undefined, { max_prepared_transactions: '7' })
    const shown = await withSql(
      urlOf(server),
      (sql) =>
        sql`SELECT current_setting('max_prepared_transactions') AS given, current_setting('wal_compression') AS own`,
    )
    expect(shown[0]).toMatchObject({ given: '7', own: 'pglz' })
    await server.stop()
  })

  it('listens on another port when somebody has taken the one that was free, and gives up when all are taken', async () => {
    const other = createServer().listen(0, '127.0.0.1')
    onTestFinished(() => void other.close())
    await once(other, 'listening')
    const { port: taken } = other.address() as AddressInfo
    const free = createServer().listen(0, '127.0.0.1')
    await once(free, 'listening')
    const { port } = free.address() as AddressInfo
    free.close()
    const directory = await freshDirectory()
    let asked = 0
    const always = startEmbedded(directory, undefined, {}, async () => {
      asked += 1
      return taken
    })
    await expect(always).rejects.toThrow(/did not start[\s\S]*Address already in use/)
    expect(asked).toBe(5)
    const ports = [taken, port]
    const server = await startEmbedded(directory, undefined, {}, async () => ports.shift() ?? 0)
    expect(new URL(urlOf(server)).port).toBe(`${port}`)
    await remember(urlOf(server), 'on the other port')
    await server.stop()
  })

  it('migrates the shards of a new server at once', async () => {
    const server = await startEmbedded(await freshDirectory())
    const names = ['shard0', 'shard1', 'shard2', 'shard3']
    for (const name of names) await server.createDatabase(name)
    const pools = names.map((name) => connect(server.url(name), { max: 1, role: null }))
    await Promise.all(pools.map((sql) => sql`SELECT 1`))
    const applied = await Promise.all(pools.map((sql) => migrate(sql)))
    expect(applied.every((files) => files.length > 0)).toBe(true)
    await Promise.all(pools.map((sql) => sql.end()))
    await server.stop()
  })

  it('takes over from a process that is dead', async () => {
    const directory = await freshDirectory()
    const dead = spawn(process.execPath, ['-e', ''])
    await once(dead, 'exit')
    await writeFile(join(directory, 'node.pid'), `${dead.pid} 1\n`)
    const server = await startEmbedded(directory)
    expect(await readFile(join(directory, 'node.pid'), 'utf8')).toMatch(new RegExp(`^${process.pid} `))
    await server.stop()
  })

  it.runIf(process.platform === 'linux')(
    'takes over from a dead process whose number was given out again',
    async () => {
      const directory = await freshDirectory()
      const stranger = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'])
      programs.push(stranger)
      await once(stranger, 'spawn')
      await writeFile(join(directory, 'node.pid'), `${stranger.pid} 1\n`)
      const server = await startEmbedded(directory)
      expect(await runningOf([stranger.pid ?? 0])).toEqual([stranger.pid])
      await server.stop()
    },
  )

  it('refuses a second process, by the name of the first, whose server goes on', async () => {
    const directory = await freshDirectory()
    const first = await startElsewhere(directory)
    await remember(urlIn(first.report), 'still there')
    await expect(startEmbedded(directory)).rejects.toThrow(`${directory} is in use by process ${first.pid}`)
    const second = await startElsewhere(directory)
    expect(second.report).toEqual({ error: expect.stringContaining(`is in use by process ${first.pid}`) })
    expect(await remembered(urlIn(first.report))).toEqual(['still there'])

    await stopElsewhere(first)
    const third = await startEmbedded(directory)
    expect(await remembered(urlOf(third))).toEqual(['still there'])
    await third.stop()
  })

  it('refuses to start twice in one process', async () => {
    const directory = await freshDirectory()
    const server = await startEmbedded(directory)
    await remember(urlOf(server), 'still there')
    await expect(startEmbedded(directory)).rejects.toThrow(/is in use/)
    expect(await remembered(urlOf(server))).toEqual(['still there'])
    await server.stop()
  })

  it.each([
    ['empty', undefined],
    ['left by a dead process', '999999999 1\n'],
  ])('goes to one of several processes that start at once on a directory that is %s', async (_, left) => {
    const directory = await freshDirectory()
    if (left !== undefined) await writeFile(join(directory, 'node.pid'), left)
    const contenders = await Promise.all(Array.from({ length: 5 }, () => readyElsewhere(directory)))
    const said = Promise.all(contenders.map(async (program) => ({ pid: program.pid, report: await reportOf(program) })))
    for (const contender of contenders) contender.tell('start')
    const winners = (await said).filter(({ report }) => 'url' in report)
    expect(winners).toHaveLength(1)
    for (const { report } of await said) {
      if ('error' in report) expect(report.error).toMatch(/is in use by process|several processes are starting/)
    }
    for (const { pid, report } of winners) {
      await expect(startEmbedded(directory)).rejects.toThrow(`is in use by process ${pid}`)
      await remember(urlIn(report), 'served')
    }
  })

  it('recovers after all of its processes were killed, and the program that started it', async () => {
    const directory = await freshDirectory()
    const before = await startElsewhere(directory)
    await remember(urlIn(before.report), 'committed')
    before.process.kill('SIGKILL')
    await killCluster(directory)
    const after = await startEmbedded(directory)
    expect(await remembered(urlOf(after))).toEqual(['committed'])
    await after.stop()
  })

  it('recovers when its first process was killed, and the others are about to notice', async () => {
    const directory = await freshDirectory()
    let program = await startElsewhere(directory)
    await remember(urlIn(program.report), 'committed')
    for (const _ of [1, 2, 3]) {
      const sessions = connect(urlIn(program.report), { max: 20, role: null })
      await Promise.all(Array.from({ length: 20 }, () => sessions`SELECT 1`))
      const [postmaster = 0] = await processesOf(directory)
      const ended = once(program.process, 'exit')
      program.process.kill('SIGKILL')
      await ended
      kill(postmaster, 'SIGKILL')
      program = await startElsewhere(directory)
      expect(await remembered(urlIn(program.report))).toEqual(['committed'])
      await sessions.end({ timeout: 0 })
    }
  })

  it('waits for the last process of a killed server, however long that takes to notice', async () => {
    const directory = await freshDirectory()
    const { process: program, report } = await startElsewhere(directory)
    const url = urlIn(report)
    await remember(url, 'committed')
    const session = connect(url, { max: 1, role: null })
    const [row] = await session<{ pid: number }[]>`SELECT pg_backend_pid() AS pid`
    const backend = row?.pid ?? 0
    onTestFinished(() => kill(backend, 'SIGKILL'))
    const [postmaster = 0] = await processesOf(directory)
    kill(backend, 'SIGSTOP')
    program.kill('SIGKILL')
    kill(postmaster, 'SIGKILL')
    await untilGone([program.pid ?? 0, postmaster])
    const starting = startEmbedded(directory)
    starting.catch(() => {}) // that is looked at below
    const log = () => readFile(join(directory, 'postgres.log'), 'utf8')
    await expect.poll(log).toContain('pre-existing shared memory block')
    kill(backend, 'SIGCONT')
    const server = await starting
    expect(await remembered(urlOf(server))).toEqual(['committed'])
    await session.end({ timeout: 0 })
    await server.stop()
  })

  it('is adopted by the next start when the program that started it was killed', async () => {
    const directory = await freshDirectory()
    const { process: program, report } = await startElsewhere(directory)
    await remember(urlIn(report), 'committed')
    program.kill('SIGKILL')
    await once(program, 'exit')
    expect(await postmasterOf(directory)).toBeDefined()
    await remember(urlIn(report), 'committed later')

    const server = await startEmbedded(directory)
    expect(await remembered(urlOf(server))).toEqual(['committed', 'committed later'])
    await server.stop()
    expect(await processesOf(directory)).toEqual([])
  })

  it('lives on when Ctrl-C reaches the process group of the program that started it', async () => {
    const directory = await freshDirectory()
    const { process: program, pid, report } = await startElsewhere(directory)
    await remember(urlIn(report), 'before')
    const ended = once(program, 'exit')
    process.kill(-pid, 'SIGINT')
    const [, signal] = await ended
    expect(signal).toBe('SIGINT')
    await remember(urlIn(report), 'after')
    expect(await remembered(urlIn(report))).toEqual(['after', 'before'])
  })

  it('leaves the directory to others when it is stopped after it had died', async () => {
    const directory = await freshDirectory()
    const server = await startEmbedded(directory)
    await killCluster(directory)
    await server.stop().catch(() => {})
    expect((await startElsewhere(directory)).report).toHaveProperty('url')
  })

  it('says where its log is when it does not come up', async () => {
    const directory = await freshDirectory()
    const server = await startEmbedded(directory)
    await server.stop()
    await writeFile(join(directory, 'postgres', 'postgresql.conf'), 'no_such_setting = 1\n')
    const failure = await startEmbedded(directory).catch((error: Error) => error.message)
    expect(failure).toContain(join(directory, 'postgres.log'))
    expect(failure).toContain('no_such_setting')
    await writeFile(join(directory, 'postgres', 'postgresql.conf'), '')
    const repaired = await startElsewhere(directory)
    expect(repaired.report).toHaveProperty('url')
  })
})

describe('an embedded server of an ordinary user', () => {
  const NOBODY = 65_534

  /** Why this can't be tried here; nothing if it can. */
  async function obstacle(): Promise<string | undefined> {
    if (process.getuid?.() !== 0) return 'the tests above ran as an ordinary user already'
    for (let folder = dirname(START); folder !== dirname(folder); folder = dirname(folder)) {
      if (((await stat(folder)).mode & 0o005) !== 0o005) return `${folder} is closed to other users`
    }
    await access(process.execPath, constants.X_OK)
    return ((await stat(process.execPath)).mode & 0o001) === 0
      ? `${process.execPath} is closed to other users`
      : undefined
  }

  it('starts, keeps its data, and stops', async (context) => {
    const reason = await obstacle()
    if (reason) {
      console.log(`skipped: ${reason}`)
      return context.skip()
    }
    const directory = await freshDirectory()
    await chown(directory, NOBODY, NOBODY)
    for (const round of [1, 2]) {
      const program = await startElsewhere(directory, { uid: NOBODY, gid: NOBODY })
      const url = urlIn(program.report)
      await remember(url, `round ${round}`)
      expect(await remembered(url)).toHaveLength(round)
      expect((await stat(join(directory, 'postgres'))).uid).toBe(NOBODY)
      await stopElsewhere(program)
    }
    expect(await processesOf(directory)).toEqual([])
  })
})
