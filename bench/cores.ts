import { execFile } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { promisify } from 'node:util'

/** Where a load generator, and what it measures, may run. */
export type Cores = { readonly generator: string; readonly measured: string }

/**
 * Cuts the machine in two, so that what a load generator needs is not taken from what it measures: one core for the former, all others for the
 * latter.
 * @returns `undefined` where that can't be: only with `taskset` (Linux), and more than one core
 */
export async function coresApart(): Promise<Cores | undefined> {
  const count = availableParallelism()
  const cores = { generator: '0', measured: `1-${count - 1}` }
  return count > 1 && (await keepTo(cores.measured)) && (await keepTo(`0-${count - 1}`)) ? cores : undefined
}

/** Keeps this process to some cores, and what it starts from now on. @returns whether that was possible */
export async function keepTo(cores: string): Promise<boolean> {
  return await promisify(execFile)('taskset', ['-acp', cores, `${process.pid}`]).then(
    () => true,
    () => false,
  )
}
