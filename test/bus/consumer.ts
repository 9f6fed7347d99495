import { type ChildProcess, fork } from 'node:child_process'
import { once as onceEmitted } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { Bus } from '../../src/bus/bus.ts'
import { createEmbeddedBus } from '../../src/bus/embeddedBus.ts'
import { type LedgerEvent, TOPICS } from '../../src/bus/events.ts'
import { createKafkaBus } from '../../src/bus/kafkaBus.ts'
import { connect } from '../../src/postgres/connect.ts'
import type { NodeSettings } from './stage.ts'

/** The bus of a node. */
export function busOf({ urls, brokers }: NodeSettings, onTrouble: (error: unknown) => void = () => {}): Bus {
  if (brokers) return createKafkaBus({ brokers, partitions: 4, onTrouble })
  return createEmbeddedBus({
    shards: () => urls.map((_, shard) => shard),
    urlOf: (shard) => urls[shard],
    onTrouble,
  })
}

/** The table that consumers write to in these tests. No event may stand in it twice. */
export const EFFECTS = `CREATE TABLE effects (n bigint GENERATED ALWAYS AS IDENTITY, consumer text, event text, key text, topic text,
  PRIMARY KEY (consumer, event)); GRANT ALL ON effects TO zerosum_app`

/** Consumes into the table, each event once. @param dieAfter so many effects, in the middle of things: written, but not recorded as progress */
export function consumeOnce(bus: Bus, url: string, name: string, dieAfter = Number.POSITIVE_INFINITY) {
  const sql = connect(url, { max: 2, name: 'effects' })
  let count = 0
  const subscription = bus.subscribe({
    name,
    topics: TOPICS,
    async handle(_, marks) {
      await sql.begin(async (tx) => {
        const fresh = await marks.fresh(tx)
        for (const { id, key, topic } of fresh) {
          await tx`INSERT INTO effects (consumer, event, key, topic) VALUES (${name}, ${id}, ${key}, ${topic})`
        }
        count += fresh.length
      })
      if (count >= dieAfter) {
        process.kill(process.pid, 'SIGKILL')
        await sleep(60_000)
      }
    },
  })
  return {
    async stop() {
      await subscription.stop()
      await sql.end()
    },
  }
}

/** What consumers wrote, in order. */
export async function effectsOf(url: string, name: string): Promise<Pick<LedgerEvent, 'id' | 'key' | 'topic'>[]> {
  const sql = connect(url, { max: 1, role: null, name: 'test' })
  try {
    return await sql`SELECT event AS id, key, topic FROM effects WHERE consumer = ${name} ORDER BY n`
  } finally {
    await sql.end()
  }
}

type Settings = NodeSettings & { url: string; name: string; dieAfter?: number }

/** A node of its own that consumes, and dies by SIGKILL after so many effects. */
export async function startConsumer(settings: Settings): Promise<{ child: ChildProcess; died: Promise<unknown> }> {
  const child = fork(fileURLToPath(import.meta.url), [JSON.stringify(settings)], { execArgv: [] })
  const died = onceEmitted(child, 'exit')
  await onceEmitted(child, 'message')
  return { child, died }
}

if (import.meta.main) {
  const { url, name, dieAfter, ...node } = JSON.parse(process.argv[2] ?? '') as Settings
  consumeOnce(busOf(node), url, name, dieAfter)
  process.on('disconnect', () => process.exit())
  process.send?.('ready')
}
