/**
 * Types of events are names with full stops between them, `transaction.posted`. An endpoint chooses by patterns: a type; `entry.*`, all
 * types that begin with `entry.`; `*`, all there are. A star stands nowhere else.
 */

/** What an event's type looks like. */
export const EVENT_TYPE = /^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$/
/** What an endpoint may choose by. */
export const EVENT_PATTERN = '^(\\*|[a-z][a-z0-9_]*(\\.[a-z][a-z0-9_]*)*(\\.\\*)?)$'
export const EVENT_TYPE_LENGTH_MAX = 100

/** Whether one of the patterns chooses this type. */
export function isChosen(type: string, patterns: readonly string[]): boolean {
  return patterns.some(
    (pattern) =>
      pattern === '*' || pattern === type || (pattern.endsWith('.*') && type.startsWith(pattern.slice(0, -1))),
  )
}
