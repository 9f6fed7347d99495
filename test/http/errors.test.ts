import { readFile } from 'node:fs/promises'
import { beforeAll, expect, test } from 'vitest'
import { REFUSALS } from '../../src/core/refusal.ts'
import { PROBLEMS } from '../../src/errors.ts'

type Row = { code: string; status: number; title: string }

/** The rows of the table in docs/errors.md: code in backticks, status, title, and whatever comes after. */
let rows: Row[]

beforeAll(async () => {
  const page = await readFile(new URL('../../docs/errors.md', import.meta.url), 'utf8').catch(() => {
    throw new Error('docs/errors.md is missing: the codes that clients rely on are listed nowhere')
  })
  rows = [...page.matchAll(/^\| *`(\w+)` *\| *(\d+) *\| *([^|]*?) *\|/gm)].map(([, code = '', status, title = '']) => ({
    ...{ code, status: Number(status), title },
  }))
})

test('docs/errors.md lists the codes of the catalogue, all and only those, once each, with their status and title', () => {
  const byCode = (a: Row, b: Row) => (a.code < b.code ? -1 : 1)
  const catalogue = Object.entries(PROBLEMS).map(([code, { status, title }]) => ({ code, status, title }))
  expect(rows.sort(byCode)).toEqual(catalogue.sort(byCode))
})

test('every refusal of the ledger is in the catalogue, as 422', () => {
  expect(REFUSALS.length).toBeGreaterThan(0)
  for (const code of REFUSALS) expect(PROBLEMS[code].status, code).toBe(422)
})

test('every status of the catalogue is one for errors, every code is in snake case, every entry says what to do', () => {
  for (const [code, { status, title, advice }] of Object.entries(PROBLEMS)) {
    expect(code).toMatch(/^[a-z]+(_[a-z]+)*$/)
    expect(status).toBeGreaterThanOrEqual(400)
    expect(status).toBeLessThan(600)
    expect(title).toMatch(/\w/)
    expect(advice).toMatch(/\w/)
  }
})
