import { setTimeout as sleep } from 'node:timers/promises'
import { isReplaying } from '../bus/marks.ts'
import type { Progress } from '../consumers/lag.ts'
import type { Sql, Tx } from '../postgres/connect.ts'
import type { Activity } from './activity.ts'
import { PROJECTIONS } from './group.ts'
import { type ActivityCursor, readActivity, readDailyTotals } from './reader.ts'
import { shareProjections } from './sql/lock.ts'
import type { Total } from './totals.ts'

/** It can't be said up to when the projections are true. The message says why. */
export class ProjectionsUnavailable extends Error {}

/** What is shown of the projections. All that was completed up to `asOfUs` is in it, microseconds since 1970; of what came later, some. */
export type Projections = {
  /**
   * A page of a wallet's feed, newest first; the caller has made sure that there is such a wallet.
   * @throws ProjectionsUnavailable
   */
  activity(
    wallet: { tenantId: string; walletId: string },
    page: { limit: number; before?: ActivityCursor },
  ): Promise<{ rows: Activity[]; asOfUs: number }>
  /**
   * A tenant's totals of days (UTC, `2026-01-31`), both included.
   * @throws ProjectionsUnavailable
   */
  totals(
    tenantId: string,
    days: { from: string; to: string; currency?: string },
  ): Promise<{ rows: Total[]; asOfUs: number }>
}

export type ProjectionsOptions = {
  /** The first shard's database; closed by whoever opened it. */
  sql: Sql
  /** How far the group has come, whoever works for it. */
  progress: () => Promise<Progress | undefined>
}

/** Where events come from Kafka it takes two looks, a moment apart, to know the first time. */
const LOOKS_MAX = 5
const LOOK_PAUSE_MS = 300

/** Reads the projections, and up to when they are true. */
export function openProjections({ sql, progress }: ProjectionsOptions): Projections {
  let known: number | undefined

  /** What is said before the rows are read is true of them. */
  async function asOf(): Promise<number> {
    for (let look = 1; ; look++) {
      const found = await progress()
      if (found && !found.isRun) {
        throw new ProjectionsUnavailable('No node works for the projections: see ZEROSUM_CONSUMERS.')
      }
      // Where nobody answers, what was true stays true.
      known = found?.asOfUs ?? known
      if (known !== undefined) return known
      if (look === LOOKS_MAX) throw new ProjectionsUnavailable('How far the projections are behind is not known yet.')
      await sleep(LOOK_PAUSE_MS)
    }
  }

  async function read<T>(rows: (tx: Tx) => Promise<T>): Promise<{ rows: T; asOfUs: number }> {
    const asOfUs = await asOf()
    return await sql.begin(async (tx) => {
      // No replay begins meanwhile; during one the tables are not complete.
      await shareProjections(tx)
      if (await isReplaying(tx, PROJECTIONS)) {
        throw new ProjectionsUnavailable('The projections are being made again: zerosum replay projections.')
      }
      return { rows: await rows(tx), asOfUs }
    })
  }

  return {
    activity: async (wallet, page) => await read((tx) => readActivity(tx, wallet, page)),
    totals: async (tenantId, days) => await read((tx) => readDailyTotals(tx, tenantId, days)),
  }
}
