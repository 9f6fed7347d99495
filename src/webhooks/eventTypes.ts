/**
 * Types of events are names with full stops between them, `transaction.posted`. An endpoint chooses by patterns: a type; `entry.*`, all
 * types that begin with `entry.`; `*`, all there are. A star stands nowhere else.
 */

/** All there are. docs/webhooks.md says what each is about, and a test compares. */
export const EVENT_TYPES = ['transaction.posted', 'entry.posted', 'transfer.refused', 'hold.refused'] as const

export type EventType = (typeof EVENT_TYPES)[number]

/** What an endpoint may choose by: all patterns that choose something. */
export const EVENT_PATTERNS: readonly string[] = [
  '*',
  ...new Set(EVENT_TYPES.flatMap((type) => [...prefixesOf(type).map((prefix) => `${prefix}.*`), type])),
]

/** Whether one of the patterns chooses this type. */
export function isChosen(type: string, patterns: readonly string[]): boolean {
  return patterns.some(
    (pattern) =>
      pattern === '*' || pattern === type || (pattern.endsWith('.*') && type.startsWith(pattern.slice(0, -1))),
  )
}

function prefixesOf(type: string): string[] {
  const parts = type.split('.')
  return parts.slice(1).map((_, i) => parts.slice(0, i + 1).join('.'))
}
