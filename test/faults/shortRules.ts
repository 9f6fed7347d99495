import { parse, stringify } from 'yaml'

type Group = { interval?: string; rules: { for?: string; expr: string }[] }

const UNIT_MS: Readonly<Record<string, number>> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }
/** A threshold of so many seconds and more is a time to wait. Below it is a speed: how late an answer may be doesn't change with the clock. */
const WAIT_SECONDS_MIN = 30

/**
 * Rules of Prometheus by a clock that runs so many times as fast: ranges, offsets, `for`, intervals of groups, ages that are waited for, and the
 * seconds of an hour where a rate is made a number. So what takes an hour to be told is told within a minute; names stay as they are.
 * @param rules a file of rules, YAML
 * @param factor how many times as fast
 */
export function shortened(rules: string, factor: number): string {
  const { groups }: { groups: Group[] } = parse(rules)
  const short = (duration: string) =>
    duration.replace(/^(\d+)([smhd])$/, (_, count, unit) => `${Math.ceil((count * (UNIT_MS[unit] ?? 0)) / factor)}ms`)
  const shortExpr = (expr: string) =>
    expr
      .replace(/(?<=\[)\d+[smhd](?=\])/g, short)
      .replace(/(?<=\boffset )\d+[smhd]\b/g, short)
      .replace(/(?<=_seconds\)* > )\d+\b/g, (text) =>
        Number(text) < WAIT_SECONDS_MIN ? text : `${Number(text) / factor}`,
      )
      .replace(/(?<=:rate\d+[mhd] \* )\d+\b/g, (text) => `${Number(text) / factor}`)
  return stringify({
    groups: groups.map(({ interval, rules, ...group }) => ({
      ...group,
      ...(interval === undefined ? {} : { interval: short(interval) }),
      rules: rules.map((rule) => ({
        ...rule,
        expr: shortExpr(rule.expr),
        ...(rule.for === undefined ? {} : { for: short(rule.for) }),
      })),
    })),
  })
}
