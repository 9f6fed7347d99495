import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, onTestFinished, test } from 'vitest'
import { listOf, type ShardServer, startShardServers } from '../saga/servers.ts'
import { migratedDatabase } from '../support/database.ts'
import { type NodeProcess, startNode } from '../support/node.ts'
import { expectAnsweredAreThere, expectBooks, retryUnanswered, type Stage, stage } from './stage.ts'

// What holds a node up; most of the time is waited.

test('SIGTERM ends a node, though clients that say nothing, or half of something, hold on to their connections', async () => {
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

describe('with a database that is silent', () => {
  /** A node under load whose databases stop to answer. */
  async function frozen(): Promise<{ one: Stage; servers: ShardServer[] }> {
    const servers = await startShardServers(2)
    onTestFinished(async () => {
      await Promise.all(servers.map((server) => server.close()))
    })
    // It is started again while they come to.
    const one = await stage({ databaseUrl: listOf(servers), startWaitMs: 60_000 }, Math.random)
    await one.load()
    await Promise.all(servers.map((server) => server.freeze()))
    return { one, servers }
  }

  test('SIGTERM ends the node all the same, in the time that there is, and what callers were told is true', async () => {
    const { one, servers } = await frozen()
    expect(await one.node.stop(), one.node.output()).toBe(0)
    await one.rest()
    for (const server of servers) server.thaw()
    await one.start()
    await expectAnsweredAreThere(one, one.sent)
    await retryUnanswered(one, one.sent)
    await expectBooks(one)
  })

  test('a second signal ends it at once', async () => {
    const { one } = await frozen()
    expect(await endedBySecondSignal(one.node)).toEqual({ code: 143, signal: null })
    await one.rest()
  })

  async function endedBySecondSignal({ pid, output, ended }: NodeProcess) {
    process.kill(pid, 'SIGTERM')
    while (!output().includes('answering what is under way')) await sleep(10)
    process.kill(pid, 'SIGTERM')
    return await ended
  }
})

test('a node says what is wrong and ends, when it cannot start', async () => {
  const nowhere = 'postgres://zerosum:secret-password@127.0.0.1:1/nowhere'
  const started = [{ databaseUrl: nowhere }, { databaseUrl: 'mysql://x' }, { demoKey: 'short' }].map((settings) =>
    startNode({ ...settings, startWaitMs: 1_000 }).then(
      async (node) => {
        await node.kill()
        return new Error('it started')
      },
      (reason: Error) => reason,
    ),
  )
  for (const error of await Promise.all(started)) {
    expect(error.message).toContain('the node did not start')
    expect(error.message).not.toContain('secret-password')
    expect(error.message.split('\n').length, error.message).toBeLessThan(40)
  }
})
