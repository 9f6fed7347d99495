import type { ChildProcess } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { formatId } from '../src/core/ids.ts'
import { connect } from '../src/postgres/connect.ts'
import { startEmbedded } from '../src/postgres/embedded.ts'
import { whyUnavailable } from '../test/services/available.ts'
import { startKafka } from '../test/services/kafka.ts'
import { fund, migrated, openTenant } from './ledger.ts'
import { type Pick, seededRandom, uniform } from './load.ts'
import { startNode } from './node.ts'
import { type Measure, printMeasures } from './report.ts'

export type AsyncOptions = { accounts: number; transfers: number; seed: number; json: boolean }

/** Items in a call, and calls at a time. */
const BATCH = 1_000
const CALLERS = 4
const ATTEMPTS_MAX = 10
const POSTED_MS_MAX = 600_000

/**
 * Transfers through the HTTP API of a node in batches of a thousand: posted while the caller waits; and taken in with `Prefer: respond-async`, by the
 * queue on the shard and by Kafka if that can be had, until all are posted. One shard, one node that does all of it.
 */
export async function benchAsync({ accounts, transfers, seed, json }: AsyncOptions): Promise<void> {
  const say = (text: string) => (json ? undefined : console.log(text))
  const directory = await mkdtemp(join(tmpdir(), 'zerosum-bench-'))
  const server = await startEmbedded(directory)
  const noKafka = await whyUnavailable('kafka')
  const kafka = noKafka === undefined ? await startKafka({ brokers: 1 }) : undefined
  if (noKafka !== undefined) say(`without Kafka: ${noKafka}`)
  try {
    const url = await migrated(server, 'bench')
    const { tenantId, key } = await openTenant(url, ['transfers:write'])
    say(`opening and funding ${accounts} accounts …`)
    const wallets = (await fund(url, tenantId, accounts)).map((id) => formatId('wal', id))
    const pick = uniform(wallets.length, seededRandom(seed))
    const stage: Stage = { url, key, wallets, pick, transfers }
    const measured: Measured[] = [await onNode(stage, 'queue on the shard', {})]
    if (kafka) measured.push(await onNode(stage, 'Kafka', { KAFKA_BROKERS: kafka.brokers.join(',') }))
    const measures = measured.flatMap(({ reference, taken, posted }) => [reference, taken, posted])
    const ratios = Object.fromEntries(
      measured.flatMap(({ reference, taken, posted }) =>
        [taken, posted].map(({ name, perSecond }) => [name, perSecond / reference.perSecond]),
      ),
    )
    if (json) {
      console.log(JSON.stringify({ accounts, transfers, seed, measures, ratios }, null, 2))
      return
    }
    printMeasures(measures)
    for (const [name, ratio] of Object.entries(ratios)) console.log(`${name} / batches: ${ratio.toFixed(2)}`)
  } finally {
    await kafka?.stop()
    await server.stop()
    await rm(directory, { recursive: true, force: true })
  }
}

type Stage = { url: string; key: string; wallets: readonly string[]; pick: Pick; transfers: number }
/** Batches that are posted while the caller waits; others until they are taken in, and until they are posted. */
type Measured = { reference: Measure; taken: Measure; posted: Measure }

/** Measures a node with one kind of queue; each kind of call is warmed up. */
async function onNode(stage: Stage, name: string, more: NodeJS.ProcessEnv): Promise<Measured> {
  let started: { node: ChildProcess; url: string } | undefined
  const sql = connect(stage.url, { max: 1, name: 'bench' })
  const count = async () => {
    const [head] = await sql<{ posted: string }[]>`SELECT sum(request_count) AS posted FROM blocks`
    return Number(head?.posted)
  }
  /** Waits until so many transfers are in the ledger. */
  const untilPosted = async (due: number) => {
    const deadlineMs = Date.now() + POSTED_MS_MAX
    for (let posted = await count(); posted < due; posted = await count()) {
      if (Date.now() > deadlineMs) throw new Error(`${posted} of ${due} were posted`)
      await sleep(100)
    }
  }
  try {
    started = await startNode(stage.url, more)
    const { url } = started
    const load = async (headers: Record<string, string>) => {
      const warmUp = { ...stage, transfers: 5 * BATCH }
      const warm = (await count()) + warmUp.transfers
      await sendBatches(warmUp, url, headers)
      await untilPosted(warm)
      const due = (await count()) + stage.transfers
      const began = performance.now()
      const since = () => (performance.now() - began) / 1000
      await sendBatches(stage, url, headers)
      const answered = since()
      await untilPosted(due)
      return { answered, posted: since() }
    }
    const measure = (what: string, seconds: number) => ({
      ...{ name: `${name}, ${what}`, transfers: stage.transfers, seconds, perSecond: stage.transfers / seconds },
    })
    const waited = await load({})
    const later = await load({ prefer: 'respond-async' })
    return {
      reference: measure('batches', waited.answered),
      taken: measure('taken in', later.answered),
      posted: measure('posted later', later.posted),
    }
  } finally {
    await sql.end()
    if (started?.node.kill('SIGTERM')) await once(started.node, 'exit')
  }
}

/** Sends them all, each caller one batch after the other; every item must be accepted. */
async function sendBatches(
  { key, wallets, pick, transfers }: Stage,
  url: string,
  headers: Record<string, string>,
): Promise<void> {
  const status = 'prefer' in headers ? 202 : 201
  let left = transfers
  const caller = async () => {
    while (left > 0) {
      const size = Math.min(BATCH, left)
      left -= size
      const items = Array.from({ length: size }, () => {
        const { from, to } = pick()
        return { idempotencyKey: randomUUID(), from: wallets[from], to: wallets[to], amount: '5', currency: 'USD' }
      })
      await sendBatch(items)
    }
  }
  await Promise.all(Array.from({ length: CALLERS }, caller))

  /** Again with the same keys, if a busy node could not say in time what became of an item. */
  async function sendBatch(items: readonly object[]): Promise<void> {
    let bad: unknown
    for (let attempt = 1; attempt <= ATTEMPTS_MAX; attempt++) {
      const answer = await fetch(`${url}/v1/transfers/batch`, {
        method: 'POST',
        headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json', ...headers },
        body: JSON.stringify({ transfers: items }),
      })
      const { results = [] } = (await answer.json()) as { results?: { status: number }[] }
      bad = results.length === items.length ? results.find((result) => result.status !== status) : answer.status
      if (bad === undefined) return
    }
    throw new Error(`a batch was not accepted: ${JSON.stringify(bad)}`)
  }
}
