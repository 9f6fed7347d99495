import { CircuitState } from 'cockatiel'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { createKafkaQueue, REQUESTS } from '../../src/async/kafkaQueue.ts'
import { QueueUnavailable, type RequestQueue } from '../../src/async/requestQueue.ts'
import { createKafkaSender } from '../../src/bus/kafkaSender.ts'
import { until } from '../bus/stage.ts'
import { describeWith } from '../services/available.ts'
import { type KafkaCluster, startKafka } from '../services/kafka.ts'
import { queueContract, queued } from './contract.ts'

describeWith('kafka', 'the queue in Kafka', () => {
  let kafka: KafkaCluster
  beforeAll(async () => {
    kafka = await startKafka({ brokers: 1 })
    // The first one makes the topics, which may take longer than a request is waited for.
    const queue = open()
    await until(() => isTaken(queue))
    await queue.close()
  }, 240_000)
  afterAll(() => kafka?.stop(), 60_000)
  const open = () => createKafkaQueue({ brokers: kafka.brokers, partitions: 4, onTrouble: () => {} })
  queueContract(open)

  test('what nobody can read is set aside under the place where it was', async () => {
    const queue = open()
    onTestFinished(() => queue.close())
    const sender = createKafkaSender({ brokers: kafka.brokers, clientId: 'test', ready: async () => {} })
    onTestFinished(() => sender.close())
    const poison = { topic: REQUESTS, key: 'who', headers: { attempts: 'many' } }
    await sender.send([
      { ...poison, value: 'poison' },
      { ...poison, value: undefined },
    ])
    const seen: unknown[] = []
    queue.work(async (letters) => {
      seen.push(...letters)
      return letters.map(({ text }) => (text.startsWith('{') ? { fate: 'done' } : { fate: 'dead', reason: 'poison' }))
    })
    const mine = async () => (await queue.dead(100)).filter(({ reason }) => reason === 'poison')
    await until(
      async () => (await mine()).length === 2,
      () => JSON.stringify(seen),
    )
    // They lie in other partitions, and come in any order.
    const [second, first] = (await mine()).toSorted((one, other) => one.text.length - other.text.length)
    expect(first).toMatchObject({
      text: 'poison',
      attempts: 1,
      name: expect.stringMatching(/^zerosum\.transfer-requests\.v1:\d:\d+$/),
    })
    expect(second).toMatchObject({ text: '', attempts: 1 })
    expect(first?.origin).toBe(first?.name)
  })

  test('takes nothing in while no broker is there, and says so in time', async () => {
    const queue = open()
    onTestFinished(() => queue.close())
    await queue.add(queued())
    await kafka.broker(0).kill()
    await expect(queue.add(queued())).rejects.toThrow(QueueUnavailable)
    await expect(queue.add(queued())).rejects.toThrow(QueueUnavailable)
    // By now it is not asked any more.
    expect(queue.breaker).toBe(CircuitState.Open)
    // On a busy machine it may be time for a try already.
    await until(async () => {
      const error: unknown = await queue.add(queued()).catch((error) => error)
      return `${error}`.includes('silent lately')
    })
    await kafka.broker(0).restart()
    await until(() => isTaken(queue))
    expect(queue.breaker).toBe(CircuitState.Closed)
  }, 300_000)
})

const isTaken = (queue: RequestQueue) =>
  queue.add(queued()).then(
    () => true,
    () => false,
  )
