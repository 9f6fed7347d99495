import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { fetchKafkaJars } from './kafkaJars.ts'
import { freePorts } from './ports.ts'
import { dataDirectory, removeDirectory, type ServerProcess, startProcess } from './process.ts'

const run = promisify(execFile)
const FORMAT_MS_MAX = 60_000

/** Apache Kafka in KRaft mode, of a test's own: each process is broker and controller. */
export type KafkaCluster = {
  /** `127.0.0.1:port` of each broker; the same after restarts. */
  readonly brokers: readonly string[]
  /**
   * A broker, from 0 on. `restart` keeps its data, and resolves when it serves again; it needs a majority of the processes for
   * that, so where too few run, start them at once: `Promise.all`.
   */
  broker(index: number): Omit<ServerProcess, 'stop'>
  /** Ends all of it and removes the data. */
  stop(): Promise<void>
}

/** With 3 brokers, a topic has three replicas if its maker doesn't say otherwise, and acks=all means two of them. */
export type KafkaOptions = {
  readonly brokers: 1 | 3
  /** Clients come by TLS and log in, by SCRAM or PLAIN. Only with one broker. */
  readonly secured?: KafkaSecured
  /** Another port of the loopback that leads to it, and that clients are told to go to. Only with one broker. */
  readonly advertisedPort?: number
}

export type KafkaSecured = {
  /** A PEM file with the broker's key and certificate, and one with the CAs of its clients' certificates and of its own: it calls itself. */
  readonly keystore: string
  readonly truststore: string
  /** The one who may log in; a password without quotes. */
  readonly username: string
  readonly password: string
}

/**
 * Starts a cluster on free ports of the loopback; resolves when it serves. Topics are not made by themselves: whoever needs one makes it.
 * @throws Error if Java is not there, the jars cannot be had, or a process does not start
 */
export async function startKafka({ brokers: count, secured, advertisedPort }: KafkaOptions): Promise<KafkaCluster> {
  const jars = await fetchKafkaJars(console.log)
  const directory = await dataDirectory('kafka')
  const ports = await freePorts(2 * count)
  const clusterId = randomBytes(16).toString('base64url')
  const nodes = Array.from({ length: count }, (_, index) => ({
    id: index + 1,
    port: ports[2 * index] ?? 0,
    controllerPort: ports[2 * index + 1] ?? 0,
  }))
  const advertised: Record<string, string> =
    advertisedPort === undefined ? {} : { 'advertised.listeners': `PLAINTEXT://127.0.0.1:${advertisedPort}` }
  const voters = nodes.map(({ id, controllerPort }) => `${id}@127.0.0.1:${controllerPort}`).join(',')
  // All at once: each waits for a majority of them.
  const starting = await Promise.allSettled(
    nodes.map(async (node) => {
      const file = join(directory, `${node.id}.properties`)
      const data = join(directory, `${node.id}`)
      await writeFile(
        file,
        propertiesOf(
          { ...node, voters, count, data },
          { ...advertised, ...(secured && securedSettings(node, secured)) },
        ),
      )
      // A cluster id that begins with a dash must not be taken for an option.
      const format = ['kafka.tools.StorageTool', 'format', `--cluster-id=${clusterId}`, '-c', file]
      await run(java(), [...jvm(jars), ...format, ...(secured ? scramUsers(secured) : [])], { timeout: FORMAT_MS_MAX })
      return await startProcess({
        name: `Kafka broker ${node.id}`,
        file: java(),
        args: [...jvm(jars), 'kafka.Kafka', file],
        isReady: (output) => output.includes('Kafka Server started'),
      })
    }),
  )
  const processes = starting.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
  const stop = async () => {
    // Killed: an orderly end waits for a majority, and the last ones would wait for those that went before. The data go anyway.
    await Promise.all(processes.map((process) => process.kill()))
    await removeDirectory(directory)
  }
  const failed = starting.find((result) => result.status === 'rejected')
  if (failed) {
    await stop()
    throw failed.reason
  }
  return {
    brokers: nodes.map(({ port }) => `127.0.0.1:${port}`),
    broker(index) {
      const process = processes[index]
      if (!process) throw new Error(`there is no broker ${index}: they are 0 to ${count - 1}`)
      return process
    },
    stop,
  }
}

/** The Java that is used: that of JAVA_HOME, or the first in PATH. */
export function java(): string {
  const home = process.env['JAVA_HOME']
  return home ? join(home, 'bin', 'java') : 'java'
}

/** A small and quick JVM; Kafka logs warnings only, and that it has started. */
function jvm(jars: string): string[] {
  const log = '-Dorg.slf4j.simpleLogger'
  return [
    ...['-Xms64m', '-Xmx256m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1', '-Djava.awt.headless=true'],
    ...[`${log}.defaultLogLevel=warn`, `${log}.log.kafka.server.KafkaRaftServer=info`, '-cp', join(jars, '*')],
  ]
}

type Node = {
  readonly id: number
  readonly port: number
  readonly controllerPort: number
  readonly voters: string
  readonly count: number
  readonly data: string
}

/** @see https://kafka.apache.org/documentation/#security */
function securedSettings(node: Pick<Node, 'port' | 'controllerPort'>, secured: KafkaSecured): Record<string, string> {
  const { keystore, truststore, username, password } = secured
  const modules = 'org.apache.kafka.common.security'
  const login = `username="${username}" password="${password}"`
  const scram = `${modules}.scram.ScramLoginModule required ${login};`
  return {
    listeners: `SASL_SSL://127.0.0.1:${node.port},CONTROLLER://127.0.0.1:${node.controllerPort}`,
    'advertised.listeners': `SASL_SSL://127.0.0.1:${node.port}`,
    'listener.security.protocol.map': 'SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT',
    'security.inter.broker.protocol': 'SASL_SSL',
    'sasl.mechanism.inter.broker.protocol': 'PLAIN',
    'sasl.enabled.mechanisms': 'SCRAM-SHA-512,SCRAM-SHA-256,PLAIN',
    'listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config': scram,
    'listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config': scram,
    'listener.name.sasl_ssl.plain.sasl.jaas.config': `${modules}.plain.PlainLoginModule required ${login} user_${username}="${password}";`,
    'ssl.keystore.type': 'PEM',
    'ssl.keystore.location': keystore,
    'ssl.truststore.type': 'PEM',
    'ssl.truststore.location': truststore,
    'listener.name.sasl_ssl.ssl.client.auth': 'required',
  }
}

function scramUsers({ username, password }: KafkaSecured): string[] {
  const mechanisms = ['SCRAM-SHA-512', 'SCRAM-SHA-256']
  return mechanisms.flatMap((mechanism) => ['--add-scram', `${mechanism}=[name=${username},password=${password}]`])
}

/** @see https://kafka.apache.org/documentation/#configuration */
function propertiesOf({ id, port, controllerPort, voters, count, data }: Node, more: Record<string, string>): string {
  const inSync = count === 1 ? 1 : 2
  const settings: Record<string, string | number | boolean> = {
    'process.roles': 'broker,controller',
    'node.id': id,
    'controller.quorum.voters': voters,
    'controller.listener.names': 'CONTROLLER',
    listeners: `PLAINTEXT://127.0.0.1:${port},CONTROLLER://127.0.0.1:${controllerPort}`,
    'advertised.listeners': `PLAINTEXT://127.0.0.1:${port}`,
    'log.dirs': data,

    'auto.create.topics.enable': false,
    'num.partitions': 3,
    'default.replication.factor': count,
    'min.insync.replicas': inSync,
    'offsets.topic.replication.factor': count,
    'transaction.state.log.replication.factor': count,
    'transaction.state.log.min.isr': inSync,
    'share.coordinator.state.topic.replication.factor': count,
    'share.coordinator.state.topic.min.isr': inSync,

    // Consumers of a test come and go quickly, and say themselves how long they may be silent.
    'group.initial.rebalance.delay.ms': 0,
    'group.min.session.timeout.ms': 1_000,
    // A broker that was killed or paused is noticed after four seconds, not nine, and one that lags after ten, not thirty.
    'broker.heartbeat.interval.ms': 500,
    'broker.session.timeout.ms': 4_000,
    'replica.lag.time.max.ms': 10_000,

    // Small: three of them on one machine.
    'offsets.topic.num.partitions': 4,
    'transaction.state.log.num.partitions': 4,
    'share.coordinator.state.topic.num.partitions': 4,
    'log.index.size.max.bytes': 1_048_576,
    'log.cleaner.dedupe.buffer.size': 4_194_304,
    'num.network.threads': 2,
    'num.io.threads': 4,
    'background.threads': 2,
    ...more,
  }
  return Object.entries(settings)
    .map(([name, value]) => `${name}=${value}\n`)
    .join('')
}
