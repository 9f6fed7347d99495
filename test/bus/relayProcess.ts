import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { createKafkaBus } from '../../src/bus/kafkaBus.ts'
import { type Publisher, startRelay } from '../../src/bus/relay.ts'
import type { NodeSettings } from './stage.ts'

type Settings = Required<NodeSettings> & {
  /** How often it sends before it dies by SIGKILL: after the brokers have acknowledged, before that is recorded. */
  dieAfter?: number
}

/** A relay, as a node has it. */
export function relayOf({ urls, brokers }: Required<NodeSettings>, wrap = (publisher: Publisher) => publisher) {
  const bus = createKafkaBus({ brokers, partitions: 4, onTrouble: () => {} })
  return startRelay({
    shards: () => urls.map((_, shard) => shard),
    urlOf: (shard) => urls[shard],
    openPublisher: () => wrap(bus.openPublisher()),
    onTrouble: () => {},
  })
}

/** A process of its own that relays. */
export async function startRelayProcess(settings: Settings): Promise<{ child: ChildProcess; died: Promise<unknown> }> {
  const child = fork(fileURLToPath(import.meta.url), [JSON.stringify(settings)], { execArgv: [] })
  const died = once(child, 'exit')
  await once(child, 'message')
  return { child, died }
}

if (import.meta.main) {
  const { dieAfter = Number.POSITIVE_INFINITY, ...node } = JSON.parse(process.argv[2] ?? '') as Settings
  let count = 0
  relayOf(node, ({ publish, close }) => ({
    async publish(events, signal) {
      await publish(events, signal)
      if (events.length > 0 && ++count >= dieAfter) {
        process.kill(process.pid, 'SIGKILL')
        await sleep(60_000)
      }
    },
    close,
  }))
  process.on('disconnect', () => process.exit())
  process.send?.('ready')
}
