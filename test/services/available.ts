import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { describe, test } from 'vitest'
import { java } from './kafka.ts'
import { fetchKafkaJars, hasKafkaJars } from './kafkaJars.ts'

const run = promisify(execFile)
const JAVA_MIN = 17

export type Service = 'redis' | 'kafka' | 'prometheus' | 'alertmanager' | 'haproxy'

/** How to find out why a service can't be had. */
const WHY: Readonly<Record<Service, () => Promise<string | undefined>>> = {
  redis: whyNoRedis,
  kafka: whyNoKafka,
  prometheus: whyNoPrometheus,
  alertmanager: whyNoAlertmanager,
  haproxy: whyNoHaproxy,
}

const answers = new Map<Service, Promise<string | undefined>>()

/**
 * Why a service cannot be had on this machine, in words; `undefined` if it can. Looked up once: Kafka's jars are fetched for it if they
 * are not there yet.
 */
export function whyUnavailable(service: Service): Promise<string | undefined> {
  const answer = answers.get(service) ?? WHY[service]()
  answers.set(service, answer)
  return answer
}

/**
 * A suite that needs real servers. Where one of them cannot be had, its tests are skipped and the reason is printed; with CI=true they
 * fail instead, since there it has to be.
 */
export function describeWith(services: Service | readonly Service[], name: string, body: () => void): void {
  // vitest waits for it before it runs anything, and sets no limit to the time that takes.
  describe(name, async () => {
    const reasons = await Promise.all([services].flat().map(whyUnavailable))
    const reason = reasons.find((each) => each !== undefined)
    const service = [services].flat().join(', ')
    if (reason === undefined) {
      body()
    } else if (process.env['CI'] === 'true') {
      test(`${service} is there`, () => {
        throw new Error(reason)
      })
    } else {
      console.warn(`Skipped, ${name}: ${reason}`)
      describe.skip(`without ${service}`, body)
    }
  })
}

async function whyNoRedis(): Promise<string | undefined> {
  const found = await outputOf('redis-server', ['--version'])
  return found === undefined ? 'there is no redis-server in PATH (Debian: apt-get install redis-server)' : undefined
}

async function whyNoKafka(): Promise<string | undefined> {
  const version = await outputOf(java(), ['-version'])
  // 'openjdk version "17.0.15" …'; Java 8 and older say "1.8".
  const major = Number(/version "(\d+)/.exec(version ?? '')?.[1])
  const advice = `Kafka needs Java ${JAVA_MIN} or newer (Debian: apt-get install openjdk-17-jre-headless)`
  if (version === undefined) return `there is no ${java()}: ${advice}`
  if (!(major >= JAVA_MIN)) return `${java()} is too old: ${advice}`
  if (await hasKafkaJars()) return undefined
  if ((await outputOf('mvn', ['--version'])) === undefined) {
    return "there is no mvn in PATH to fetch Kafka's jars (Debian: apt-get install maven)"
  }
  return await fetchKafkaJars(console.log).then(
    () => undefined,
    (error: unknown) => `Kafka's jars cannot be fetched: ${error instanceof Error ? error.message : error}`,
  )
}

/** The server, and the tool that checks its rules. */
async function whyNoPrometheus(): Promise<string | undefined> {
  const advice = '(Debian: apt-get install prometheus)'
  for (const program of ['prometheus', 'promtool']) {
    if ((await outputOf(program, ['--version'])) === undefined) return `there is no ${program} in PATH ${advice}`
  }
  return undefined
}

async function whyNoAlertmanager(): Promise<string | undefined> {
  const found = await outputOf('amtool', ['--version'])
  return found === undefined
    ? 'there is no amtool in PATH (Debian: apt-get install prometheus-alertmanager)'
    : undefined
}

async function whyNoHaproxy(): Promise<string | undefined> {
  const found = await outputOf('haproxy', ['-v'])
  return found === undefined ? 'there is no haproxy in PATH (Debian: apt-get install haproxy)' : undefined
}

/** What a program prints; `undefined` if it can't be run. */
async function outputOf(file: string, args: string[]): Promise<string | undefined> {
  return await run(file, args, { timeout: 30_000 }).then(
    ({ stdout, stderr }) => stdout + stderr,
    () => undefined,
  )
}
