import { newKey } from '../../src/tenants/directory.ts'
import { openPassage, type Passage } from '../http/passage.ts'
import { seedFor } from '../ledger/seed.ts'
import { type KafkaCluster, startKafka } from '../services/kafka.ts'
import { type RedisServer, startRedis } from '../services/redis.ts'
import { type Client, clientOf } from '../support/api.ts'
import { type NodeProcess, type NodeSettings, startNode } from '../support/node.ts'
import { createLoad, type Load } from './load.ts'
import { startWatch, type Watch } from './watch.ts'

/** A node in a process of its own, everything that it depends on, a load on it, and a Prometheus that watches it. */
export type Stage = {
  readonly node: NodeProcess
  readonly settings: NodeSettings
  readonly client: Client
  /** Of the shards, as the node knows them. */
  readonly urls: readonly string[]
  /** The servers, and the ways by which the node comes to them. */
  readonly redis: RedisServer
  readonly redisWay: Passage
  readonly kafka: KafkaCluster
  readonly kafkaWay: Passage
  readonly load: Load
  readonly watch: Watch
  close(): Promise<void>
}

/** @param name for the seed, which is printed */
export async function openStage(name: string, urls: readonly string[]): Promise<Stage> {
  const closing: (() => Promise<unknown>)[] = []
  const opened = async <T>(thing: Promise<T>, close: (thing: T) => Promise<unknown>): Promise<T> => {
    const there = await thing
    closing.unshift(() => close(there))
    return there
  }
  const close = async () => {
    for (const end of closing.splice(0)) await end()
  }
  const seed = seedFor(name)
  try {
    // A broker tells its clients where to go, so what leads to it has to be there before it.
    const kafkaWay = await opened(openPassage('tcp://127.0.0.1:1'), (way) => way.close())
    const kafkaUrl = new URL(kafkaWay.urlOf('tcp://127.0.0.1:1'))
    const [kafka, redis] = await Promise.all([
      opened(startKafka({ brokers: 1, advertisedPort: Number(kafkaUrl.port) }), (kafka) => kafka.stop()),
      opened(startRedis(), (redis) => redis.stop()),
    ])
    kafkaWay.leadTo(`tcp://${kafka.brokers[0]}`)
    const redisWay = await opened(openPassage(redis.url), (way) => way.close())
    const settings: NodeSettings = {
      ...{ databaseUrl: urls.join(','), demoKey: newKey() },
      ...{ redisUrl: redisWay.urlOf(redis.url), kafkaBrokers: kafkaUrl.host },
      env: { KAFKA_PARTITIONS: '4' },
    }
    const node = await opened(startNode(settings), (node) => node.kill())
    const watch = await opened(startWatch(node.url), (watch) => watch.close())
    const client = clientOf(node.send, settings.demoKey ?? '')
    const load = await createLoad(client, seed)
    closing.unshift(() => load.rest())
    return { node, settings, client, urls, redis, redisWay, kafka, kafkaWay, load, watch, close }
  } catch (error) {
    await close()
    throw error
  }
}
