/** Times are integers of microseconds since 1970 inside, RFC 3339 in UTC with six decimals outside. */

/** `1764000000123456` → `2025-11-24T16:00:00.123456Z`. */
export function formatTime(timeUs: number): string {
  const ms = Math.floor(timeUs / 1000)
  const micros = `${timeUs - ms * 1000}`.padStart(3, '0')
  return `${new Date(ms).toISOString().slice(0, -1)}${micros}Z`
}

const RFC_3339 = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,6})\d*)?(Z|[+-]\d\d:\d\d)$/

const YEAR_0_MS = Date.parse('0000-01-01T00:00:00Z')

/**
 * RFC 3339, any offset, digits beyond microseconds cut → microseconds since 1970; `undefined` for anything else, days that
 * no calendar has included.
 */
export function parseTime(text: string): number | undefined {
  const [, seconds, fraction = '', offset] = RFC_3339.exec(text) ?? []
  const asUtc = Date.parse(`${seconds}Z`)
  if (Number.isNaN(asUtc) || new Date(asUtc).toISOString().slice(0, 19) !== seconds) return undefined
  const ms = Date.parse(`${seconds}${offset}`)
  return Number.isNaN(ms) || ms < YEAR_0_MS ? undefined : ms * 1000 + Number(fraction.padEnd(6, '0'))
}
