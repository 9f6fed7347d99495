import { readFile } from 'node:fs/promises'
import { expect, test } from 'vitest'

/** Under these anybody may run, change and pass on what is built with them. */
const ALLOWED = new Set([
  ...['MIT', 'ISC', 'Apache-2.0', 'BSD-2-Clause', 'BSD-3-Clause', '0BSD', 'BlueOak-1.0.0', 'CC0-1.0', 'PostgreSQL'],
])

type Locked = {
  version?: string
  resolved?: string
  integrity?: string
  license?: string
  dev?: boolean
  hasInstallScript?: boolean
}

async function readJson<T>(path: string): Promise<T> {
  return JSON.parse(await readFile(new URL(`../${path}`, import.meta.url), 'utf8'))
}

/** By the folder that each is installed in. */
async function locked(): Promise<[string, Locked][]> {
  const { packages } = await readJson<{ packages: Record<string, Locked> }>('package-lock.json')
  return Object.entries(packages).filter(([folder]) => folder !== '')
}

/** Whether a licence will do: of several to choose from, one has to; of several that hold together, all. @see https://spdx.dev/learn/handling-license-info/ */
function isAllowed(licence: string): boolean {
  const text = licence.replace(/^\((.*)\)$/, '$1')
  if (text.includes(' OR ')) return text.split(' OR ').some(isAllowed)
  return text.split(' AND ').every((one) => ALLOWED.has(one))
}

test('everything that the product needs, needs in turn, or brings for other machines has a licence that lets it be passed on', async () => {
  const wrong: string[] = []
  let looked = 0
  for (const [folder, entry] of await locked()) {
    if (entry.dev) continue
    // What is for another machine is not installed here: then the lockfile's word has to do.
    const { license, version } = await readJson<Locked>(`${folder}/package.json`).catch(() => entry)
    if (!isAllowed(license ?? 'none')) wrong.push(`${folder} ${version}: ${license ?? 'none'}`)
    looked += 1
  }
  expect(wrong).toEqual([])
  expect(looked).toBeGreaterThan(50)
})

test('a licence that is none of those is found, and so is one that hides among others', () => {
  expect(['MIT', '(MIT OR GPL-3.0)', 'MIT AND ISC', '(MIT OR CC0-1.0)'].filter((one) => !isAllowed(one))).toEqual([])
  expect(['GPL-3.0', 'MIT AND GPL-3.0', 'none', 'UNLICENSED', 'SEE LICENSE IN x', ''].filter(isAllowed)).toEqual([])
})

test('what is installed is what was looked at: exact versions, a hash for each, no address of its own', async () => {
  for (const [folder, { integrity, resolved }] of await locked()) {
    expect(integrity, folder).toMatch(/^sha512-/)
    expect(resolved, folder).toBeUndefined()
  }
  const { dependencies, devDependencies } = await readJson<Record<string, Record<string, string>>>('package.json')
  for (const [name, version] of Object.entries({ ...dependencies, ...devDependencies })) {
    expect(version, name).toMatch(/^\d+\.\d+\.\d+/)
  }
})

test('nothing runs when it is installed, but what package.json lets run', async () => {
  const { allowScripts } = await readJson<{ allowScripts: Record<string, boolean> }>('package.json')
  const runs = (await locked())
    .filter(([, { hasInstallScript }]) => hasInstallScript)
    .map(([folder]) => folder.replace(/^.*node_modules\//, ''))
  expect(runs.filter((name) => !allowScripts[name])).toEqual([])
})
