import { COUNTED_MAX } from '../async/requestQueue.ts'
import { countDead, countQueued } from '../async/sql/queue.ts'
import { connect, type Sql } from '../postgres/connect.ts'
import { SERVER_VERSION_MIN, schemaOf } from '../postgres/migrate.ts'
import { connectionsOf } from '../postgres/nodeConnections.ts'
import { countNodes } from '../relocation/presence.ts'
import { placeOf } from '../shards/awaitShards.ts'
import { readStored } from '../shards/storedMap.ts'
import { type Finding, type Notes, notesOn, reasonOf } from './finding.ts'

/** The newest PostgreSQL on which this is tested. */
const SERVER_VERSION_TESTED = 18
const ANSWER_MS_MAX = 5_000
const SKEW_MS_GOOD = 500
const SKEW_MS_MAX = 5_000
const LAG_SECONDS_GOOD = 10
const LAG_BYTES_GOOD = 64 * 2 ** 20
const APP_ROLE = 'zerosum_app'
/** What may only be appended to, by the functions that see to it. */
const LEDGER_TABLES = ['accounts', 'blocks', 'chain_head', 'entries', 'requests', 'shard_map']

export type ServersAsked = {
  /** By shard number. */
  readonly urls: readonly string[]
  /** The server is the embedded one: what concerns a server of one's own is left out. */
  readonly isEmbedded: boolean
  /** Requests that are posted later wait in Kafka: nobody looks at those in the tables. */
  readonly hasKafka: boolean
  /** This machine's clock, in milliseconds since 1970. */
  readonly nowMs?: () => number
}

/** All databases, each by itself; then whether their servers have room for the connections of the nodes that run. */
export async function checkServers({ urls, ...asked }: ServersAsked): Promise<Finding[]> {
  const looked = await Promise.all(urls.map((url, shard) => checkShard(url, shard, asked)))
  const nodes = looked[0]?.nodes ?? 0
  const rooms = looked.flatMap(({ room }, shard) => (room ? [{ shard, ...room }] : []))
  const servers = [...new Set(rooms.map(({ server }) => server))].map((server) => checkRoom(rooms, server, nodes))
  return [...looked.flatMap(({ findings }) => findings), ...servers.flat()]
}

/** How many connections may be made to a server. */
type Room = { readonly server: string; readonly connections: number }

async function checkShard(
  url: string,
  shard: number,
  { isEmbedded, hasKafka, nowMs = Date.now }: Omit<ServersAsked, 'urls'>,
): Promise<{ findings: readonly Finding[]; room?: Room; nodes?: number }> {
  const notes = notesOn(`shard ${shard}`)
  const { findings } = notes
  const sql = connect(url, { max: 1, role: null, name: 'zerosum doctor', answerMsMax: ANSWER_MS_MAX })
  try {
    await sql`SELECT 1` // to connect takes its time, and says nothing of the clock
    if (!(await checkServer(sql, notes))) return { findings }
    await checkClock(sql, notes, nowMs)
    await checkDurability(sql, notes)
    if (!isEmbedded) await checkCopies(sql, notes)
    const [table] = await sql<{ there: boolean }[]>`SELECT to_regclass('chain_head') IS NOT NULL AS there`
    if (!table?.there) notes.warn('the database has no schema yet', 'start a node, or run zerosum migrate')
    else if (await checkRoles(sql, notes, isEmbedded)) {
      await checkSchema(sql, shard, notes)
      if (hasKafka) await checkLeftOver(sql, notes)
    }
    return { findings, room: await roomOf(sql), ...(shard === 0 ? { nodes: await countNodes(sql) } : {}) }
  } catch (error) {
    const place = findings.length === 0 ? `${placeOf(url)} does not answer: ` : 'it can not be looked at: '
    notes.fail(
      `${place}${reasonOf(error)}`,
      'start the server, or look at its item in ZEROSUM_SHARDS and at what is between. Money on this shard waits; the other shards go on',
    )
    return { findings }
  } finally {
    await sql.end({ timeout: 1 })
  }
}

/** What waits in a table that nobody looks at, because it was Kafka's turn since, or was set aside there. */
async function checkLeftOver(sql: Sql, notes: Notes): Promise<void> {
  const [table] = await sql<{ there: boolean }[]>`SELECT to_regclass('queued_requests') IS NOT NULL AS there`
  if (!table?.there) return
  const count = await countQueued(sql, COUNTED_MAX)
  if (count > 0) {
    notes.warn(
      `${count} requests of before there was Kafka wait here, and are not posted`,
      'run one node without KAFKA_BROKERS until they are; their clients see them as pending',
    )
  }
  const dead = await countDead(sql, COUNTED_MAX)
  if (dead > 0) {
    notes.warn(
      `${dead} requests of before there was Kafka are set aside here, and are not posted`,
      'look at them by zerosum dlq list, run without KAFKA_BROKERS; their clients see them as pending',
    )
  }
}

/** @returns whether it is worth it to look further */
async function checkServer(sql: Sql, notes: Notes): Promise<boolean> {
  const [row] = await sql<{ major: number; version: string; standby: boolean; bytes: bigint; readonly: string }[]>`
    SELECT current_setting('server_version_num')::int / 10000 AS major, current_setting('server_version') AS version,
           pg_is_in_recovery() AS standby, pg_database_size(current_database()) AS bytes,
           current_setting('default_transaction_read_only') AS readonly`
  if (!row) throw new Error('the server says nothing of itself')
  const says = `PostgreSQL ${row.version}`
  if (row.major < SERVER_VERSION_MIN) {
    notes.fail(`${says} is too old`, `upgrade it: this needs ${SERVER_VERSION_MIN} or newer`)
    return false
  }
  if (row.major > SERVER_VERSION_TESTED) notes.warn(`${says} is newer than what this is tested on`, 'try it out first')
  else notes.ok(`${says}; the database has ${Math.ceil(Number(row.bytes) / 2 ** 20)} MiB`)
  if (row.standby) {
    notes.fail('it is a replica, and takes no writes', 'name the primary in ZEROSUM_SHARDS, or promote this one')
    return false
  }
  if (row.readonly === 'on') notes.fail('default_transaction_read_only is on', 'turn it off for this database and role')
  return true
}

/** A node takes the times of blocks from its own clock. */
async function checkClock(sql: Sql, notes: Notes, nowMs: () => number): Promise<void> {
  const beforeMs = nowMs()
  const [row] = await sql<{ ms: number }[]>`
    SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float8 AS ms`
  const afterMs = nowMs()
  // The answer was made some time in between.
  const skewMs = Math.max(0, beforeMs - (row?.ms ?? 0), (row?.ms ?? 0) - afterMs)
  const says = `its clock is ${skewMs < 1 ? 'that of this machine' : `${Math.round(skewMs)} ms away from that of this machine`}`
  const advice = 'have all machines keep time by NTP: times of blocks come from the nodes'
  if (skewMs > SKEW_MS_MAX) notes.fail(says, advice)
  else if (skewMs > SKEW_MS_GOOD) notes.warn(says, advice)
  else notes.ok(says)
}

/** What makes that a block which was answered stays. */
async function checkDurability(sql: Sql, notes: Notes): Promise<void> {
  const rows = await sql<{ name: string; setting: string }[]>`SELECT name, setting FROM pg_settings`
  const settings = new Map(rows.map(({ name, setting }) => [name, setting]))
  const before = notes.findings.length
  for (const name of ['fsync', 'full_page_writes']) {
    if (settings.get(name) !== 'on')
      notes.fail(`${name} is off: a crash destroys data`, `set ${name} = on, and verify the books`)
  }
  const commit = settings.get('synchronous_commit')
  if (commit === 'off') {
    notes.fail(
      'synchronous_commit is off: answered transfers are lost in a crash',
      'set it to on, for the role and database too',
    )
  } else if (commit === 'local' && settings.get('synchronous_standby_names') !== '') {
    notes.warn('synchronous_commit is local: replicas are not waited for', 'set it to on')
  }
  // A node sets the other time limits itself, but older servers don't know this one.
  if ((settings.get('transaction_timeout') ?? '0') !== '0') {
    notes.fail('transaction_timeout is set: it may cut a block', 'set it to 0 for this role and database')
  }
  if (settings.get('data_checksums') === 'off') {
    notes.warn('data checksums are off: what the disk spoils is not noticed', 'turn them on with pg_checksums')
  }
  if (settings.get('autovacuum') === 'off') notes.warn('autovacuum is off: tables will grow', 'turn it on')
  if (notes.findings.length === before)
    notes.ok('what is committed is on disk (fsync, full_page_writes, synchronous_commit)')
}

type Replica = { name: string; state: string | null; sync: string | null; seconds: number | null; bytes: number | null }

async function checkCopies(sql: Sql, notes: Notes): Promise<void> {
  const [settings] = await sql<{ level: string; archive: string; standbys: string }[]>`
    SELECT current_setting('wal_level') AS level, current_setting('archive_mode') AS archive,
           current_setting('synchronous_standby_names') AS standbys`
  const replicas = await sql<Replica[]>`
    SELECT application_name AS name, state, sync_state AS sync, extract(epoch FROM replay_lag)::float8 AS seconds,
           pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::float8 AS bytes
    FROM pg_stat_replication ORDER BY application_name`
  const slots = await sql<{ slot_name: string }[]>`SELECT slot_name FROM pg_replication_slots WHERE NOT active`
  if (settings?.level === 'minimal') {
    notes.warn('wal_level is minimal: no replica and no backup to a point in time', 'set wal_level = replica')
  }
  if (replicas.length === 0) {
    const advice = 'add a replica, or archive the WAL: with the only disk goes the money'
    if (settings?.archive === 'off') notes.warn('no replica follows it, and the WAL is not archived', advice)
    else notes.ok('no replica follows it; the WAL is archived')
  }
  for (const { name, state, sync, seconds, bytes } of replicas) {
    if (state === null) {
      notes.warn(
        `a replica follows it; how far, this role may not see`,
        'GRANT pg_monitor to the role of ZEROSUM_SHARDS',
      )
      continue
    }
    const says = `replica ${name}: ${state}, ${sync}, ${Math.round(seconds ?? 0)} s and ${Math.round((bytes ?? 0) / 2 ** 20)} MiB behind`
    const isLate = (seconds ?? 0) > LAG_SECONDS_GOOD || (bytes ?? 0) > LAG_BYTES_GOOD
    if (state !== 'streaming' || isLate) notes.warn(says, 'look at the replica, its disk, and the way to it')
    else notes.ok(says)
  }
  const isSynchronous = replicas.some(({ sync }) => sync === 'sync' || sync === 'quorum')
  if (settings?.standbys && replicas.every(({ state }) => state !== null) && !isSynchronous) {
    notes.fail('synchronous_standby_names names replicas, and none is there: commits wait', 'start one, or take it out')
  }
  for (const { slot_name: slot } of slots) {
    notes.warn(
      `nobody uses the replication slot ${slot}: the WAL is kept for it, until the disk is full`,
      'start its reader, or drop it',
    )
  }
}

async function checkSchema(sql: Sql, shard: number, notes: Notes): Promise<void> {
  const { done, missing, unknown: ahead } = (await schemaOf(sql)) ?? { done: [], missing: [], unknown: [] }
  const [unknown] = ahead
  if (unknown) notes.fail(`it has migration ${unknown}, which this version does not know`, 'run a newer Zerosum')
  else if (missing.length > 0) {
    notes.warn(`the schema lacks ${missing.join(', ')}`, 'run zerosum migrate; a node does so when it starts')
  } else notes.ok(`the schema is up to date (${done.at(-1)})`)
  const { shard: number } = await readStored(sql)
  if (number !== undefined && number !== shard) {
    notes.fail(`this is the database of shard ${number}`, 'list the shards in their first order in ZEROSUM_SHARDS')
  }
}

/** @returns whether it may look further */
async function checkRoles(sql: Sql, notes: Notes, isEmbedded: boolean): Promise<boolean> {
  const [row] = await sql<
    { name: string; superuser: boolean; role: boolean; member: boolean | null; owner: boolean }[]
  >`
    SELECT current_user AS name, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser,
           EXISTS (SELECT FROM pg_roles WHERE rolname = ${APP_ROLE}) AS role,
           (SELECT pg_has_role(oid, 'MEMBER') FROM pg_roles WHERE rolname = ${APP_ROLE}) AS member,
           (SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'chain_head'::regclass) AS owner`
  if (!row?.role) {
    notes.fail(`the role ${APP_ROLE} is not there`, 'run zerosum migrate')
    return false
  }
  if (row.superuser && !isEmbedded) {
    notes.warn(`${row.name} is a superuser`, 'log in as a role that owns this database and nothing else')
  }
  const before = notes.findings.length
  if (!row.member)
    notes.fail(`${row.name} may not work as ${APP_ROLE}`, `GRANT ${APP_ROLE} TO the role of ZEROSUM_SHARDS`)
  if (!row.owner)
    notes.fail(`${row.name} does not own the schema`, 'log in as the role that ran the migrations: later ones need it')
  const may = await sql<{ name: string; what: string }[]>`
    SELECT t.name, string_agg(p.name, ', ' ORDER BY p.name) AS what
    FROM unnest(${`{${LEDGER_TABLES.join(',')}}`}::text[]) AS t (name), unnest('{INSERT,UPDATE,DELETE,TRUNCATE}'::text[]) AS p (name)
    WHERE to_regclass(t.name) IS NOT NULL AND has_table_privilege(${APP_ROLE}, t.name, p.name)
    GROUP BY t.name ORDER BY t.name`
  for (const { name, what } of may) {
    notes.fail(
      `${APP_ROLE} may ${what} on ${name}`,
      `REVOKE ${what} ON ${name} FROM ${APP_ROLE}: the ledger is written by append_block`,
    )
  }
  const [executable] = await sql<{ may: boolean | null }[]>`
    SELECT bool_and(has_function_privilege(${APP_ROLE}, oid, 'EXECUTE')) AS may FROM pg_proc
    WHERE proname IN ('append_block', 'lock_head') AND pronamespace = 'public'::regnamespace`
  if (!executable?.may)
    notes.fail(`${APP_ROLE} may not append blocks`, `GRANT EXECUTE ON FUNCTION append_block, lock_head TO ${APP_ROLE}`)
  if (notes.findings.length === before) notes.ok(`${row.name} owns the schema, ${APP_ROLE} appends to it and no more`)
  return row.owner || row.member === true
}

async function roomOf(sql: Sql): Promise<Room> {
  const [row] = await sql<
    { most: number; kept: number; role: number; database: number; started: string; port: string }[]
  >`
    SELECT current_setting('max_connections')::int AS most,
           current_setting('superuser_reserved_connections')::int
             + coalesce(current_setting('reserved_connections', true), '0')::int AS kept,
           (SELECT rolconnlimit FROM pg_roles WHERE rolname = session_user) AS role,
           (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS database,
           pg_postmaster_start_time()::text AS started, current_setting('port') AS port`
  if (!row) throw new Error('the server does not say how many connections it takes')
  const limits = [row.most - row.kept, row.role, row.database].filter((limit) => limit >= 0)
  // Databases of one server share its connections. Which server it is, only superusers may ask by its name.
  return { server: `${row.started} ${row.port}`, connections: Math.min(...limits) }
}

function checkRoom(rooms: readonly (Room & { shard: number })[], server: string, running: number): readonly Finding[] {
  const mine = rooms.filter((room) => room.server === server)
  const shards = mine.map(({ shard }) => shard)
  const notes = notesOn(shards.length === 1 ? `shard ${shards[0]}` : `shards ${shards.join(', ')}`)
  const connections = Math.min(...mine.map((room) => room.connections))
  const nodes = Math.max(1, running)
  const needed = connectionsOf(nodes, shards)
  const says = `${connections} connections; ${nodes === 1 ? 'a node takes' : `${nodes} nodes take`} up to ${needed}`
  const advice = `set max_connections to ${connectionsOf(nodes + 2, shards)} or more: then there is room for two nodes more`
  if (needed > connections) notes.fail(says, advice)
  else if (connectionsOf(nodes + 1, shards) > connections)
    notes.warn(`${says}; not one node more, as in a rolling restart`, advice)
  else notes.ok(says)
  return notes.findings
}
