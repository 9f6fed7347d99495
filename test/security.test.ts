import { readFile } from 'node:fs/promises'
import { beforeAll, expect, test } from 'vitest'

/** A row of the table of threats: what it says, and the tests that it names. */
type Row = { text: string; tests: { file: string; title: string }[] }

let rows: Row[]
beforeAll(async () => {
  const page = await readFile(new URL('../docs/security.md', import.meta.url), 'utf8')
  const [, table = ''] = /## Threats\n\n([\s\S]*?)\n\n/.exec(page) ?? []
  rows = table
    .split('\n')
    .slice(2)
    .map((text) => ({ text, tests: testsOf(text) }))
})

/** `[name](../test/file.test.ts) "title", "title"; …` in the last cell. */
function testsOf(row: string): Row['tests'] {
  return [...row.matchAll(/\]\(\.\.\/(test\/[^)]+)\)((?:,? "[^"]+")*)/g)].flatMap(([, file = '', titles = '']) =>
    [...titles.matchAll(/"([^"]+)"/g)].map(([, title = '']) => ({ file, title })),
  )
}

test('every threat in docs/security.md names a test that is there', async () => {
  expect(rows.length).toBeGreaterThan(20)
  for (const { text, tests } of rows) {
    expect(text.split(' | ').length, text).toBe(3)
    expect(tests.length, text).toBeGreaterThan(0)
    for (const { file, title } of tests) {
      const source = await readFile(new URL(`../${file}`, import.meta.url), 'utf8').catch(() => '')
      expect(source, `${file} is not there`).not.toBe('')
      const titles = [...source.matchAll(/\(\s*(['"`])((?:\\.|(?!\1)[^\\\n])*)\1,/g)].map(([, , found = '']) =>
        found.replace(/\\(.)/g, '$1'),
      )
      expect(titles, `${file} has no test "${title}"`).toContain(title)
    }
  }
})

test.each([
  'tamper',
  'replay',
  'key theft',
  'tenant crossing',
  'SSRF',
  'SQL injection',
  'log leakage',
  'denial of service',
  'poisoned Kafka',
  'insider',
  'backup theft',
  'supply chain',
])('the threat model thinks of %s', (threat) => {
  expect(rows.some(({ text }) => text.toLowerCase().includes(threat.toLowerCase()))).toBe(true)
})
