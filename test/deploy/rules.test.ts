import { execFile } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { describeWith } from '../services/available.ts'
import { METRICS } from './metrics.ts'

type Rule = {
  record?: string
  alert?: string
  expr: string
  labels?: Record<string, string>
  annotations?: Record<string, string>
}
type Panel = {
  id: number
  type: string
  title: string
  description?: string
  datasource: { uid: string }
  targets: { expr: string; datasource: { uid: string } }[]
  gridPos: { x: number; y: number; w: number; h: number }
  fieldConfig: { defaults: { unit?: string; thresholds?: { steps: unknown[] } } }
}
type Dashboard = {
  uid: string
  title: string
  schemaVersion: number
  panels: Panel[]
  templating: { list: { definition: string }[] }
  annotations: { list: { expr: string }[] }
}

const run = promisify(execFile)
const ROOT = new URL('../../', import.meta.url)
const DEPLOY = new URL('deploy/', ROOT)
const TOOL_MS_MAX = 560_000

const recordings = rulesOf('recording.yml')
const alerts = rulesOf('alerts.yml')
const alertNames = [...new Set(alerts.map(({ alert = '' }) => alert))].sort()
const testFiles = names('prometheus/tests/').map((file) => ({ file, text: read(`prometheus/tests/${file}`) }))
const dashboardFiles = names('grafana/dashboards/')
const dashboards: [string, Dashboard][] = dashboardFiles.map((file) => [
  file,
  JSON.parse(read(`grafana/dashboards/${file}`)),
])
const { uid } = parse(read('grafana/provisioning/datasources/prometheus.yml')).datasources[0]

describeWith('prometheus', "Prometheus' own tools", () => {
  test('take the configuration and the rules', async () => {
    const { stdout } = await run('promtool', [
      'check',
      'config',
      '--lint=all',
      '--lint-fatal',
      path('prometheus/prometheus.yml'),
    ])
    expect(stdout).toContain('2 rule files found')
  })

  test.each(testFiles)('find that alerts fire when they should and else not: $file', async ({ file }) => {
    const { stdout } = await run('promtool', ['test', 'rules', path(`prometheus/tests/${file}`)], {
      timeout: TOOL_MS_MAX,
    })
    expect(stdout).toContain('SUCCESS')
  })
})

describeWith('alertmanager', "Alertmanager's own tool", () => {
  const config = path('alertmanager/alertmanager.yml')

  test('takes the example', async () => {
    expect((await run('amtool', ['check-config', config])).stdout).toContain('SUCCESS')
  })

  test.each([
    ['ZerosumImbalance', 'page', 'pagerduty'],
    ['ZerosumDown', 'page', 'pagerduty'],
    ['ZerosumRelayLag', 'ticket', 'tickets'],
    ['ZerosumWatchdog', 'none', 'heartbeat'],
  ])('%s, a %s, goes to %s', async (alert, severity, receiver) => {
    const labels = [`alertname=${alert}`, `severity=${severity}`]
    const { stdout } = await run('amtool', ['config', 'routes', 'test', `--config.file=${config}`, ...labels])
    expect(stdout.trim()).toBe(receiver)
  })
})

describe('alerts', () => {
  test.each(testFiles)('are evaluated after what they are made of: $file', ({ text }) => {
    const groups = ['recording.yml', 'alerts.yml'].flatMap((file) => {
      const { groups }: { groups: { name: string }[] } = parse(read(`prometheus/rules/${file}`))
      return groups.map(({ name }) => name)
    })
    expect(parse(text).group_eval_order).toEqual(groups)
  })

  test('inhibitions name alerts that there are', () => {
    const rules: Record<string, string[]>[] = parse(read('alertmanager/alertmanager.yml')).inhibit_rules
    const matchers = rules.flatMap(({ source_matchers = [], target_matchers = [] }) => [
      ...source_matchers,
      ...target_matchers,
    ])
    const words = matchers.flatMap((matcher) => {
      const [, list = ''] = /"?Zerosum\(([^)]*)\)/.exec(matcher) ?? []
      return list ? list.split('|').map((name) => `Zerosum${name}`) : (matcher.match(/Zerosum[A-Z]\w+/g) ?? [])
    })
    expect(words.length).toBeGreaterThan(10)
    for (const word of words) expect(alertNames).toContain(word)
  })

  test.each(alerts.map((rule) => [rule.alert, rule] as const))(
    '%s says how urgent it is, what it is, and what to read',
    (_, rule) => {
      expect(['page', 'ticket', 'none']).toContain(rule.labels?.['severity'])
      const { summary, description, runbook_url = '' } = rule.annotations ?? {}
      expect(summary).toMatch(/^[A-Z].*[^.]$/)
      expect(description).toMatch(/\.$/)
      expect(runbook_url).toBe(`docs/operations/runbooks/${fileOf(rule.alert)}`)
      expect(existsSync(new URL(runbook_url, ROOT))).toBe(true)
    },
  )

  test.each(alertNames)('%s has a test in which it fires', (alert) => {
    const named = testFiles.some(
      ({ text }) => text.includes(`alertname="${alert}"`) || text.includes(`alertname: ${alert}\n`),
    )
    expect(named).toBe(true)
  })
})

describe('runbooks', () => {
  const folder = new URL('docs/operations/runbooks/', ROOT)
  const files = readdirSync(folder).sort()

  test('there is one for every alert, and none for anything else', () => {
    expect(files).toEqual(alertNames.map(fileOf).sort())
  })

  test.each(files)('%s answers the same questions as the others', (file) => {
    const text = readFileSync(new URL(file, folder), 'utf8')
    const headings = [...text.matchAll(/^## (.*)$/gm)].map(([, heading]) => heading)
    expect(headings).toEqual(['What it means', 'What users notice', 'Look at', 'Do', "Don't", 'It is over when'])
    expect(fileOf(/^# (Zerosum\w+)/.exec(text)?.[1])).toBe(file)
    for (const [, link = ''] of text.matchAll(/\]\(([^)#]+)\)/g)) {
      if (!link.startsWith('http')) expect(existsSync(new URL(link, new URL(file, folder))), link).toBe(true)
    }
    expect(unknownMetrics([text])).toEqual([])
  })
})

test('the index of the operators has every alert with its urgency, and links that lead somewhere', () => {
  const folder = new URL('docs/operations/', ROOT)
  const text = readFileSync(new URL('README.md', folder), 'utf8')
  for (const name of alertNames) {
    const urgency = alerts.filter(({ alert }) => alert === name).map(({ labels }) => labels?.['severity'])
    expect(text).toContain(`| [${name}](runbooks/${fileOf(name)}) | ${[...new Set(urgency)].join(', ')} |`)
  }
  for (const [, link = ''] of text.matchAll(/\]\(([^)#]+)[^)]*\)/g)) {
    expect(existsSync(new URL(link, folder)), link).toBe(true)
  }
})

describe('metrics', () => {
  test('rules ask for metrics that there are', () => {
    expect(unknownMetrics([...recordings, ...alerts].map(({ expr }) => expr))).toEqual([])
  })

  test('every recorded series is used, by an alert, a dashboard or a runbook', () => {
    const runbooks = readdirSync(new URL('docs/operations/runbooks/', ROOT)).map((file) =>
      readFileSync(new URL(`docs/operations/runbooks/${file}`, ROOT), 'utf8'),
    )
    const used = [
      ...alerts.map(({ expr }) => expr),
      ...dashboardFiles.map((file) => read(`grafana/dashboards/${file}`)),
      ...runbooks,
    ].join('\n')
    expect(recordings.filter(({ record = '' }) => !used.includes(record))).toEqual([])
  })
})

describe.each(dashboards)('%s', (file, dashboard) => {
  const { panels } = dashboard

  test('is a dashboard that Grafana can load, by a name and id of its own', () => {
    expect(`${dashboard.uid}.json`).toBe(file)
    expect(dashboards.filter(([, { title }]) => title === dashboard.title)).toHaveLength(1)
    expect(dashboard.schemaVersion).toBeGreaterThanOrEqual(39)
    expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length)
  })

  test('every panel has a unit, thresholds, a description and queries of the one data source', () => {
    for (const panel of panels) {
      const { unit, thresholds } = panel.fieldConfig.defaults
      expect(unit, panel.title).toBeTruthy()
      expect(thresholds?.steps.length, panel.title).toBeGreaterThan(0)
      expect(panel.description, panel.title).toMatch(/\.$/)
      for (const { datasource } of [panel, ...panel.targets]) expect(datasource.uid).toBe(uid)
      expect(panel.targets.length).toBeGreaterThan(0)
    }
  })

  test('panels lie side by side, on 24 columns', () => {
    const taken = new Set<string>()
    for (const { gridPos, title } of panels) {
      expect(gridPos.x + gridPos.w, title).toBeLessThanOrEqual(24)
      for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
        for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
          expect(taken.has(`${x} ${y}`), title).toBe(false)
          taken.add(`${x} ${y}`)
        }
      }
    }
  })

  test('it asks for metrics that there are', () => {
    const exprs = panels.flatMap(({ targets }) => targets.map(({ expr }) => expr))
    const others = [
      ...dashboard.templating.list.map(({ definition }) => definition),
      ...dashboard.annotations.list.map(({ expr }) => expr),
    ]
    expect(unknownMetrics([...exprs, ...others])).toEqual([])
  })
})

/** What is named like a metric or a recorded series and is none. */
function unknownMetrics(texts: readonly string[]): string[] {
  const histograms = METRICS.filter(({ type }) => type === 'histogram')
  const known = new Set([
    ...METRICS.map(({ name }) => name),
    ...histograms.flatMap(({ name }) => [`${name}_bucket`, `${name}_sum`, `${name}_count`]),
    ...recordings.map(({ record }) => record),
  ])
  const named = texts.flatMap(
    (text) => text.match(/\b(?:zerosum:[a-z0-9_:]*\w|(?:zerosum|process|nodejs)_[a-z0-9_]*\w)/g) ?? [],
  )
  return [...new Set(named)].filter((name) => !known.has(name) && name !== 'zerosum_app')
}

/** ZerosumAuditOld has audit-old.md. */
function fileOf(alert = ''): string {
  return `${alert
    .replace('Zerosum', '')
    .replaceAll(/(?<!^)([A-Z])/g, '-$1')
    .toLowerCase()}.md`
}

function rulesOf(file: string): Rule[] {
  const { groups }: { groups: { rules: Rule[] }[] } = parse(read(`prometheus/rules/${file}`))
  return groups.flatMap(({ rules }) => rules)
}

function names(folder: string): string[] {
  return readdirSync(new URL(folder, DEPLOY)).sort()
}

function path(file: string): string {
  return fileURLToPath(new URL(file, DEPLOY))
}

function read(file: string): string {
  return readFileSync(path(file), 'utf8')
}
