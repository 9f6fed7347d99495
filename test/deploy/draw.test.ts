import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Dashboard, drawDashboard } from '../../deploy/grafana/draw.ts'
import { type DrawnPanel, drawSvg, formatValue } from '../../deploy/grafana/svg.ts'
import { describeWith } from '../services/available.ts'
import { type PrometheusServer, startPrometheus } from '../services/prometheus.ts'
import { exposition } from './metrics.ts'

const DEPLOY = new URL('../../deploy/', import.meta.url)
const FILES = readdirSync(new URL('grafana/dashboards/', DEPLOY)).sort()
const RULES = fileURLToPath(new URL('prometheus/rules/*.yml', DEPLOY))

describeWith('prometheus', 'dashboards drawn from a Prometheus', () => {
  let exporter: Server
  let prometheus: PrometheusServer
  const beganMs = Date.now()

  beforeAll(async () => {
    exporter = createServer((_, response) => {
      response.setHeader('content-type', 'text/plain; version=0.0.4')
      response.end(exposition((Date.now() - beganMs) / 1000))
    }).listen(0, '127.0.0.1')
    await once(exporter, 'listening')
    const { port } = exporter.address() as AddressInfo
    prometheus = await startPrometheus({ targets: [`127.0.0.1:${port}`], rules: [RULES] })
    // Two scrapes make a rate; the rules come after them.
    await untilThere('zerosum:http_slow_posts:ratio_rate1h offset 3s >= 0')
    await untilThere('rate(nodejs_gc_duration_seconds_sum[4s] offset 3s)')
  })

  afterAll(async () => {
    await prometheus?.stop()
    exporter?.closeAllConnections()
    exporter?.close()
  })

  async function untilThere(query: string): Promise<void> {
    for (let tries = 0; tries < 1_800; tries++) {
      const response = await fetch(`${prometheus.url}/api/v1/query?${new URLSearchParams({ query })}`)
      const { data } = (await response.json()) as { data: { result: unknown[] } }
      if (data.result.length > 0) return
      await sleep(100)
    }
    throw new Error(`Prometheus has nothing for ${query}`)
  }

  const options = () => {
    const now = Math.floor(Date.now() / 1000)
    return { prometheus: prometheus.url, from: now - 60, to: now, scrapeSeconds: 1 }
  }

  test.each(FILES)('every panel of %s shows what a node that works has', async (file) => {
    const svg = await drawDashboard(dashboardOf(file), options())
    const panels = svg.split('<g>').slice(1)
    expect(panels).toHaveLength(dashboardOf(file).panels.length)
    const empty = panels.filter((panel) => panel.includes('no data'))
    expect(empty.map((panel) => /bold" fill="#374151">([^<]*)/.exec(panel)?.[1])).toEqual([])
  })

  test('a panel without data says so, and a query that is wrong is an error with its words', async () => {
    const dashboard = dashboardOf(FILES[0] ?? '')
    const asking = (expr: string) => ({
      ...dashboard,
      panels: dashboard.panels.slice(0, 1).map((panel) => ({ ...panel, targets: [{ expr, legendFormat: '' }] })),
    })
    expect(await drawDashboard(asking('zerosum_nothing'), options())).toContain('no data')
    await expect(drawDashboard(asking('sum(('), options())).rejects.toThrow(/^sum\(\(: .*unclosed/)
  })
})

describe('what is drawn', () => {
  const panel: Omit<DrawnPanel, 'series'> = {
    ...{ title: 'A <b> & c', kind: 'timeseries', unit: 'none', place: { x: 0, y: 0, w: 8, h: 8 } },
    thresholds: [
      { color: 'green', value: null },
      { color: 'red', value: 2 },
    ],
  }
  const lineOf = (points: [number, number][]) =>
    /<path d="([^"]*)"/.exec(
      drawSvg({ title: 't', from: 0, to: 100, panels: [{ ...panel, series: [{ name: 'a', points }] }] }),
    )?.[1]

  test('a line goes up where values go up, and is broken where some are missing', () => {
    const [[, y0], [, y1]] = [
      ...(
        lineOf([
          [0, 1],
          [100, 3],
        ]) ?? ''
      ).matchAll(/([\d.]+) ([\d.]+)/g),
    ].map(([, x, y]) => [Number(x), Number(y)]) as [[number, number], [number, number]]
    expect(y1).toBeLessThan(y0)
    const runs = (points: [number, number][]) => lineOf(points)?.split('M').length
    expect(
      runs([
        [0, 1],
        [10, 1],
        [20, 1],
        [30, 1],
      ]),
    ).toBe(2)
    expect(
      runs([
        [0, 1],
        [10, 1],
        [80, 1],
        [90, 1],
      ]),
    ).toBe(3)
  })

  test('a single value has the color of the last threshold that it reaches', () => {
    const stat = (value: number) =>
      drawSvg({
        title: 't',
        from: 0,
        to: 1,
        panels: [{ ...panel, kind: 'stat', series: [{ name: '', points: [[0, value]] }] }],
      })
    expect(stat(1.9)).toContain('fill="#4e9a51">1.9<')
    expect(stat(2)).toContain('fill="#c4323f">2<')
  })

  test.each([
    [300e6, 'bytes', ['0 B', '100 MiB', '200 MiB', '300 MiB']],
    [5_000, 's', ['0 s', '50 min', '100 min']],
    [0.03, 's', ['0 s', '10 ms', '20 ms', '30 ms']],
    [0, 'none', ['0', '1']],
  ])('up to %d %s the axis says %j', (value, unit, expected) => {
    const drawing = {
      title: 't',
      from: 0,
      to: 1,
      panels: [{ ...panel, unit, series: [{ name: '', points: [[0, value] as const] }] }],
    }
    const labels = [...drawSvg(drawing).matchAll(/text-anchor="end" fill="#6b7280">([^<]*)</g)].map(
      ([, label]) => label,
    )
    expect(labels.slice(1)).toEqual(expected)
  })

  test('names are text, not markup', () => {
    expect(drawSvg({ title: 't', from: 0, to: 1, panels: [{ ...panel, series: [] }] })).toContain('A &lt;b&gt; &amp; c')
  })

  test.each([
    [0.0000042, 's', '4.2 µs'],
    [0.25, 's', '250 ms'],
    [90, 's', '90 s'],
    [600, 's', '10 min'],
    [7200, 's', '2 h'],
    [259200, 's', '3 d'],
    [1536, 'bytes', '1.5 KiB'],
    [0.0005, 'percentunit', '0.05 %'],
    [1234567, 'short', '1.23 M'],
    [12, 'reqps', '12/s'],
    [0, 's', '0 s'],
  ])('%d %s reads %s', (value, unit, expected) => {
    expect(formatValue(value, unit)).toBe(expected)
  })
})

function dashboardOf(file: string): Dashboard {
  return JSON.parse(readFileSync(new URL(`grafana/dashboards/${file}`, DEPLOY), 'utf8'))
}
