import { describe, expect, onTestFinished, test } from 'vitest'
import { createEmbeddedBus } from '../../src/bus/embeddedBus.ts'
import { forgetMarks } from '../../src/bus/marks.ts'
import { connect } from '../../src/postgres/connect.ts'
import { busOf, consumeOnce, EFFECTS, effectsOf } from './consumer.ts'
import { busContract } from './contract.ts'
import { allEvents, openLedgerStage, until } from './stage.ts'

describe('the embedded bus', () => {
  busContract(async () => {
    const ledger = await openLedgerStage()
    const node = { urls: ledger.urls }
    return { ...ledger, node, openBus: () => busOf(node) }
  })
})

test('a group can be sent back to a block, and takes all from there on again', async () => {
  const ledger = await openLedgerStage()
  onTestFinished(() => ledger.close())
  const { urls, api } = ledger
  const url = urls[0] ?? ''
  await api.query(EFFECTS)
  await ledger.live(40)
  const bus = createEmbeddedBus({
    shards: () => [0, 1],
    urlOf: (shard) => urls[shard],
    onTrouble: () => {},
  })
  onTestFinished(() => bus.close())
  const consumer = consumeOnce(bus, url, 'replayed')
  const all = await allEvents(urls)
  await until(async () => (await effectsOf(url, 'replayed')).length >= all.length)
  await consumer.stop()

  const [block] = await api.query<{ number: bigint; time_us: bigint }>(
    'SELECT number, time_us FROM blocks ORDER BY number DESC OFFSET 5 LIMIT 1',
  )
  await bus.rewind('replayed', Number(block?.time_us))
  await api.query(`DELETE FROM effects WHERE consumer = 'replayed'`)
  const sql = connect(url, { max: 1, name: 'test' })
  await forgetMarks(sql, 'replayed')
  await sql.end()
  const again = consumeOnce(bus, url, 'replayed')
  const due = all.filter(({ place }) => place.shard === 0 && place.block >= Number(block?.number))
  expect(due.length).toBeGreaterThan(3)
  const ids = async () => (await effectsOf(url, 'replayed')).map(({ id }) => id).filter((id) => id.startsWith('0.'))
  await until(async () => (await ids()).length >= due.length)
  await again.stop()
  expect(new Set(await ids())).toEqual(new Set(due.map(({ id }) => id)))
})
