import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

/** The files that take half a minute and more, the longest first; the others follow by their size. What comes last runs alone, so it had better be short. */
const LONG = [
  'relocation/load',
  'faults/kafka',
  'bus/kafkaFailures',
  'saga/partition',
  'faults/postgres',
  'webhooks/dispatcher',
  'http/cross-shard',
  'observe/traces',
  'saga/recovery',
  'http/stopHeldUp',
  'ledger/poster',
  'http/rolling',
  'postgres/embedded',
  'http/crash',
  'shards/map',
  'ledger/auditor',
  'bus/order',
  'bus/kafkaTls',
  'cache/restore',
  'http/stop',
  'shards/start',
  'faults/redis',
  'consumers/nodes',
  'live/nodes',
]

class LongFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification) => {
      const place = LONG.findIndex((name) => moduleId.endsWith(`test/${name}.test.ts`))
      return place < 0 ? LONG.length : place
    }
    return (await super.sort(files)).sort((a, b) => rank(a) - rank(b))
  }
}

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/server.ts'],
    // What hangs fails, and nothing else: they are no measure of speed, and machines are busy.
    testTimeout: 600_000,
    hookTimeout: 300_000,
    expect: { poll: { timeout: 60_000 } },
    // Real servers and processes share two cores, and mostly wait for each other.
    maxWorkers: 3,
    sequence: { sequencer: LongFirst },
  },
})
