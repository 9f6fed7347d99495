import { type Config, ConfigError } from '../config.ts'
import type { Databases } from '../databases.ts'
import { checkShards } from '../shards/map.ts'
import { type Finding, notesOn, reasonOf } from './finding.ts'
import { checkKafka } from './kafka.ts'
import { checkDisk, checkNode } from './machine.ts'
import { checkRedis } from './redis.ts'
import { checkServers, type ServersAsked } from './shards.ts'

export type DoctorOptions = {
  /** @throws ConfigError */
  readonly readConfig: () => Config
  /** The databases, shared with a node that runs. */
  readonly openDatabases: (config: Config) => Promise<Databases>
  readonly json: boolean
}

/** `zerosum doctor`: looks at all that a node depends on, changes nothing, and prints it. @returns the exit code: 1 if something fails */
export async function doctor({ readConfig, openDatabases, json }: DoctorOptions): Promise<number> {
  const findings = await examine(readConfig, openDatabases)
  const isWell = findings.every(({ level }) => level !== 'fail')
  if (json) console.log(JSON.stringify({ ok: isWell, findings }, null, 2))
  else for (const finding of findings) console.log(textOf(finding))
  return isWell ? 0 : 1
}

async function examine(
  readConfig: DoctorOptions['readConfig'],
  openDatabases: DoctorOptions['openDatabases'],
): Promise<Finding[]> {
  const node = await checkNode()
  const settings = notesOn('settings')
  let config: Config
  try {
    config = readConfig()
    settings.ok('they can be read')
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    for (const mistake of error.mistakes) settings.fail(mistake, 'see README.md, Settings')
    return [...node, ...settings.findings]
  }
  const { redis, kafkaBrokers: brokers, kafkaSecurity: security, kafkaPartitions: partitions, dataDir } = config
  const isEmbedded = config.shardUrls.length === 0
  const [databases, ...services] = await Promise.all([
    checkDatabases(() => openDatabases(config), { isEmbedded, hasKafka: brokers.length > 0 }),
    redis ? checkRedis(redis) : [],
    brokers.length === 0 ? [] : checkKafka({ brokers, security, partitions }),
  ])
  const disk = isEmbedded ? await checkDisk(dataDir) : []
  return [...node, ...settings.findings, ...databases, ...disk, ...services.flat()]
}

async function checkDatabases(
  open: () => Promise<Databases>,
  settings: Pick<ServersAsked, 'isEmbedded' | 'hasKafka'>,
): Promise<Finding[]> {
  const list = notesOn('shards')
  let databases: Databases
  try {
    databases = await open()
  } catch (error) {
    list.fail(
      `the embedded PostgreSQL cannot be started: ${reasonOf(error)}`,
      'look at postgres.log in the data directory',
    )
    return [...list.findings]
  }
  try {
    const { urls } = databases
    const findings = await checkServers({ urls, ...settings })
    // What fails by itself need not be said again of the list.
    if (findings.some(({ level }) => level === 'fail')) return findings
    await checkShards(urls).then(
      () => list.ok(`the list of ${urls.length === 1 ? '1 database' : `${urls.length} databases`} is right`),
      (error: unknown) => list.fail(reasonOf(error), 'put ZEROSUM_SHARDS right'),
    )
    return [...findings, ...list.findings]
  } finally {
    await databases.close()
  }
}

function textOf({ level, about, says, advice }: Finding): string {
  return `${level.padEnd(4)}  ${about}: ${says}${advice === undefined ? '' : `\n        ${advice}`}`
}
