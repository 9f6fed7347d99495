import { readFile, writeFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { type DrawnPanel, drawSvg } from './svg.ts'

/**
 * Draws a dashboard as an SVG, without Grafana: asks Prometheus what each panel asks. For pictures in documents, and to see that every
 * panel shows something.
 *
 *   node deploy/grafana/draw.ts --minutes 15 --out overview.svg deploy/grafana/dashboards/zerosum-overview.json
 */

/** Of a dashboard's JSON, what is drawn. */
export type Dashboard = {
  readonly title: string
  readonly panels: readonly {
    readonly title: string
    readonly type: string
    readonly gridPos: DrawnPanel['place']
    readonly targets: readonly { readonly expr: string; readonly legendFormat: string }[]
    readonly fieldConfig: {
      readonly defaults: { readonly unit: string; readonly thresholds: { readonly steps: DrawnPanel['thresholds'] } }
    }
  }[]
}

export type DrawOptions = {
  /** Like `http://127.0.0.1:9090`. */
  readonly prometheus: string
  /** Seconds since 1970. */
  readonly from: number
  readonly to: number
  /** How often Prometheus asks its targets; rates are taken over four times that, as Grafana does. */
  readonly scrapeSeconds: number
}

type Target = Dashboard['panels'][number]['targets'][number]
type Matrix = { readonly metric: Readonly<Record<string, string>>; readonly values: readonly [number, string][] }[]

const POINTS = 200
const ANSWER_MS_MAX = 30_000

/** Variables of the dashboard stand for everything. @throws Error when Prometheus does not answer, or refuses a query */
export async function drawDashboard(dashboard: Dashboard, options: DrawOptions): Promise<string> {
  const panels: DrawnPanel[] = []
  for (const { title, type, gridPos, targets, fieldConfig } of dashboard.panels) {
    if (type !== 'timeseries' && type !== 'stat') throw new Error(`panel ${title}: a ${type} can not be drawn`)
    const { unit, thresholds } = fieldConfig.defaults
    const series: DrawnPanel['series'][number][] = []
    for (const target of targets) series.push(...(await query(target, options)))
    panels.push({ title, kind: type, unit, place: gridPos, thresholds: thresholds.steps, series })
  }
  return drawSvg({ title: dashboard.title, from: options.from, to: options.to, panels })
}

async function query(
  { expr, legendFormat }: Target,
  { prometheus, from, to, scrapeSeconds }: DrawOptions,
): Promise<DrawnPanel['series']> {
  const step = Math.max(1, Math.ceil((to - from) / POINTS))
  const rateSeconds = Math.max(step + scrapeSeconds, 4 * scrapeSeconds)
  const asked = expr.replaceAll('$__rate_interval', `${rateSeconds}s`).replaceAll(/\$\w+/g, '.*')
  const url = new URL('/api/v1/query_range', prometheus)
  url.search = `${new URLSearchParams({ query: asked, start: `${from}`, end: `${to}`, step: `${step}` })}`
  const response = await fetch(url, { signal: AbortSignal.timeout(ANSWER_MS_MAX) })
  const answer = (await response.json()) as { status: string; error?: string; data?: { result: Matrix } }
  if (answer.status !== 'success' || !answer.data) throw new Error(`${asked}: ${answer.error ?? response.status}`)
  return answer.data.result.map(({ metric, values }) => ({
    name: nameOf(legendFormat, metric),
    points: values.flatMap(([time, value]) => (Number.isFinite(Number(value)) ? [[time, Number(value)] as const] : [])),
  }))
}

/** `p99 {{shard}}` with the labels put in. */
function nameOf(format: string, labels: Readonly<Record<string, string>>): string {
  return format.replaceAll(/\{\{\s*(\w+)\s*\}\}/g, (_, label: string) => labels[label] ?? '')
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      prometheus: { type: 'string', default: 'http://127.0.0.1:9090' },
      minutes: { type: 'string', default: '60' },
      scrape: { type: 'string', default: '15' },
      out: { type: 'string' },
    },
  })
  const [file, ...rest] = positionals
  const minutes = Number(values.minutes)
  const scrapeSeconds = Number(values.scrape)
  if (!file || rest.length > 0 || !values.out || !(minutes > 0) || !(scrapeSeconds > 0)) {
    console.error('usage: draw.ts [--prometheus URL] [--minutes N] [--scrape SECONDS] --out FILE.svg DASHBOARD.json')
    process.exitCode = 2
    return
  }
  const to = Math.floor(Date.now() / 1000)
  const dashboard = JSON.parse(await readFile(file, 'utf8')) as Dashboard
  const options = { prometheus: values.prometheus, from: to - minutes * 60, to, scrapeSeconds }
  await writeFile(values.out, await drawDashboard(dashboard, options))
}

if (import.meta.main) await main()
