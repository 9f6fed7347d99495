import { once } from 'node:events'
import { rename, writeFile } from 'node:fs/promises'
import { Agent, request } from 'node:https'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect } from 'node:tls'
import { expect, onTestFinished, test } from 'vitest'
import { freePorts } from '../services/ports.ts'
import { createAuthority, type Issued, writeFiles } from '../support/authority.ts'
import { migratedDatabase } from '../support/database.ts'
import { type NodeProcess, startNode } from '../support/node.ts'

const authority = createAuthority()
const issue = (name: string) => authority.issue({ names: ['IP:127.0.0.1', `DNS:${name}`] })

/** A node with TLS, its files, and the port of its probes. */
async function openNode(first: Issued, more: Record<string, string> = {}) {
  const files = await writeFiles({ cert: first.cert, key: first.key, ca: authority.cert }, onTestFinished)
  const [probePort = 0] = await freePorts(1)
  const node = await startNode({
    databaseUrl: await migratedDatabase(),
    env: {
      ...{ ZEROSUM_TLS_CERT: files.cert, ZEROSUM_TLS_KEY: files.key, ZEROSUM_PROBE_PORT: `${probePort}` },
      ...(more['clientCa'] === undefined ? {} : { ZEROSUM_TLS_CLIENT_CA: files.ca }),
    },
  })
  onTestFinished(() => node.kill())
  return { node, files, probePort }
}

/** The names in the certificate that new connections get. */
async function shownNames({ url }: NodeProcess): Promise<string> {
  const socket = connect({ host: '127.0.0.1', port: Number(new URL(url).port), ca: authority.cert })
  await once(socket, 'secureConnect')
  const { subjectaltname = '' } = socket.getPeerCertificate()
  socket.destroy()
  return subjectaltname
}

/** @param agent of a connection that is used meanwhile: one that is idle for long is closed */
async function untilShown(node: NodeProcess, name: string, agent: Agent): Promise<void> {
  while (!(await shownNames(node)).includes(name)) {
    await ask(node, agent)
    await sleep(50)
  }
}

async function replace(path: string, text: string): Promise<void> {
  await writeFile(`${path}.new`, text)
  await rename(`${path}.new`, path)
}

/** The status of a request, and the local port that it went by. */
async function ask({ url }: NodeProcess, agent: Agent): Promise<{ status: number; port: number }> {
  const asked = request(`${url}/livez`, { agent, ca: authority.cert }).end()
  const [answer] = await once(asked, 'response')
  const port = asked.socket?.localPort ?? 0
  answer.resume()
  await once(answer, 'end')
  return { status: answer.statusCode, port }
}

test('new certificates are taken without a restart: at a signal, and by themselves; open connections stay', async () => {
  const { node, files } = await openNode(issue('one.example'))
  expect(await shownNames(node)).toContain('one.example')
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  onTestFinished(() => agent.destroy())
  const before = await ask(node, agent)

  const two = issue('two.example')
  await replace(files.cert, two.cert)
  // Its key is not there yet: the old pair goes on.
  process.kill(node.pid, 'SIGHUP')
  while (!node.output().includes('could not be read again')) await sleep(20)
  expect(await shownNames(node)).toContain('one.example')
  await replace(files.key, two.key)
  process.kill(node.pid, 'SIGHUP')
  await untilShown(node, 'two.example', agent)

  await writeFile(files.key, 'no key')
  process.kill(node.pid, 'SIGHUP')
  const three = issue('three.example')
  await replace(files.cert, three.cert)
  await replace(files.key, three.key)
  // Nobody tells it this time.
  await untilShown(node, 'three.example', agent)

  expect(await ask(node, agent)).toEqual({ status: 200, port: before.port })
  expect(node.output()).not.toContain('PRIVATE KEY')
  expect(await node.stop()).toBe(0)
})

test('probes have a plain port of their own, where there is nothing else', async () => {
  const { node, probePort } = await openNode(issue('one.example'), { clientCa: 'yes' })
  const at = (path: string, more?: RequestInit) => fetch(`http://127.0.0.1:${probePort}${path}`, more)
  expect((await at('/livez')).status).toBe(200)
  expect(await (await at('/readyz?x=1')).json()).toEqual({ status: 'ready' })
  for (const path of ['/v1/wallets', '/docs/', '/openapi.json', '/livez/..%2fv1', '//livez', '/']) {
    expect((await at(path)).status, path).toBe(404)
  }
  expect((await at('/livez', { method: 'POST' })).status).toBe(404)
  await expect(fetch(`${node.url}/livez`)).rejects.toThrow()
  expect(await node.stop()).toBe(0)
})
