import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { Finding } from '../../src/doctor/finding.ts'
import { startCommand, startNode } from '../support/node.ts'

type Report = { ok: boolean; findings: Finding[] }

describe('zerosum doctor', () => {
  test('finds an installation well, beside its running node', async () => {
    const dataDir = await mkdtemp(join(tmpdir(), 'zerosum-doctor-'))
    onTestFinished(() => rm(dataDir, { recursive: true, force: true }))
    const node = await startNode({ dataDir })
    onTestFinished(() => node.kill())
    const { code, output } = await startCommand(['doctor', '--json'], { dataDir }).ended
    const { ok, findings } = JSON.parse(output) as Report
    expect(findings.filter(({ level, about }) => level !== 'ok' && about !== 'disk')).toEqual([])
    expect(new Set(findings.map(({ about }) => about))).toEqual(
      new Set(['node', 'settings', 'shard 0', 'shard 1', 'shards 0, 1', 'shards', 'disk']),
    )
    expect({ ok, code }).toEqual({ ok: true, code: 0 })
    expect(await node.stop()).toBe(0)
  })

  test('names every mistake in the settings, and what does not answer, and ends with code 1', async () => {
    const mistaken = await startCommand(['doctor'], { databaseUrl: 'mysql://x', redisUrl: 'here', demoKey: 'short' })
      .ended
    for (const name of ['ZEROSUM_SHARDS, item 1', 'REDIS_URL', 'ZEROSUM_DEMO_KEY']) {
      expect(mistaken.output).toMatch(new RegExp(`^fail {2}settings: ${name}`, 'm'))
    }
    expect(mistaken.code).toBe(1)

    const nobody = await startCommand(['doctor'], {
      databaseUrl: 'postgres://me:secret@127.0.0.1:9/nowhere',
      redisUrl: 'redis://127.0.0.1:9',
      kafkaBrokers: '127.0.0.1:9',
    }).ended
    for (const about of ['shard 0: 127.0.0.1:9/nowhere', 'redis: it', 'kafka: the brokers']) {
      expect(nobody.output).toMatch(new RegExp(`^fail {2}${about} do(es)? not answer: .*\\n {8}\\S`, 'm'))
    }
    expect(nobody.output).not.toContain('secret')
    expect(nobody.code).toBe(1)
  })
})
