import { appendFile, chown, cp, mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import type { Finding } from '../../src/doctor/finding.ts'
import { checkServers } from '../../src/doctor/shards.ts'
import { readVitals } from '../../src/ledger/sql/vitals.ts'
import { connect } from '../../src/postgres/connect.ts'
import { type EmbeddedServer, startEmbedded } from '../../src/postgres/embedded.ts'
import { presenceName } from '../../src/relocation/presence.ts'
import { prepareShards } from '../../src/shards/map.ts'
import { killCluster } from '../postgres/cluster.ts'
import { emptyDatabase } from '../support/database.ts'

let urls: string[]
beforeAll(async () => {
  urls = [await emptyDatabase(), await emptyDatabase()]
  await prepareShards(urls)
})

const look = (asked: readonly string[] = urls) => checkServers({ urls: asked, isEmbedded: false, hasKafka: false })
const nameOf = (url: string) => new URL(url).pathname.slice(1)

/** What is not as it should be: `fail shard 0: …`, without what always is so on the tests' server. */
function faultsOf(findings: readonly Finding[]): string[] {
  return findings
    .filter(({ level }) => level !== 'ok')
    .map(({ level, about, says }) => `${level} ${about}: ${says}`)
    .filter((text) => !/is a superuser|no replica follows it, and/.test(text))
}

/** Changes something as a superuser, and back when the test is over. */
async function change(url: string, statement: string, back: string): Promise<void> {
  const sql = connect(url, { max: 1, role: null })
  try {
    await sql.unsafe(statement)
  } finally {
    await sql.end()
  }
  onTestFinished(async () => {
    const sql = connect(url, { max: 1, role: null })
    await sql.unsafe(back).finally(() => sql.end())
  })
}

test('what waits in a table while Kafka is the queue, or was set aside there, is a warning, with how many they are', async () => {
  const [url = ''] = urls
  await change(
    url,
    `INSERT INTO queued_requests (id, message, due_us, dead_us, reason)
     SELECT gen_random_uuid(), '', n, CASE WHEN n > 3 THEN n END, CASE WHEN n > 3 THEN 'poison' END FROM generate_series(1, 5) AS n`,
    'DELETE FROM queued_requests',
  )
  const asked = { urls, isEmbedded: false }
  expect(faultsOf(await checkServers({ ...asked, hasKafka: false }))).toEqual([])
  expect(faultsOf(await checkServers({ ...asked, hasKafka: true }))).toEqual([
    'warn shard 0: 3 requests of before there was Kafka wait here, and are not posted',
    'warn shard 0: 2 requests of before there was Kafka are set aside here, and are not posted',
  ])
})

describe('the databases', () => {
  test('are well when they are as a node makes them; what an operator should know is a warning with its advice', async () => {
    const findings = await look()
    expect(faultsOf(findings)).toEqual([])
    expect(findings.filter(({ level }) => level === 'warn').every(({ advice }) => advice)).toBe(true)
    const says = findings.map((one) => `${one.about}: ${one.says}`).join('\n')
    for (const shard of [0, 1]) {
      expect(says).toMatch(new RegExp(`^shard ${shard}: PostgreSQL \\d+\\.\\d+`, 'm'))
      expect(says).toMatch(new RegExp(`^shard ${shard}: the schema is up to date \\(\\d{4}_`, 'm'))
      expect(says).toMatch(new RegExp(`^shard ${shard}: its clock`, 'm'))
      expect(says).toMatch(new RegExp(`^shard ${shard}: .* owns the schema`, 'm'))
    }
    expect(says).toMatch(/^shards 0, 1: \d+ connections; a node takes up to 41/m)
  })

  test.each([
    ['a little', 'warn', 4_000],
    ['far', 'fail', 60_000],
  ])("whose clock is %s away from this machine's, ahead or behind, are told of: %s", async (_, level, ms) => {
    const [url = ''] = urls
    for (const awayMs of [ms, -ms]) {
      const nowMs = () => Date.now() + awayMs
      expect(faultsOf(await checkServers({ urls: [url], isEmbedded: false, hasKafka: false, nowMs }))).toEqual([
        expect.stringMatching(`^${level} shard 0: its clock is [1-9]\\d+ ms away from that of this machine$`),
      ])
    }
  })

  test('that are new are a warning', async () => {
    expect(faultsOf(await look([await emptyDatabase()]))).toEqual(['warn shard 0: the database has no schema yet'])
  })

  test('that do not answer, or are on the place of another, fail, and the rest is looked at', async () => {
    const [first = '', second = ''] = urls
    expect(faultsOf(await look([second, 'postgres://me:secret@127.0.0.1:9/nowhere', first]))).toEqual([
      'fail shard 0: this is the database of shard 1',
      'fail shard 1: 127.0.0.1:9/nowhere does not answer: connect ECONNREFUSED 127.0.0.1:9',
      'fail shard 2: this is the database of shard 0',
    ])
  })

  test.each([
    ['synchronous_commit = off', /fail shard 1: synchronous_commit is off: answered transfers are lost/],
    ['default_transaction_read_only = on', /fail shard 1: default_transaction_read_only is on/],
  ])('with %s fail', async (setting, expected) => {
    const url = urls[1] ?? ''
    const [name = ''] = setting.split(' ')
    await change(
      url,
      `ALTER DATABASE ${nameOf(url)} SET ${setting}`,
      `BEGIN READ WRITE; ALTER DATABASE ${nameOf(url)} RESET ${name}; COMMIT`,
    )
    expect(faultsOf(await look()).join('\n')).toMatch(expected)
  })

  test('of which the application may write the ledger fail', async () => {
    const url = urls[1] ?? ''
    await change(
      url,
      'GRANT INSERT, DELETE ON entries TO zerosum_app',
      'REVOKE INSERT, DELETE ON entries FROM zerosum_app',
    )
    expect(faultsOf(await look())).toEqual(['fail shard 1: zerosum_app may DELETE, INSERT on entries'])
  })

  test('that are logged in to by a role that may nothing there fail', async () => {
    const [url = ''] = urls
    const name = `stranger_${nameOf(url)}`
    await change(url, `CREATE ROLE ${name} LOGIN PASSWORD 'secret'`, `DROP ROLE ${name}`)
    const theirs = Object.assign(new URL(url), { username: name, password: 'secret' }).href
    const faults = faultsOf(await look([theirs]))
    expect(faults).toContain(`fail shard 0: ${name} may not work as zerosum_app`)
    expect(faults).toContain(`fail shard 0: ${name} does not own the schema`)
  })

  test('with migrations of a newer version fail, and those that lack some are a warning', async () => {
    const [url = ''] = urls
    const add = "INSERT INTO schema_migrations (name) VALUES ('9999_later.sql')"
    await change(url, add, "DELETE FROM schema_migrations WHERE name = '9999_later.sql'")
    expect(faultsOf(await look())).toEqual([
      'fail shard 0: it has migration 9999_later.sql, which this version does not know',
    ])
    const other = urls[1] ?? ''
    const old = "SELECT max(name) AS name FROM schema_migrations WHERE name < '9'"
    const sql = connect(other, { max: 1, role: null })
    const [{ name: last } = { name: '' }] = await sql.unsafe<{ name: string }[]>(old)
    await sql.end()
    await change(
      other,
      `DELETE FROM schema_migrations WHERE name = '${last}'`,
      `INSERT INTO schema_migrations (name) VALUES ('${last}')`,
    )
    expect(faultsOf(await look())).toContain(`warn shard 1: the schema lacks ${last}`)
  })

  test('that take fewer connections than the nodes that run need fail; without room for one node more they are a warning', async () => {
    const [url = ''] = urls
    const limit = (count: number) => `ALTER DATABASE ${nameOf(url)} CONNECTION LIMIT ${count}`
    await change(url, limit(45), limit(-1))
    expect(faultsOf(await look())).toEqual([
      'warn shards 0, 1: 45 connections; a node takes up to 41; not one node more, as in a rolling restart',
    ])
    const nodes = [1, 2].map(() => connect(url, { max: 1, role: null, name: presenceName(2) }))
    onTestFinished(async () => {
      await Promise.all(nodes.map((node) => node.end()))
    })
    for (const node of nodes) await node`SELECT 1`
    expect(faultsOf(await look())).toEqual(['fail shards 0, 1: 45 connections; 2 nodes take up to 78'])
  })

  test('whose server keeps the log for a replica that is gone are a warning', async () => {
    const [url = ''] = urls
    const slot = `doctor_${nameOf(url)}`
    await change(
      url,
      `SELECT pg_create_physical_replication_slot('${slot}')`,
      `SELECT pg_drop_replication_slot('${slot}')`,
    )
    expect(faultsOf(await look()).join('\n')).toContain(`nobody uses the replication slot ${slot}`)
  })
})

test('a server that is set up to lose data fails', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'zerosum-doctor-'))
  const server = await startEmbedded(directory, process.env['ZEROSUM_TEST_POSTGRES_BIN'], {
    ...{ fsync: 'off', full_page_writes: 'off', autovacuum: 'off', shared_buffers: '32MB' },
    ...{ wal_level: 'minimal', max_wal_senders: '0' },
  })
  onTestFinished(async () => {
    await server.stop()
    await rm(directory, { recursive: true, force: true })
  })
  expect(faultsOf(await look([server.url('postgres')]))).toEqual([
    'fail shard 0: fsync is off: a crash destroys data',
    'fail shard 0: full_page_writes is off: a crash destroys data',
    'warn shard 0: autovacuum is off: tables will grow',
    'warn shard 0: wal_level is minimal: no replica and no backup to a point in time',
    'warn shard 0: the database has no schema yet',
  ])
})

describe('a replica', () => {
  test('shows with its lag on its primary, and fails where a shard should be', async () => {
    const [primary, replica] = await replicated()
    const url = primary.url('shard')
    const until = async (expected: RegExp) => {
      for (;;) {
        const text = (await look([url])).map((one) => `${one.level} ${one.says}`).join('\n')
        if (expected.test(text)) return text
        await sleep(100)
      }
    }
    await until(/^ok replica walreceiver: streaming, async, 0 s and 0 MiB behind$/m)
    expect(faultsOf(await look([replica.url('shard')])).join('\n')).toContain(
      'fail shard 0: it is a replica, and takes no writes',
    )
    await expectLagInVitals(url, replica.url('postgres'))
  })

  /** What nodes tell Prometheus: how far the replica is behind, when nothing is applied there any more; nothing without the right to see it. */
  async function expectLagInVitals(primaryUrl: string, replicaUrl: string): Promise<void> {
    await prepareShards([primaryUrl])
    const owner = connect(primaryUrl, { max: 1, role: null })
    const node = connect(primaryUrl, { max: 1 })
    const replica = connect(replicaUrl, { max: 1, role: null })
    onTestFinished(async () => {
      for (const sql of [owner, node, replica]) await sql.end()
    })
    expect((await readVitals(node)).replicaLagSeconds).toBeUndefined()
    await owner.unsafe('GRANT pg_read_all_stats TO zerosum_app')
    onTestFinished(async () => void (await owner.unsafe('REVOKE pg_read_all_stats FROM zerosum_app')))
    expect((await readVitals(node)).replicaLagSeconds).toBeGreaterThanOrEqual(0)
    await replica.unsafe('SELECT pg_wal_replay_pause()')
    for (let lag = 0; lag < 2; lag = (await readVitals(node)).replicaLagSeconds ?? 0) {
      await owner.unsafe('SELECT pg_logical_emit_message(false, $$test$$, $$something$$)')
      await sleep(100)
    }
  }

  /** A primary with a replica, made by a copy of its files. */
  async function replicated(): Promise<[EmbeddedServer, EmbeddedServer]> {
    const directory = await mkdtemp(join(tmpdir(), 'zerosum-doctor-'))
    const [one, other] = [join(directory, 'primary'), join(directory, 'replica')]
    onTestFinished(() => rm(directory, { recursive: true, force: true }))
    const start = async (place: string) => {
      const server = await startEmbedded(place, process.env['ZEROSUM_TEST_POSTGRES_BIN'], { shared_buffers: '32MB' })
      onTestFinished(async () => {
        await killCluster(place)
        await server.stop().catch(() => {})
      })
      return server
    }
    const first = await startEmbedded(one, process.env['ZEROSUM_TEST_POSTGRES_BIN'], { shared_buffers: '32MB' })
    await first.createDatabase('shard')
    await first.stop()
    await cp(one, other, { recursive: true, preserveTimestamps: true })
    const primary = await start(one)
    const cluster = join(other, 'postgres')
    const { uid, gid } = await stat(join(one, 'postgres'))
    const { port, password } = new URL(primary.url('postgres'))
    await writeFile(join(cluster, 'standby.signal'), '')
    const conninfo = `host=127.0.0.1 port=${port} user=postgres password=${password}`
    await appendFile(join(cluster, 'postgresql.auto.conf'), `primary_conninfo = '${conninfo}'\n`)
    await own(other, uid, gid)
    return [primary, await start(other)]
  }
})

/** Copies belong to whoever made them; PostgreSQL may run as another user. */
async function own(directory: string, uid: number, gid: number): Promise<void> {
  await chown(join(directory, 'postgres'), uid, gid)
  for (const entry of await readdir(join(directory, 'postgres'), { recursive: true })) {
    await chown(join(directory, 'postgres', entry), uid, gid)
  }
  for (const file of ['password', 'postgres.log']) await chown(join(directory, file), uid, gid)
}
