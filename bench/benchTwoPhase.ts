import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startEmbedded } from '../src/postgres/embedded.ts'
import { deadCoordinatorText, killCoordinator } from './deadCoordinator.ts'
import { classicMeasure, fund, migrated } from './ledger.ts'
import { seededRandom, uniform } from './load.ts'
import { lockText, watchLocks } from './locks.ts'
import { printMeasures } from './report.ts'
import { betweenDatabases, drawCross, openTwoPhase, type Pair, prepareTwoPhase, runTwoPhase } from './twoPhase.ts'

export type TwoPhaseOptions = { accounts: number; transfers: number; seed: number; json: boolean }

/** What a server needs for 64 clients on each of two databases, and all that they can have prepared at once. */
export const TWO_PHASE_SETTINGS = { max_prepared_transactions: '200', max_connections: '300' }

const TENANT = '00000000-0000-7000-8000-000000000001'
const WARM_UP = 2_000

/**
 * Transfers between two databases of one embedded server by two-phase commit: healthy, and with a coordinator that dies;
 * beside it, in the same run, the classic way inside of one database. A tenth of `transfers` are run, half of `accounts`
 * are on each side.
 */
export async function benchTwoPhase({ accounts, transfers, seed, json }: TwoPhaseOptions): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'zerosum-bench-'))
  const say = (text: string) => (json ? undefined : console.log(text))
  const server = await startEmbedded(directory, undefined, TWO_PHASE_SETTINGS)
  try {
    const urls: Pair<string> = [await migrated(server, 'bench_a'), await migrated(server, 'bench_b')]
    const count = Math.ceil(transfers / 10)
    say(`opening and funding ${accounts} accounts on two databases …`)
    const payers = await fund(urls[0], TENANT, Math.ceil(accounts / 2))
    const payees = await fund(urls[1], TENANT, Math.ceil(accounts / 2))
    await prepareTwoPhase(urls, TENANT)

    const random = seededRandom(seed)
    const load = { tenantId: TENANT, payers, payees, random }
    const classic = await classicMeasure(urls[0], TENANT, payers, uniform(payers.length, random), count)
    const twoPhase = openTwoPhase(urls)
    const draw = drawCross(load)
    await runTwoPhase(twoPhase, draw, WARM_UP)
    const watch = watchLocks(urls[0])
    const measure = await runTwoPhase(twoPhase, draw, count)
    const locks = await watch.stop()
    await twoPhase.close()

    const dead = await killCoordinator(urls, load)
    const between = await betweenDatabases(urls)
    if (between !== 0n) throw new Error(`transfers that are not whole: ${between} between the databases`)

    const ratios = { twoPhaseToClassic: measure.perSecond / classic.perSecond }
    if (json) {
      console.log(JSON.stringify({ accounts, seed, measures: [classic, measure], locks, dead, ratios }, null, 2))
      return
    }
    printMeasures([classic, measure])
    console.log(`two-phase commit / classic: ${ratios.twoPhaseToClassic.toFixed(2)}; retries: ${measure.retries}`)
    console.log(lockText(locks))
    console.log(deadCoordinatorText(dead))
  } finally {
    await server.stop()
    await rm(directory, { recursive: true, force: true })
  }
}
