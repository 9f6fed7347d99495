import { readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { dataDirectory, removeDirectory } from '../services/process.ts'
import { startPrometheus } from '../services/prometheus.ts'
import { shortened } from './shortRules.ts'

/** A Prometheus that looks at a node every second, with the product's own rules by a faster clock: a minute of theirs is a second. */
export type Watch = {
  /** What a query gives: the series with their labels, empty if there are none. */
  ask(query: string): Promise<Series[]>
  /** Alerts that fire now, like `ShardDown page shard=1`. */
  firing(): Promise<string[]>
  /** Those that fired at any time since. @param sinceMs milliseconds since 1970 */
  firedSince(sinceMs: number): Promise<string[]>
  close(): Promise<void>
}

const CLOCK_FACTOR = 60
const ANSWER_MS_MAX = 10_000
const RULES = new URL('../../deploy/prometheus/rules/', import.meta.url)
/** What tells two alerts of one name apart. */
const LABELS = ['window', 'shard', 'dependency', 'group', 'reason', 'pool']

export type Series = { readonly labels: Record<string, string>; readonly value: number }

/** @param nodeUrl `http://host:port` */
export async function startWatch(nodeUrl: string): Promise<Watch> {
  const directory = await dataDirectory('rules')
  const rules = await Promise.all(
    ['recording.yml', 'alerts.yml'].map(async (name) => {
      const file = join(directory, name)
      await writeFile(file, shortened(readFileSync(new URL(name, RULES), 'utf8'), CLOCK_FACTOR))
      return file
    }),
  )
  const prometheus = await startPrometheus({ targets: [new URL(nodeUrl).host], rules })

  async function ask(query: string): Promise<Series[]> {
    const url = `${prometheus.url}/api/v1/query?query=${encodeURIComponent(query)}`
    const answer = await fetch(url, { signal: AbortSignal.timeout(ANSWER_MS_MAX) })
    if (!answer.ok) throw new Error(`Prometheus refuses ${query}: ${await answer.text()}`)
    type Result = { metric: Record<string, string>; value: [number, string] }
    const { data }: { data: { result: Result[] } } = JSON.parse(await answer.text())
    return data.result.map(({ metric, value }) => ({ labels: metric, value: Number(value[1]) }))
  }

  const alerts = async (query: string) => [...new Set((await ask(query)).map(({ labels }) => nameOf(labels)))].sort()
  return {
    ask,
    firing: () => alerts('ALERTS{alertstate="firing"}'),
    firedSince: (sinceMs) =>
      alerts(`count_over_time(ALERTS{alertstate="firing"}[${Math.max(1, Math.ceil((Date.now() - sinceMs) / 1000))}s])`),
    async close() {
      await prometheus.stop()
      await removeDirectory(directory)
    },
  }
}

function nameOf({ alertname = '', severity, ...labels }: Record<string, string>): string {
  const told = LABELS.flatMap((label) => (labels[label] === undefined ? [] : [`${label}=${labels[label]}`]))
  return [alertname.replace(/^Zerosum/, ''), severity, ...told].join(' ')
}
