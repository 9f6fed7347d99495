import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { parse } from 'yaml'
import { describeWith } from '../services/available.ts'
import { dataDirectory } from '../services/process.ts'
import { shortened } from './shortRules.ts'

const run = promisify(execFile)
const RULES = new URL('../../deploy/prometheus/rules/', import.meta.url)
const FILES = ['alerts.yml', 'recording.yml']
const read = (file: string) => readFileSync(new URL(file, RULES), 'utf8')

const rule = (expr: string, more: object = {}) =>
  JSON.stringify({ groups: [{ name: 'g', interval: '2m', rules: [{ alert: 'A', expr, ...more }] }] })

test.each([
  ['sum(rate(x[5m])) / sum(rate(x[1h]))', 'sum(rate(x[5000ms])) / sum(rate(x[60000ms]))'],
  ['x > 1.2 * (x offset 1h)', 'x > 1.2 * (x offset 60000ms)'],
  ['zerosum:ratio_rate1h > 14.4 * 0.01', 'zerosum:ratio_rate1h > 14.4 * 0.01'],
  ['a:rate6h * b:rate6h * 21600 >= 5', 'a:rate6h * b:rate6h * 360 >= 5'],
  ['time() - max(x_seconds) > 7200', 'time() - max(x_seconds) > 120'],
  ['max by (shard) (x_lag_seconds) > 60', 'max by (shard) (x_lag_seconds) > 1'],
  ['x_age_seconds > 2 or x_depth > 16000', 'x_age_seconds > 2 or x_depth > 16000'],
])('60 times as fast, %s is %s', (expr, expected) => {
  expect(parse(shortened(rule(expr), 60)).groups[0].rules[0].expr).toBe(expected)
})

test('durations of groups and alerts are shorter, the rest stays', () => {
  const [group] = parse(shortened(rule('x', { for: '10m', labels: { severity: 'page' } }), 60)).groups
  expect(group).toEqual({
    ...{ name: 'g', interval: '2000ms' },
    rules: [{ alert: 'A', expr: 'x', for: '10000ms', labels: { severity: 'page' } }],
  })
})

test.each(FILES)('nothing in %s is left as long as it was', (file) => {
  const text = shortened(read(file), 60)
  expect(text.match(/(?:for|interval): \d+[smhd]\b|\[\d+[smhd]\]|offset \d+[smhd]\b/g)).toBeNull()
  expect(text.match(/_seconds\)* > [3-9]\d{2,}|\* (?:3600|21600)\b/g)).toBeNull()
})

describeWith('prometheus', 'Prometheus', () => {
  test.each(FILES)('takes the shortened %s', async (file) => {
    const short = join(await dataDirectory('rules'), file)
    await writeFile(short, shortened(read(file), 60))
    expect((await run('promtool', ['check', 'rules', short])).stdout).toContain('SUCCESS')
  })
})
