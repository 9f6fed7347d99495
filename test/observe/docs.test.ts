import { readFile } from 'node:fs/promises'
import { expect, it } from 'vitest'
import { createMetrics } from '../../src/observe/metrics.ts'
import { parseOpenMetrics } from './openmetrics.ts'

it('docs/operations/observability.md lists the metrics that there are', async () => {
  const page = await readFile(new URL('../../docs/operations/observability.md', import.meta.url), 'utf8')
  const documented = [...page.matchAll(/^\| `(zerosum_\w+)` \|/gm)].map(([, name]) => name)
  const metrics = createMetrics({
    ...{ version: '1', queues: () => [], pools: () => [], cache: () => undefined, breakers: () => ({}) },
    unreachableHosts: () => undefined,
  })
  const families = parseOpenMetrics((await metrics.exposition('application/openmetrics-text')).text)
  const names = [...families.values()]
    .map(({ name, type }) => (type === 'counter' ? `${name}_total` : name))
    .filter((name) => name.startsWith('zerosum_'))
  expect(documented.sort()).toEqual(names.sort())
})
