import { freePorts } from './ports.ts'
import { type ServerProcess, startProcess } from './process.ts'

/** HAProxy as the project ships it. */
export type Haproxy = {
  /** Of the API. */
  readonly url: string
  /** Where its metrics are. */
  readonly metricsUrl: string
  readonly process: ServerProcess
}

/**
 * Starts HAProxy with deploy/haproxy/haproxy.cfg before nodes, which need not be there yet.
 * @param nodes `host:port` of each, one to three
 * @param env what it is told beside that
 * @throws Error if HAProxy is not there or does not start
 */
export async function startHaproxy(nodes: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Haproxy> {
  const [port = 0, metricsPort = 0] = await freePorts(2)
  const metricsUrl = `http://127.0.0.1:${metricsPort}/metrics`
  const process = await startProcess({
    name: 'HAProxy',
    file: 'haproxy',
    args: ['-f', 'deploy/haproxy/haproxy.cfg'],
    env: {
      ZEROSUM_BIND: `127.0.0.1:${port}`,
      ZEROSUM_BALANCER_METRICS: `127.0.0.1:${metricsPort}`,
      ...env,
      ...Object.fromEntries(nodes.map((node, i) => [`ZEROSUM_NODE_${i + 1}`, node])),
    },
    isReady: () =>
      fetch(metricsUrl).then(
        async (answer) => {
          await answer.text()
          return answer.ok
        },
        () => false,
      ),
  })
  return { url: `http://127.0.0.1:${port}`, metricsUrl, process }
}
