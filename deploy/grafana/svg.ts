/** A panel with what was found for it. */
export type DrawnPanel = {
  readonly title: string
  readonly kind: 'timeseries' | 'stat'
  /** Grafana's name of it: s, bytes, percentunit, reqps, ops, short, none. */
  readonly unit: string
  readonly place: { readonly x: number; readonly y: number; readonly w: number; readonly h: number }
  /** From the lowest; a value is coloured by the last that it reaches. `null` is below all. */
  readonly thresholds: readonly { readonly color: string; readonly value: number | null }[]
  /** Points are seconds since 1970 and a value, in the order of time. */
  readonly series: readonly { readonly name: string; readonly points: readonly (readonly [number, number])[] }[]
}

export type Drawing = {
  readonly title: string
  /** Of the time axis, seconds since 1970. */
  readonly from: number
  readonly to: number
  readonly panels: readonly DrawnPanel[]
}

/** What long times are counted in, from how many seconds on. */
const WHOLES = [
  { name: 'd', seconds: 86_400, from: 172_800 },
  { name: 'h', seconds: 3_600, from: 7_200 },
  { name: 'min', seconds: 60, from: 120 },
] as const

type Box = { readonly x: number; readonly y: number; readonly w: number; readonly h: number }

const COLUMN = 50
const ROW = 26
const GAP = 8
const HEADER = 44
const PALETTE = [
  '#4e9a51',
  '#c99a1c',
  '#3f7fc4',
  '#d0622a',
  '#b5434f',
  '#7b5bb0',
  '#2a9d95',
  '#8a6d3b',
  '#c25c9c',
  '#6b7280',
]
const COLORS: Readonly<Record<string, string>> = { green: '#4e9a51', orange: '#d98a1c', red: '#c4323f' }
const LEGEND_ROWS_MAX = 3
/** About what a character of the 10-pixel legend takes. */
const CHARACTER = 5.6
/** A line is broken where points are missing for longer than so many usual steps. */
const STEPS_MISSING = 2.5

/** Draws panels where their dashboard has them, as an SVG that needs nothing else. The same data make the same picture. */
export function drawSvg({ title, from, to, panels }: Drawing): string {
  const width = 24 * COLUMN
  const height = HEADER + Math.max(0, ...panels.map(({ place }) => place.y + place.h)) * ROW + GAP
  const span = `${clock(from, true)} to ${clock(to, true)} UTC`
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="Helvetica, Arial, sans-serif">`,
    `<title>${escaped(title)}</title>`,
    `<rect width="${width}" height="${height}" fill="#f4f5f7"/>`,
    text(GAP + 4, 28, title, 'font-size="18" font-weight="bold" fill="#1f2937"'),
    text(width - GAP - 4, 28, span, 'font-size="12" text-anchor="end" fill="#6b7280"'),
    ...panels.map((panel) => drawPanel(panel, from, to)),
    '</svg>\n',
  ].join('\n')
}

function drawPanel(panel: DrawnPanel, from: number, to: number): string {
  const { place, title } = panel
  const box = {
    x: place.x * COLUMN + GAP / 2,
    y: HEADER + place.y * ROW + GAP / 2,
    w: place.w * COLUMN - GAP,
    h: place.h * ROW - GAP,
  }
  return [
    '<g>',
    `<rect x="${box.x}" y="${box.y}" width="${box.w}" height="${box.h}" rx="3" fill="#ffffff" stroke="#d7dae0"/>`,
    text(box.x + 10, box.y + 18, title, 'font-size="12" font-weight="bold" fill="#374151"'),
    panel.kind === 'stat' ? drawStat(panel, box) : drawLines(panel, box, from, to),
    '</g>',
  ].join('\n')
}

function drawStat({ series, thresholds, unit }: DrawnPanel, { x, y, w, h }: Box): string {
  const value = series[0]?.points.at(-1)?.[1]
  if (value === undefined) return noData({ x, y, w, h })
  const reached = thresholds.findLast((step) => step.value === null || value >= step.value)
  const fill = COLORS[reached?.color ?? ''] ?? '#374151'
  return text(
    x + w / 2,
    y + h / 2 + 22,
    formatValue(value, unit),
    `font-size="30" font-weight="bold" text-anchor="middle" fill="${fill}"`,
  )
}

function drawLines(panel: DrawnPanel, box: Box, from: number, to: number): string {
  const { series, unit, thresholds } = panel
  const values = series.flatMap(({ points }) => points.map(([, value]) => value))
  if (values.length === 0) return noData(box)
  const legend = legendRows(series, box.w - 24)
  const plot = { x: box.x + 58, y: box.y + 30, w: box.w - 72, h: box.h - 54 - legend.length * 14 }
  const step = niceStep(Math.max(...values) / 3, unit)
  const top = Math.max(step, Math.ceil(Math.max(...values) / step) * step)
  const xOf = (time: number) => round(plot.x + ((time - from) / (to - from)) * plot.w)
  const yOf = (value: number) => round(plot.y + plot.h - (Math.max(0, value) / top) * plot.h)
  const out: string[] = []
  for (let tick = 0; tick <= top * 1.001; tick += step) {
    const y = yOf(tick)
    out.push(`<line x1="${plot.x}" x2="${plot.x + plot.w}" y1="${y}" y2="${y}" stroke="#e5e7eb"/>`)
    out.push(text(plot.x - 6, y + 3.5, formatValue(tick, unit), 'font-size="10" text-anchor="end" fill="#6b7280"'))
  }
  for (const part of [0.1, 0.5, 0.9]) {
    const time = from + part * (to - from)
    const label = clock(time, to - from < 600)
    out.push(text(xOf(time), plot.y + plot.h + 14, label, 'font-size="10" text-anchor="middle" fill="#6b7280"'))
  }
  for (const { value, color } of thresholds) {
    if (value === null || value > top) continue
    out.push(
      `<line x1="${plot.x}" x2="${plot.x + plot.w}" y1="${yOf(value)}" y2="${yOf(value)}" stroke="${COLORS[color] ?? color}" stroke-dasharray="4 3"/>`,
    )
  }
  for (const [i, { points }] of series.entries()) {
    const d = unbroken(points).map((run) => `M${run.map(([t, v]) => `${xOf(t)} ${yOf(v)}`).join('L')}`)
    out.push(`<path d="${d.join('')}" fill="none" stroke="${colorOf(i)}" stroke-width="1.5" stroke-linecap="round"/>`)
  }
  for (const [row, items] of legend.entries()) {
    const y = plot.y + plot.h + 32 + row * 14
    for (const { x, color, name } of items) {
      if (color) out.push(`<rect x="${box.x + 12 + x}" y="${y - 7}" width="10" height="4" rx="1" fill="${color}"/>`)
      out.push(text(box.x + 12 + x + 14, y, name, 'font-size="10" fill="#4b5563"'))
    }
  }
  return out.join('\n')
}

type LegendItem = { readonly x: number; readonly name: string; readonly color?: string }

/** Names in rows that fit; how many more there are, if not all do. */
function legendRows(series: DrawnPanel['series'], width: number): LegendItem[][] {
  const rows: LegendItem[][] = [[]]
  let x = 0
  for (const [i, { name }] of series.entries()) {
    const short = name.length > 40 ? `${name.slice(0, 39)}…` : name
    const w = 14 + short.length * CHARACTER + 12
    // The last place is kept for the number of those that are left out.
    const limit = rows.length === LEGEND_ROWS_MAX && i < series.length - 1 ? width - 70 : width
    if (x > 0 && x + w > limit) {
      if (rows.length === LEGEND_ROWS_MAX) {
        rows.at(-1)?.push({ x, name: `and ${series.length - i} more` })
        break
      }
      rows.push([])
      x = 0
    }
    rows.at(-1)?.push({ x, name: short, color: colorOf(i) })
    x += w
  }
  return rows
}

/** Cuts a line where points are missing. */
function unbroken(points: readonly (readonly [number, number])[]): (readonly [number, number])[][] {
  const steps = points.slice(1).map(([time], i) => time - (points[i]?.[0] ?? time))
  const usual = Math.min(...steps)
  const runs: (readonly [number, number])[][] = []
  for (const [i, point] of points.entries()) {
    if (i === 0 || (steps[i - 1] ?? 0) > usual * STEPS_MISSING) runs.push([])
    runs.at(-1)?.push(point)
  }
  return runs
}

function noData({ x, y, w, h }: Box): string {
  return text(x + w / 2, y + h / 2 + 8, 'no data', 'font-size="13" text-anchor="middle" fill="#9ca3af"')
}

/** 1, 2 or 5 times a power of ten of what the unit is counted in there, not less than what is given; 1 for nothing. */
function niceStep(least: number, unit: string): number {
  if (!(least > 0)) return 1
  if (unit === 'bytes' && least >= 1024) return niceStep(least / 1024, unit) * 1024
  const whole = unit === 's' ? WHOLES.find(({ from }) => least * 3 >= from) : undefined
  if (whole) return niceStep(least / whole.seconds, 'none') * whole.seconds
  const power = 10 ** Math.floor(Math.log10(least))
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least * 0.999) ?? 10 * power
}

/** As people read it, in the unit's own steps. */
export function formatValue(value: number, unit: string): string {
  const size = Math.abs(value)
  switch (unit) {
    case 's': {
      if (size === 0) return '0 s'
      if (size < 0.001) return `${short(value * 1e6)} µs`
      if (size < 1) return `${short(value * 1e3)} ms`
      const whole = WHOLES.find(({ from }) => size >= from)
      return whole ? `${short(value / whole.seconds)} ${whole.name}` : `${short(value)} s`
    }
    case 'bytes': {
      const power = Math.min(4, Math.floor(Math.log2(Math.max(1, size)) / 10))
      return `${short(value / 1024 ** power)} ${['B', 'KiB', 'MiB', 'GiB', 'TiB'][power]}`
    }
    case 'percentunit':
      return `${short(value * 100)} %`
    case 'reqps':
    case 'ops':
      return `${scaled(value)}/s`
    default:
      return scaled(value)
  }
}

function scaled(value: number): string {
  const size = Math.abs(value)
  if (size >= 1e9) return `${short(value / 1e9)} G`
  if (size >= 1e6) return `${short(value / 1e6)} M`
  return size >= 1e4 ? `${short(value / 1e3)} k` : short(value)
}

/** Three digits that count. */
function short(value: number): string {
  return `${Number(value.toPrecision(3))}`
}

function clock(seconds: number, hasSeconds: boolean): string {
  return new Date(seconds * 1000).toISOString().slice(11, hasSeconds ? 19 : 16)
}

function colorOf(i: number): string {
  return PALETTE[i % PALETTE.length] ?? '#000000'
}

function round(pixels: number): number {
  return Math.round(pixels * 10) / 10
}

function text(x: number, y: number, content: string, attributes: string): string {
  const safe = escaped(content)
  return `<text x="${round(x)}" y="${round(y)}" ${attributes}>${safe}</text>`
}

function escaped(content: string): string {
  return content.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}
