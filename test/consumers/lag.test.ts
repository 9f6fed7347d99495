import { expect, onTestFinished, test } from 'vitest'
import type { ConsumerGroup } from '../../src/bus/bus.ts'
import { ENTRIES } from '../../src/bus/events.ts'
import { startConsumers } from '../../src/consumers/consumers.ts'
import { until } from '../bus/stage.ts'
import { openApi } from '../support/api.ts'

test('a group is behind only if a node works for it, or has', async () => {
  const api = await openApi()
  onTestFinished(() => api.close())
  await api.alpha.wallet(1)
  const groupOf = (name: string): ConsumerGroup => ({ name, topics: [ENTRIES], handle: async () => {} })
  const open = (worksFor: (group: string) => boolean) =>
    startConsumers({
      ...{ brokers: [], partitions: 4, shards: () => [0], urlOf: () => api.url, groups: ['a', 'b'].map(groupOf) },
      ...{ worksFor, onTrouble: () => {} },
    })
  const behind = async (consumers: ReturnType<typeof open>) =>
    (await consumers.lag()).groups.flatMap((group) => ('shards' in group ? [[group.group, group.shards.length]] : []))
  const working = open((group) => group === 'a')
  await until(async () => (await behind(working)).join() === 'a,1,b,0')
  await working.stop()
  await api.alpha.wallet(1)
  const idle = open(() => false)
  onTestFinished(() => idle.stop())
  expect(await behind(idle)).toEqual([
    ['a', 1],
    ['b', 0],
  ])
})
