import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { type Flow, offer } from '../../bench/openLoop.ts'
import { createDirectory, newKey } from '../../src/tenants/directory.ts'
import { until } from '../bus/stage.ts'
import { type Answer, type Balance, type Client, clientOf, type Problem, type Transfer } from '../support/api.ts'
import { migratedDatabase } from '../support/database.ts'
import { type NodeProcess, startNode, verifyBooks } from '../support/node.ts'

const FUNDS = 10_000_000
/** More than a node takes. Each caller waits for its answer before it asks again, so a slow machine is asked for less. */
const PER_SECOND = 20_000
const CALLERS = 600
/** A node is full when its calls grow older than that; on a fast machine those of so many callers do not grow old. */
const AGE_MS_MAX = 50
/** A flood ends by itself then. */
const SECONDS_MAX = 120
/** Of the quiet tenant, one after the other, with a pause after each. */
const CALLS = 16
const PAUSE_MS = 100
/** Two of its calls may meet in one window, which is long when the machine is slow. */
const REFUSED_MAX = 2

type Party = { readonly client: Client; readonly from: string; readonly to: string }
type Stage = { readonly node: NodeProcess; readonly databaseUrl: string; readonly loud: Party; readonly quiet: Party }

/** A node in a process of its own, and two tenants who have money to move. */
async function open(env: Record<string, string>): Promise<Stage> {
  const databaseUrl = await migratedDatabase()
  // A line for each refusal would be most of what this machine has to do.
  const node = await startNode({ databaseUrl, env, log: { level: 'error' } })
  onTestFinished(() => node.kill())
  const directory = createDirectory(databaseUrl)
  const party = async (name: string): Promise<Party> => {
    const key = newKey()
    await directory.addKey(await directory.ensureTenant(name), key, ['admin'])
    const client = clientOf(node.send, key)
    return { client, from: await client.wallet(FUNDS), to: await client.wallet() }
  }
  const stage = { node, databaseUrl, loud: await party('loud'), quiet: await party('quiet') }
  await directory.close()
  return stage
}

/** So many callers of the loud tenant move 1 each, again and again, until `work` is done. */
async function during<T>({ node, loud }: Stage, callers: number, work: () => Promise<T>): Promise<[Flow, T]> {
  const body = JSON.stringify({ from: loud.from, to: loud.to, amount: '1', currency: 'USD' })
  const over = new AbortController()
  const flood = offer({
    ...{ url: node.url, path: '/v1/transfers', body: () => body, perSecond: PER_SECOND, seconds: SECONDS_MAX },
    headers: { authorization: `Bearer ${loud.client.apiKey}`, 'content-type': 'application/json' },
    crowd: { size: callers, signal: over.signal },
  })
  try {
    const done = await work()
    over.abort()
    return [await flood, done]
  } finally {
    over.abort()
    await flood
  }
}

/** How many calls the node has turned away for this reason. */
async function shedBy({ send }: NodeProcess, reason: string): Promise<number> {
  const { text } = await send({ method: 'GET', path: '/metrics', headers: {} })
  return Number(new RegExp(`^zerosum_shed_total\\{reason="${reason}"\\} (\\d+)`, 'm').exec(text)?.[1] ?? 0)
}

async function quietCalls({ quiet: { client, from, to } }: Stage): Promise<Answer<Transfer & Problem>[]> {
  const answers: Answer<Transfer & Problem>[] = []
  while (answers.length < CALLS) {
    answers.push((await client.pay(from, to, 1)) as Answer<Transfer & Problem>)
    await sleep(PAUSE_MS)
  }
  return answers
}

/** What was accepted moved, and nothing else did. */
async function expectMoved({ client, to }: Party, accepted: number | undefined): Promise<void> {
  let answer: Answer<Balance> | undefined
  const isAnswered = async () => {
    answer = await client.get<Balance>(`/v1/wallets/${to}/balance?consistency=strong`)
    return answer.status === 200
  }
  // The flood is over, but for a moment it is not forgotten.
  await until(isAnswered, () => answer?.text, SECONDS_MAX)
  expect(answer?.body.posted).toBe(`${accepted}`)
}

async function expectBooks({ databaseUrl }: Stage): Promise<void> {
  const { code, output } = await verifyBooks({ databaseUrl })
  expect(code, output).toBe(0)
}

test("while one tenant's flood fills a node, another's calls go through, and most of the flood is refused with 503", async () => {
  const stage = await open({ ZEROSUM_AGE_MS_MAX: `${AGE_MS_MAX}` })
  // A node that has never served does not know what a call costs.
  const [before] = await during(stage, 20, () => sleep(1_000))
  const [flow, answers] = await during(stage, CALLERS, async () => {
    const isFull = async () => (await shedBy(stage.node, 'event_loop')) > 0
    await until(isFull, () => 'the node is not full', SECONDS_MAX)
    return await quietCalls(stage)
  })
  const { offered, statuses, codes, withoutRetryAfter } = flow
  const refused = answers.filter(({ status }) => status !== 201)
  console.log(
    `${statuses.get(503)} of ${offered} calls of the flood were refused, ${refused.length} of ${CALLS} others`,
  )
  expect([...statuses.keys()].sort()).toEqual([201, 503])
  expect([...codes.keys()]).toEqual(['overloaded'])
  expect(withoutRetryAfter).toBe(0)
  expect(statuses.get(503)).toBeGreaterThan(offered / 4)
  expect(refused.length, refused.map(({ text }) => text).join()).toBeLessThanOrEqual(REFUSED_MAX)
  for (const { status, headers, body } of refused) {
    expect({ status, code: body.code }).toEqual({ status: 503, code: 'overloaded' })
    expect(Number(headers['retry-after'])).toBeGreaterThan(0)
  }

  await expectMoved(stage.loud, (before.statuses.get(201) ?? 0) + (statuses.get(201) ?? 0))
  await expectMoved(stage.quiet, CALLS - refused.length)
  await expectBooks(stage)
})

test('a tenant over its rate gets 429 for what is too much, and nobody else does', async () => {
  const stage = await open({ ZEROSUM_TENANT_RATE: '20' })
  const [{ offered, statuses, codes, withoutRetryAfter }, answers] = await during(stage, 20, () => quietCalls(stage))
  console.log(`${statuses.get(429)} of ${offered} calls of the flood were refused`)
  expect([...statuses.keys()].sort()).toEqual([201, 429])
  expect([...codes.keys()]).toEqual(['rate_limited'])
  expect(withoutRetryAfter).toBe(0)
  expect(statuses.get(429)).toBeGreaterThan(offered / 2)
  expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 201))
  expect(await shedBy(stage.node, 'event_loop')).toBe(0)

  await expectMoved(stage.loud, statuses.get(201))
  await expectMoved(stage.quiet, CALLS)
  await expectBooks(stage)
})
