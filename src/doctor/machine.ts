import { readFile, statfs } from 'node:fs/promises'
import { type Finding, notesOn, reasonOf } from './finding.ts'

const GIB = 2 ** 30
const FREE_BYTES_MIN = GIB
const FREE_BYTES_GOOD = 5 * GIB

/** The Node that runs this, against the one that the packages pin. @param version like `v24.21.0` */
export async function checkNode(version = process.version): Promise<Finding[]> {
  const notes = notesOn('node')
  const pinned = await pinnedVersion()
  const major = (text: string) => Number(/^v?(\d+)/.exec(text)?.[1] ?? Number.NaN)
  const advice = 'start Zerosum by npm, or with node_modules/.bin first in PATH'
  if (!(major(version) >= major(pinned))) notes.fail(`Node ${version} is too old, this needs ${pinned}`, advice)
  else if (version !== `v${pinned}`) notes.warn(`Node ${version} is not ${pinned}, on which this is tested`, advice)
  else notes.ok(`Node ${version}`)
  return [...notes.findings]
}

async function pinnedVersion(): Promise<string> {
  const text = await readFile(new URL('../../package.json', import.meta.url), 'utf8')
  return (JSON.parse(text) as { dependencies: { node: string } }).dependencies.node
}

/** Room for the embedded PostgreSQL. Of other servers it can't be known from here. */
export async function checkDisk(directory: string): Promise<Finding[]> {
  const notes = notesOn('disk')
  try {
    const { bavail, blocks, bsize } = await statfs(directory)
    const free = bavail * bsize
    const says = `${(free / GIB).toFixed(1)} of ${((blocks * bsize) / GIB).toFixed(1)} GiB are free in ${directory}`
    const advice = 'PostgreSQL stops when the disk is full: make room, or move the data directory'
    if (free < FREE_BYTES_MIN) notes.fail(says, advice)
    else if (free < FREE_BYTES_GOOD) notes.warn(says, advice)
    else notes.ok(says)
  } catch (error) {
    notes.warn(`the room in ${directory} is not known: ${reasonOf(error)}`, 'look at it with df')
  }
  return [...notes.findings]
}
