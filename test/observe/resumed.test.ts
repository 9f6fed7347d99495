import { randomBytes } from 'node:crypto'
import { expect, onTestFinished, test } from 'vitest'
import { slotOf } from '../../src/core/ids.ts'
import { type Operation, requestOf } from '../../src/core/request.ts'
import { shardOfSlot } from '../../src/core/shardMap.ts'
import { createBatcher } from '../../src/ledger/batcher.ts'
import { createPoster } from '../../src/ledger/poster.ts'
import { prepareShards } from '../../src/shards/map.ts'
import { newId } from '../../src/shards/newId.ts'
import { untilOver } from '../saga/books.ts'
import { migratedDatabase } from '../support/database.ts'
import { TENANT } from '../support/ledger.ts'
import { startNode } from '../support/node.ts'
import { openTraceReceiver, treeOf } from './otlp.ts'

test('a saga that another node takes up goes on in the trace of the request that began it', async () => {
  const urls = [await migratedDatabase(), await migratedDatabase()]
  const { map } = await prepareShards(urls)
  const clockUs = () => Date.now() * 1000
  const posters = urls.map((url, shard) => createPoster({ url, shard, writer: 'gone', clockUs }))
  const batchers = posters.map((poster) => createBatcher({ post: (requests) => poster.post(requests) }))
  let count = 0
  const ask = (shard: number, id: string, operation: Operation, traced: { traceparent?: string } = {}) =>
    batchers[shard]?.submit({ ...requestOf(id, TENANT, `key ${++count}`, operation), ...traced })
  const open = async (shard: number) => {
    let holderId: string
    do holderId = `holder ${++count}`
    while (shardOfSlot(map, slotOf(TENANT, holderId)) !== shard)
    const id = newId(slotOf(TENANT, holderId))
    await ask(shard, id, { kind: 'wallet-open', holderId, currency: 'USD', overdraftLimit: 0n, limits: {} })
    await ask(shard, newId(map.shards.indexOf(shard)), { kind: 'top-up', walletId: id, amount: 5n, currency: 'USD' })
    return id
  }
  const [from, to] = [await open(0), await open(1)]
  const [traceId, spanId] = [randomBytes(16).toString('hex'), randomBytes(8).toString('hex')]
  const legs = [{ from, to, amount: 1n, currency: 'USD' }]
  const traced = { traceparent: `00-${traceId}-${spanId}-01` }
  const begun = await ask(0, newId(map.shards.indexOf(0)), { kind: 'transfer', legs, remarks: {} }, traced)
  expect(begun?.record.refusal).toBeNull()
  await Promise.all(posters.map((poster) => poster.close()))

  const receiver = await openTraceReceiver()
  const otel = { OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: `${receiver.url}/v1/traces` }
  const node = await startNode({ databaseUrl: urls.join(','), otel })
  onTestFinished(() => node.kill())
  await untilOver(urls, 120_000)
  expect(await node.stop()).toBe(0)
  const lines = treeOf(receiver.spans, traceId)
  expect(lines.filter((line) => !line.startsWith(' '))).toEqual(['saga transfer'])
  // On a busy machine it may be time to give up already, in vain.
  const steps = lines.filter((line) => /^ {2}\S/.test(line) && !line.includes('saga-cancel'))
  expect(steps).toEqual(['  post saga-commit', '  post saga-finalize'])
  const [saga] = receiver.spans.filter(({ name }) => name === 'saga transfer')
  expect(saga).toMatchObject({
    ...{ traceId, parentId: spanId },
    attributes: { 'zerosum.saga.resumed': true, 'zerosum.saga.status': 'completed' },
  })
})
