import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, onTestFinished, test } from 'vitest'
import { seededRandom } from '../../bench/load.ts'
import { connect } from '../../src/postgres/connect.ts'
import { seedFor } from '../ledger/seed.ts'
import { migratedDatabase } from '../support/database.ts'
import { killEmbedded } from '../support/node.ts'
import { CALLERS, expectAnsweredAreThere, expectBooks, expectVerified, retryUnanswered, Stage, stage } from './stage.ts'

describe('kill -9', () => {
  test('at any moment loses no transfer that was answered, and repeats none', async () => {
    const random = seededRandom(seedFor('kill -9 of the node'))
    const one = await stage({ databaseUrl: await migratedDatabase() }, random)
    for (let round = 1; round <= 3; round++) {
      const before = one.sent.length
      await one.load()
      await sleep(random() * 400)
      await one.kill()
      await one.rest()
      await one.start()
      await expectAnsweredAreThere(one, one.sent.slice(before))
      await retryUnanswered(one, one.sent.slice(before))
    }
    await expectBooks(one)
    expect(await one.node.stop()).toBe(0)
  })

  test('of one node does not disturb the other, which knows all that the dead one answered', async () => {
    const random = seededRandom(seedFor('kill -9 of one of two nodes'))
    const databaseUrl = await migratedDatabase()
    const [one, other] = [await stage({ databaseUrl }, random), await stage({ databaseUrl }, random)]
    await Promise.all([one.load(), other.load()])
    await sleep(random() * 500)
    await one.kill()
    await one.rest()
    await other.answers(other.answered + 5 * CALLERS)
    await other.rest()
    one.moveTo(other)
    for (const each of [one, other]) {
      await expectAnsweredAreThere(each, each.sent)
      await retryUnanswered(each, each.sent)
      await expectBooks(each)
    }
    expect(await other.node.stop()).toBe(0)
  })

  test('of the node and its embedded PostgreSQL loses nothing that was answered', async () => {
    const random = seededRandom(seedFor('kill -9 of the node and its PostgreSQL'))
    const dataDir = await mkdtemp(join(tmpdir(), 'zerosum-crash-'))
    const one = new Stage({ dataDir }, random)
    onTestFinished(async () => {
      await one.kill()
      await killEmbedded(dataDir).catch(() => {})
      await rm(dataDir, { recursive: true, force: true })
    })
    await one.start()
    for (const order of ['node first', 'PostgreSQL first'] as const) {
      const before = one.sent.length
      await one.load()
      await sleep(random() * 500)
      if (order === 'node first') await one.kill()
      expect(await killEmbedded(dataDir)).toBeGreaterThan(1)
      await one.kill()
      await one.rest()
      await one.start()
      await expectAnsweredAreThere(one, one.sent.slice(before))
      await retryUnanswered(one, one.sent.slice(before))
    }
    await expectBooks(one)
    await expectVerified(one)
    expect(await one.node.stop()).toBe(0)
  })
})

test('a node that stalls under load does not stop the other for long, and does no harm when it wakes', async () => {
  const random = seededRandom(seedFor('a node that stalls'))
  const databaseUrl = await migratedDatabase()
  const [one, other] = [await stage({ databaseUrl }, random), await stage({ databaseUrl }, random)]
  await Promise.all([one.load(), other.load()])
  await sleep(random() * 300)
  process.kill(one.node.pid, 'SIGSTOP')
  // If it has the chain's lock, PostgreSQL takes it away after five seconds.
  await other.answers(other.answered + 5 * CALLERS)
  process.kill(one.node.pid, 'SIGCONT')
  await one.answers(one.answered + 2 * CALLERS)
  await Promise.all([one.rest(), other.rest()])
  for (const each of [one, other]) {
    await expectAnsweredAreThere(each, each.sent)
    await retryUnanswered(each, each.sent)
    await expectBooks(each)
  }
  await expectVerified(one)
  expect(await Promise.all([one.node.stop(), other.node.stop()])).toEqual([0, 0])
})

test('connections to PostgreSQL that break under load lose and repeat nothing', async () => {
  const random = seededRandom(seedFor('connections that break'))
  const databaseUrl = await migratedDatabase()
  const one = await stage({ databaseUrl }, random)
  const admin = connect(databaseUrl, { max: 1, role: null })
  await one.load()
  for (let i = 0; i < 12; i++) {
    await sleep(random() * 150)
    await admin`
      SELECT pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'zerosum%'`
  }
  await admin.end()
  await one.answers(one.answered + 5 * CALLERS)
  await one.rest()
  for (const { answer } of one.sent) expect.soft([201, 503], answer?.text).toContain(answer?.status)
  await expectAnsweredAreThere(one, one.sent)
  await retryUnanswered(one, one.sent)
  await expectBooks(one)
  await expectVerified(one)
  expect(await one.node.stop()).toBe(0)
})
