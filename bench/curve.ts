/** One step of the load. Rates are a second. */
export type Step = {
  offered: number
  goodput: number
  p50Ms: number
  p99Ms: number
  refusedP99Ms: number
  statuses: Record<string, number>
  memoryMb: number
}

const WIDTH = 720
const HEIGHT = 360
const LEFT = 64
const RIGHT = 64
const TOP = 28
const BOTTOM = 48

/** The curve of a run as SVG: what is offered, how much of it goes through, and the p99 of that. */
export function drawCurve(steps: readonly Step[], breaking: number): string {
  const most = Math.max(...steps.map(({ offered }) => offered))
  const goodputMax = roundUp(Math.max(...steps.map(({ goodput }) => goodput)))
  const msMax = roundUp(Math.max(1_000, ...steps.map(({ p99Ms }) => p99Ms)))
  const x = (offered: number) => LEFT + (offered / most) * (WIDTH - LEFT - RIGHT)
  const y = (part: number) => HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
  const line = (values: readonly [number, number][], colour: string, dash = '') =>
    `<polyline fill="none" stroke="${colour}" stroke-width="2"${dash} points="${values.map(([a, b]) => `${a.toFixed(1)},${b.toFixed(1)}`).join(' ')}"/>`
  const text = (left: number, top: number, words: string, more = '') =>
    `<text x="${left.toFixed(1)}" y="${top.toFixed(1)}" ${more}>${words}</text>`
  const quarters = [0, 0.25, 0.5, 0.75, 1]
  const number = (value: number) => Math.round(value).toLocaleString('en-US')
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12" fill="#333">
<title>Overload: what is offered, what of it is good, and how long that takes</title>
<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>
${quarters.map((part) => `<path d="M${LEFT} ${y(part)}H${WIDTH - RIGHT}" stroke="#ddd"/>`).join('\n')}
${quarters.map((part) => text(LEFT - 8, y(part) + 4, number(part * goodputMax), 'text-anchor="end" fill="#0a6"')).join('\n')}
${quarters.map((part) => text(WIDTH - RIGHT + 8, y(part) + 4, number(part * msMax), 'fill="#c40"')).join('\n')}
${quarters.map((part) => text(x(part * most), HEIGHT - BOTTOM + 18, number(part * most), 'text-anchor="middle"')).join('\n')}
<path d="M${x(breaking).toFixed(1)} ${TOP}V${HEIGHT - BOTTOM}" stroke="#888" stroke-dasharray="4 4"/>
${text(x(breaking) + 6, TOP + 12, `it breaks: ${number(breaking)}/s`)}
${line(
  steps.map(({ offered, goodput }) => [x(offered), y(goodput / goodputMax)]),
  '#0a6',
)}
${line(
  steps.map(({ offered, p99Ms }) => [x(offered), y(p99Ms / msMax)]),
  '#c40',
  ' stroke-dasharray="6 3"',
)}
${text(LEFT, 16, 'transfers accepted a second', 'fill="#0a6"')}
${text(WIDTH - RIGHT, 16, 'p99 of these, ms (dashed)', 'text-anchor="end" fill="#c40"')}
${text(WIDTH / 2, HEIGHT - 10, 'transfers offered a second', 'text-anchor="middle"')}
</svg>
`
}

/** To two digits, upwards. */
function roundUp(value: number): number {
  const step = 10 ** Math.max(0, Math.floor(Math.log10(value)) - 1)
  return Math.ceil(value / step) * step
}
