import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestProject } from 'vitest/node'
import { startEmbedded } from '../../src/postgres/embedded.ts'

declare module 'vitest' {
  interface ProvidedContext {
    /** The maintenance database of the server that the tests share. */
    postgresUrl: string
  }
}

/**
 * One real PostgreSQL for all tests of a run: the embedded one; or, to test on another version, the binaries in the folder
 * `ZEROSUM_TEST_POSTGRES_BIN`, or the server that `ZEROSUM_TEST_POSTGRES` names (a superuser's URL).
 */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const external = process.env['ZEROSUM_TEST_POSTGRES']
  if (external) {
    project.provide('postgresUrl', external)
    return async () => {}
  }
  const directory = await mkdtemp(join(tmpdir(), 'zerosum-test-'))
  const server = await startEmbedded(directory, process.env['ZEROSUM_TEST_POSTGRES_BIN'])
  project.provide('postgresUrl', server.url('postgres'))
  return async () => {
    await server.stop()
    await rm(directory, { recursive: true, force: true })
  }
}
