import { expect, onTestFinished, test } from 'vitest'
import type { ConsumerGroup } from '../../src/bus/bus.ts'
import { ENTRIES } from '../../src/bus/events.ts'
import { type Consumers, startConsumers } from '../../src/consumers/consumers.ts'
import { until } from '../bus/stage.ts'
import { openApi } from '../support/api.ts'

/** Of what groups are behind, on how many shards. */
const behind = async (consumers: Consumers) =>
  (await consumers.lag()).groups.flatMap((group) => ('shards' in group ? [[group.group, group.shards.length]] : []))

const groupOf = (name: string): ConsumerGroup => ({ name, topics: [ENTRIES], handle: async () => {} })

/** A ledger with a block, and consumers of the groups a and b on it. */
async function openLedger() {
  const api = await openApi()
  onTestFinished(() => api.close())
  await api.alpha.wallet(1)
  const open = (worksFor: (group: string) => boolean) =>
    startConsumers({
      ...{ brokers: [], partitions: 4, shards: () => [0], urlOf: () => api.url, groups: ['a', 'b'].map(groupOf) },
      ...{ worksFor, onTrouble: () => {} },
    })
  return { api, open }
}

test('a group is behind only if a node works for it, or has', async () => {
  const { api, open } = await openLedger()
  const working = open((group) => group === 'a')
  await until(async () => {
    const { groups } = await working.lag()
    return groups.every((group) => 'shards' in group && group.shards.every(({ blocks }) => blocks === 0))
  })
  expect(await behind(working)).toEqual([
    ['a', 1],
    ['b', 0],
  ])
  await working.stop()
  await api.alpha.wallet(1)
  const idle = open(() => false)
  onTestFinished(() => idle.stop())
  expect(await behind(idle)).toEqual([
    ['a', 1],
    ['b', 0],
  ])
})

test('a group that fails from its first day is behind', async () => {
  const { api, open } = await openLedger()
  await api.query('ALTER FUNCTION take_lease RENAME TO take_no_lease')
  const failing = open((group) => group === 'a')
  onTestFinished(() => failing.stop())
  expect(await behind(failing)).toEqual([
    ['a', 1],
    ['b', 0],
  ])
})
