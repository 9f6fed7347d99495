import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import { until } from '../bus/stage.ts'
import { type Asked, FLOWS, type Flow, outcomesOf, WELL } from './load.ts'
import type { Stage } from './stage.ts'
import type { Series } from './watch.ts'

/**
 * Always, and what a machine that is busy with other tests may cause by itself: Redis has 50 ms to answer, a POST half a second, and by the fast
 * clock a relay that is a second behind is a minute behind, and the first audit may take a quarter of an hour. A scrape has a second, too, and by the
 * fast clock a node is down when two in a row take longer; one that really is answers no call.
 */
const NO_MATTER =
  /^(?:Watchdog|LatencyBudgetBurn|EventLoopLag|HeapNearLimit|CommitSlow|RelayLag ticket|AuditOld|Down|NodeDown|BreakerOpen ticket dependency=redis)\b/
/** Their windows are of days and hours, so they tell of a fault long after it: what is left of the month's budget. */
const LONG = /^(?:ErrorBudgetBurn|LatencyBudgetBurn) \w+ window=(?:6h|3d)$/
const SECONDS = 90

/** What may come of calls that are sent while a fault lasts, beside what each flow is answered when all is well. */
export type Allowed = Partial<Record<Flow, readonly string[]>>

/** A fault from its beginning on. */
export type Fault = {
  /** Waits until all of these alerts have fired. */
  fires(...alerts: string[]): Promise<void>
  /** Waits until a query of Prometheus gives something, and all of it is so. */
  shows(query: string, isSo: (value: number) => boolean): Promise<void>
  /** Waits until a query gives nothing: what is not known is not shown. */
  absent(query: string): Promise<void>
  /** The fault is mended: calls that are sent from now on are not its. */
  mended(): void
  /**
   * Waits until all is well again by itself: calls are answered as ever; and then, without load, nothing waits, every breaker is closed and no
   * alert fires but those of long windows. Each flow has had only what is allowed, also of the calls that were sent before all was well.
   * @returns the calls that were sent during the fault, and how many of each flow had which outcome
   */
  recovered(allowed: Allowed): Promise<{ during: readonly Asked[]; outcomes: Record<Flow, Record<string, number>> }>
  /** Nothing fired but these (without labels: whatever they are), what a busy machine causes, and an alert of a longer window where the same of an hour is one of these. */
  firedOnly(...alerts: string[]): Promise<void>
}

/** Waits until the load runs clean and nothing fires. */
export async function beginFault({ node, load, watch }: Stage): Promise<Fault> {
  const isQuiet = (firing: readonly string[]) => firing.every((alert) => NO_MATTER.test(alert) || LONG.test(alert))
  load.start()
  await load.clean()
  let already: string[] = []
  await until(
    async () => {
      await sleep(250)
      already = await watch.firing()
      return isQuiet(already)
    },
    () => `already firing: ${already}; the node said: ${node.output()}`,
    SECONDS,
  )
  const sinceMs = Date.now()
  let untilMs = Number.POSITIVE_INFINITY
  let fired: string[] = []
  const look = async () => {
    fired = await watch.firedSince(sinceMs)
  }
  const shows = async (query: string, isSo: (value: number) => boolean) => {
    let series: Series[] = []
    await until(
      async () => {
        await sleep(250)
        series = await watch.ask(query)
        return series.length > 0 && series.every(({ value }) => isSo(value))
      },
      () => `${query} is ${JSON.stringify(series)}; the node said: ${node.output()}`,
      SECONDS,
    )
  }
  return {
    async fires(...alerts) {
      const areAll = async () => {
        await sleep(250)
        await look()
        return alerts.every((alert) => fired.includes(alert))
      }
      await until(
        areAll,
        () => `${alerts.filter((alert) => !fired.includes(alert))} did not fire; ${fired} did`,
        SECONDS,
      )
    },
    shows,
    async absent(query) {
      const isAbsent = async () => {
        await sleep(250)
        return (await watch.ask(query)).length === 0
      }
      await until(isAbsent, () => `${query} is still there`, SECONDS)
    },
    mended() {
      untilMs = Date.now()
    },
    async recovered(allowed) {
      await load.clean()
      // A breaker closes with the first call that goes through, so there have to be some.
      await shows('zerosum_breaker_state', (state) => state === 0)
      await load.rest()
      const during = load.asked.filter(({ sentMs }) => sentMs >= sinceMs && sentMs <= untilMs)
      const outcomes = outcomesOf(during)
      const since = outcomesOf(load.asked, sinceMs)
      for (const flow of FLOWS) {
        expect(Object.keys(outcomes[flow]).length, flow).toBeGreaterThan(0)
        for (const outcome of Object.keys(since[flow])) {
          expect([WELL[flow], ...(allowed[flow] ?? [])], flow).toContain(outcome)
        }
      }
      await shows('zerosum_shard_up', (up) => up === 1)
      await shows('zerosum_sagas_in_flight', (count) => count === 0)
      await shows('zerosum_relay_lag_blocks', (blocks) => blocks === 0)
      await shows('zerosum_consumer_lag_messages', (messages) => messages === 0)
      let firing: string[] = []
      await until(
        async () => {
          await sleep(250)
          firing = await watch.firing()
          return isQuiet(firing)
        },
        () => `still: ${firing}`,
        SECONDS,
      )
      return { during, outcomes }
    },
    async firedOnly(...alerts) {
      await look()
      const burns = alerts.filter((alert) => alert.endsWith('window=1h')).map((alert) => alert.split(' ')[0] ?? '')
      const others = fired.filter(
        (alert) =>
          !NO_MATTER.test(alert) &&
          !already.includes(alert) &&
          !(LONG.test(alert) && burns.some((name) => alert.startsWith(name))),
      )
      expect(others.filter((alert) => !alerts.some((one) => `${alert} `.startsWith(`${one} `)))).toEqual([])
    },
  }
}
