import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, onTestFinished, test } from 'vitest'
import { seededRandom } from '../../bench/load.ts'
import { seedFor } from '../ledger/seed.ts'
import { migratedDatabase } from '../support/database.ts'
import { startNode } from '../support/node.ts'
import { expectAnsweredAreThere, expectBooks, forAll, pay, stage } from './stage.ts'

describe('SIGTERM', () => {
  test('under load: what was taken in is answered, the rest had no effect, and the exit code is 0', async () => {
    const random = seededRandom(seedFor('SIGTERM'))
    const one = await stage({ databaseUrl: await migratedDatabase() }, random)
    for (let round = 1; round <= 2; round++) {
      const before = one.sent.length
      await one.load()
      await sleep(random() * 300)
      expect(await one.node.stop()).toBe(0)
      await one.rest()
      const sent = one.sent.slice(before)
      // What comes in on connections that are open is answered like any other; the rest finds nobody listening.
      for (const { answer } of sent) if (answer) expect.soft(answer.status, answer.text).toBe(201)
      await one.start()
      await expectAnsweredAreThere(one, sent)
      await forAll(sent, async (transfer) => {
        if (transfer.answer?.status === 201) return
        const first = await pay(one.client, transfer)
        expect(first.headers['idempotency-replayed'], 'it was posted, but its caller was not told').toBeUndefined()
        expect(first.status).toBe(201)
        transfer.answer = first
      })
    }
    await expectBooks(one)
    expect(await one.node.stop()).toBe(0)
  })

  test('ends a node, though clients that say nothing, or half of something, hold on to their connections', async () => {
    const one = await stage({ databaseUrl: await migratedDatabase() }, Math.random)
    const { port, hostname } = new URL(one.node.url)
    const halves = [
      '',
      'POST /v1/transfers HTTP/1.1\r\nHost: x\r\nContent-Le',
      `POST /v1/transfers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${one.demoKey}\r\nContent-Length: 100\r\n\r\n{`,
    ]
    for (const half of halves) {
      const socket = connect(Number(port), hostname).on('error', () => {})
      onTestFinished(() => {
        socket.destroy()
      })
      await once(socket, 'connect')
      if (half) socket.write(half)
    }
    // The node has seen them once it has answered what came later.
    await one.client.get('/livez')
    expect(await one.node.stop()).toBe(0)
  })
})

test('a node says what is wrong and ends, when it cannot start', async () => {
  const nowhere = 'postgres://zerosum:secret-password@127.0.0.1:1/nowhere'
  for (const settings of [{ databaseUrl: nowhere }, { databaseUrl: 'mysql://x' }, { demoKey: 'short' }]) {
    const error = await startNode(settings).then(
      async (node) => {
        await node.kill()
        return new Error('it started')
      },
      (reason: Error) => reason,
    )
    expect(error.message).toContain('the node did not start')
    expect(error.message).not.toContain('secret-password')
    expect(error.message.split('\n').length, error.message).toBeLessThan(40)
  }
})
