import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { seededRandom } from '../../bench/load.ts'
import { seedFor } from '../ledger/seed.ts'
import { emptyDatabase } from '../support/database.ts'
import { startCommand } from '../support/node.ts'
import { settledMap } from './books.ts'

const ROUNDS = 4
const TRIES_MAX = 10

test('adding a shard may be broken off anywhere by kill -9: the same again, or the longer list, is taken', {
  timeout: 900_000,
}, async () => {
  const random = seededRandom(seedFor('adding broken off'))
  const urls = [await emptyDatabase(), await emptyDatabase()]
  const run = (list: readonly string[], ...args: string[]) => startCommand(args, { databaseUrl: list.join(',') })
  const made = await run(urls, 'migrate').ended
  expect(made.code, made.output).toBe(0)
  const start = Date.now()
  const plan = await run(urls, 'shards', 'plan').ended
  expect(plan.code, plan.output).toBe(0)
  // Adding takes as long as this, and somewhat more.
  const ms = Date.now() - start

  for (let round = 0; round < ROUNDS; round++) {
    const added = await emptyDatabase()
    const killed = run(urls, 'shards', 'add', added)
    const timer = setTimeout(() => killed.kill(), ms * (0.4 + random()))
    const first = await killed.ended
    clearTimeout(timer)
    const outputs = [`${first.code} ${first.output}`]
    for (let isDone = false; !isDone; ) {
      expect(outputs.length, outputs.join('\n')).toBeLessThan(TRIES_MAX)
      // As an operator would: the same again; when that is refused, what comes next, with the list that is asked for.
      for (const [list, ...args] of [
        [urls, 'shards', 'add', added],
        [[...urls, added], 'shards', 'move'],
      ] as const) {
        const { code, output } = await run(list, ...args).ended
        outputs.push(`${code} ${output}`)
        isDone = code === 0
        if (isDone) break
      }
      if (!isDone) await sleep(200)
    }
    urls.push(added)
    expect(await settledMap(urls), outputs.join('\n')).toMatchObject({ shardCount: urls.length })
    console.log(`round ${round}: ${outputs.map((text) => text.trim().split('\n')[0]).join(' | ')}`)
  }
})
