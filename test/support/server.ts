import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestProject } from 'vitest/node'
import { connect } from '../../src/postgres/connect.ts'
import { startEmbedded } from '../../src/postgres/embedded.ts'
import { migrate } from '../../src/postgres/migrate.ts'

declare module 'vitest' {
  interface ProvidedContext {
    /** The maintenance database of the server that the tests share. */
    postgresUrl: string
    /** A database there that has the schema of a shard, to be copied: that takes a third of the time of the migrations. */
    migratedTemplate: string
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
    project.provide('migratedTemplate', await makeTemplate(external))
    return async () => {}
  }
  const directory = await mkdtemp(join(tmpdir(), 'zerosum-test-'))
  const server = await startEmbedded(directory, process.env['ZEROSUM_TEST_POSTGRES_BIN'])
  project.provide('postgresUrl', server.url('postgres'))
  project.provide('migratedTemplate', await makeTemplate(server.url('postgres')))
  return async () => {
    await server.stop()
    await rm(directory, { recursive: true, force: true })
  }
}

/** Makes a database as a shard's is, with nothing in it. Nobody may be connected to it while it is copied. */
async function makeTemplate(adminUrl: string): Promise<string> {
  const name = `test_template_${randomBytes(6).toString('hex')}`
  const admin = connect(adminUrl, { max: 1, role: null })
  await admin`CREATE DATABASE ${admin(name)}`
  await admin.end()
  const url = new URL(adminUrl)
  url.pathname = `/${name}`
  const sql = connect(url.href, { max: 1, role: null })
  await migrate(sql)
  await sql.end()
  return name
}
