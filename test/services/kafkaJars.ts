import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

const POM = fileURLToPath(new URL('./kafka/pom.xml', import.meta.url))
const FETCH_MS_MAX = 10 * 60_000
const PROGRESS_FILES = 10

/**
 * The folder where the jars of kafka/pom.xml are, or will be: outside of the repository, so that all checkouts share it, in
 * `~/.cache/zerosum` or in `ZEROSUM_TEST_CACHE`. Its name has the version and a hash of the pom: another pom, another folder.
 */
export async function kafkaJarsFolder(): Promise<string> {
  const pom = await readFile(POM, 'utf8')
  const [, version] = /<kafka\.version>([\d.]+)</.exec(pom) ?? []
  const hash = createHash('sha256').update(pom).digest('hex').slice(0, 8)
  const cache = process.env['ZEROSUM_TEST_CACHE'] || join(homedir(), '.cache', 'zerosum')
  return join(cache, `kafka-${version}-${hash}`)
}

export async function hasKafkaJars(): Promise<boolean> {
  return await exists(await kafkaJarsFolder())
}

/**
 * Fetches the jars with Maven, once on a machine: whoever comes while somebody else fetches waits for them.
 * @param say hears of the progress, line by line
 * @returns the folder
 * @throws Error with what Maven said, if it fails or takes longer than ten minutes
 */
export async function fetchKafkaJars(say: (line: string) => void): Promise<string> {
  const folder = await kafkaJarsFolder()
  if (await exists(folder)) return folder
  await mkdir(join(folder, '..'), { recursive: true })
  const release = await lock(`${folder}.lock`, () => exists(folder))
  if (!release) return folder
  // The folder gets its name when all is there: one that a fetch was broken off in is never taken for the jars.
  const making = await mkdtemp(`${folder}.making-`)
  try {
    say(`Fetching Apache Kafka (about 45 MB) into ${folder} …`)
    await copyDependencies(making, say)
    await rename(making, folder)
    say('Apache Kafka is there.')
    return folder
  } finally {
    await rm(making, { recursive: true, force: true })
    await release()
  }
}

function copyDependencies(folder: string, say: (line: string) => void): Promise<void> {
  const maven = spawn('mvn', ['-B', '-f', POM, 'dependency:copy-dependencies', `-DoutputDirectory=${folder}`], {
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: FETCH_MS_MAX,
  })
  let output = ''
  let fetched = 0
  for (const stream of [maven.stdout, maven.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output = (output + text).slice(-10_000)
      const before = fetched
      fetched += text.match(/Downloaded from \S+ \S+\.jar/g)?.length ?? 0
      if (Math.floor(fetched / PROGRESS_FILES) > Math.floor(before / PROGRESS_FILES)) say(`… ${fetched} files`)
    })
  }
  return new Promise((done, fail) => {
    maven.once('error', (cause) => fail(new Error('mvn cannot be run', { cause })))
    maven.once('close', (code) => (code === 0 ? done() : fail(new Error(`mvn failed:\n${output}`))))
  })
}

/**
 * Takes a lock file, or waits until what it is about is done by whoever holds it. A lock whose holder has died is taken over; if two do so at
 * once, the work is done twice, which does no harm here.
 * @returns what gives it back; `undefined` if the work is done
 */
async function lock(file: string, isDone: () => Promise<boolean>): Promise<(() => Promise<void>) | undefined> {
  const deadline = Date.now() + FETCH_MS_MAX
  while (Date.now() < deadline) {
    const isMine = await writeFile(file, `${process.pid}`, { flag: 'wx' }).then(
      () => true,
      (error: NodeJS.ErrnoException) => {
        if (error.code === 'EEXIST') return false
        throw error
      },
    )
    if (isMine) {
      const release = () => rm(file, { force: true })
      if (!(await isDone())) return release
      await release()
      return undefined
    }
    if (await isDone()) return undefined
    const holder = Number(await readFile(file, 'utf8').catch(() => ''))
    if (holder > 0 && !isAlive(holder)) await rm(file, { force: true })
    await sleep(200)
  }
  throw new Error(`somebody has held ${file} for ten minutes: remove it if nobody fetches`)
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  )
}

if (import.meta.main) await fetchKafkaJars(console.log)
