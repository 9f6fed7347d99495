import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** The first process of the cluster in a data directory that a test made; `undefined` if none was left there. */
export async function postmasterOf(dataDir: string): Promise<number | undefined> {
  const text = await readFile(join(dataDir, 'postgres', 'postmaster.pid'), 'utf8').catch(() => '')
  const pid = Number(text.split('\n')[0])
  return Number.isInteger(pid) && pid > 1 && (await isPostgresOf(pid, dataDir)) ? pid : undefined
}

/** Its server processes: the first one, then its children. */
export async function processesOf(dataDir: string): Promise<number[]> {
  const postmaster = await postmasterOf(dataDir)
  if (postmaster === undefined) return []
  const { stdout } = await run('ps', ['-A', '-o', 'pid=,ppid='])
  const pairs = stdout
    .trim()
    .split('\n')
    .map((line) => line.trim().split(/\s+/).map(Number))
  return [postmaster, ...pairs.filter(([, parent]) => parent === postmaster).map(([pid = 0]) => pid)]
}

/** kill -9 for a cluster and all of its processes: as near to a power cut as one gets with the machine on. */
export async function killCluster(dataDir: string): Promise<void> {
  // Stopped first, so that it makes no new one while they are counted: one that is left keeps the next server from starting.
  const first = await postmasterOf(dataDir)
  if (first !== undefined) kill(first, 'SIGSTOP')
  const pids = await processesOf(dataDir)
  for (const pid of pids) kill(pid, 'SIGKILL')
  await untilGone(pids)
}

/** Sends a signal to a process, if it is still there. */
export function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/** Waits for the end of processes; one that has ended and waits for its parent to notice counts as gone. */
export async function untilGone(pids: readonly number[]): Promise<void> {
  while ((await runningOf(pids)).length > 0) await new Promise((done) => setTimeout(done, 20))
}

/** Those of the processes that have not ended. */
export async function runningOf(pids: readonly number[]): Promise<number[]> {
  if (pids.length === 0) return []
  // ps fails when none of them is there.
  const { stdout } = await run('ps', ['-o', 'pid=,stat=', '-p', pids.join(',')]).catch(() => ({ stdout: '' }))
  const states = stdout.split('\n').map((line) => line.trim().split(/\s+/))
  return states.filter(([pid, state]) => pid && !state?.startsWith('Z')).map(([pid]) => Number(pid))
}

/** A pid file can outlive its process, and the number be given to another: never touch that one. */
async function isPostgresOf(pid: number, dataDir: string): Promise<boolean> {
  const { stdout } = await run('ps', ['-o', 'args=', '-p', `${pid}`]).catch(() => ({ stdout: '' }))
  return stdout.includes('postgres') && stdout.includes(join(dataDir, 'postgres'))
}
