/** What one run measured. Latencies are from asking to being answered. */
export type Measure = {
  name: string
  transfers: number
  seconds: number
  perSecond: number
  blockSize?: number
  p50Ms?: number
  p99Ms?: number
}

/** Times the answers of one run. */
export function measureRun(name: string): {
  sample(ms: number): void
  end(transfers: number, blocks?: number): Measure
} {
  const samples: number[] = []
  const began = performance.now()
  return {
    sample: (ms) => samples.push(ms),
    end(transfers, blocks) {
      const seconds = (performance.now() - began) / 1000
      samples.sort((a, b) => a - b)
      const at = (part: number) => samples[Math.min(samples.length - 1, Math.floor(samples.length * part))] ?? 0
      return {
        name,
        transfers,
        seconds,
        perSecond: transfers / seconds,
        ...(blocks ? { blockSize: transfers / blocks } : {}),
        ...(samples.length > 0 ? { p50Ms: at(0.5), p99Ms: at(0.99) } : {}),
      }
    },
  }
}

/** A table of measures for people. @param what is counted */
export function printMeasures(measures: readonly Measure[], what = 'transfers'): void {
  const cell = (value: number | undefined, digits: number) =>
    value === undefined ? '-' : value.toLocaleString('en-US', { maximumFractionDigits: digits })
  const rows = [
    ['', `${what}/s`, what, 'block size', 'p50 ms', 'p99 ms'],
    ...measures.map((m) => [
      m.name,
      cell(m.perSecond, 0),
      cell(m.transfers, 0),
      cell(m.blockSize, 0),
      cell(m.p50Ms, 1),
      cell(m.p99Ms, 1),
    ]),
  ]
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? []
  for (const row of rows) {
    console.log(
      row.map((text, i) => (i === 0 ? text.padEnd(widths[i] ?? 0) : text.padStart(widths[i] ?? 0))).join('  '),
    )
  }
}
