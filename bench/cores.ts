import { execFileSync } from 'node:child_process'
import { availableParallelism } from 'node:os'

/** The cores of this machine in two halves, so that one part of a benchmark takes nothing from the other. */
export type Halves = {
  /** This process, and what it starts from now on, runs on that half. */
  goTo(half: 'first' | 'second'): void
}

/** @returns `undefined` where cores can't be told apart: one only, or not on Linux */
export function halves(): Halves | undefined {
  const cores = availableParallelism()
  if (process.platform !== 'linux' || cores < 2) return undefined
  const half = Math.floor(cores / 2)
  const lists = { first: `0-${half - 1}`, second: `${half}-${cores - 1}` }
  return {
    goTo(half) {
      execFileSync('taskset', ['--all-tasks', '--cpu-list', '--pid', lists[half], `${process.pid}`], { stdio: 'pipe' })
    },
  }
}
