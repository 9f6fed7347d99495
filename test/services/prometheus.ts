import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { freePorts } from './ports.ts'
import { dataDirectory, removeDirectory, startProcess } from './process.ts'

/** A Prometheus of a test's own. */
export type PrometheusServer = {
  /** `http://127.0.0.1:…` */
  readonly url: string
  /** Ends it and removes its data. */
  stop(): Promise<void>
}

export type PrometheusOptions = {
  /** `host:port` of what it asks, every second, as the job `zerosum`. */
  readonly targets: readonly string[]
  /** Paths of files with rules, `*` among them; evaluated every second, where they do not say otherwise. */
  readonly rules?: readonly string[]
}

/**
 * Starts `prometheus` on a free port of the loopback.
 * @throws Error if it is not there or does not start
 */
export async function startPrometheus({ targets, rules = [] }: PrometheusOptions): Promise<PrometheusServer> {
  const [port = 0] = await freePorts(1)
  const url = `http://127.0.0.1:${port}`
  const directory = await dataDirectory('prometheus')
  const file = join(directory, 'prometheus.yml')
  const scrape = { job_name: 'zerosum', static_configs: [{ targets }] }
  // JSON is YAML too.
  const config = {
    global: { scrape_interval: '1s', evaluation_interval: '1s' },
    rule_files: rules,
    scrape_configs: [scrape],
  }
  await writeFile(file, JSON.stringify(config))
  const server = await startProcess({
    name: 'Prometheus',
    file: 'prometheus',
    args: [
      `--config.file=${file}`,
      `--storage.tsdb.path=${join(directory, 'data')}`,
      `--web.listen-address=127.0.0.1:${port}`,
    ],
    isReady: () =>
      fetch(`${url}/-/ready`, { signal: AbortSignal.timeout(1_000) }).then(
        ({ ok }) => ok,
        () => false,
      ),
  })
  return {
    url,
    async stop() {
      await server.stop()
      await removeDirectory(directory)
    },
  }
}
