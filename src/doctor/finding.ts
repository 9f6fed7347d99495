/** One thing that was looked at. */
export type Finding = {
  readonly level: 'ok' | 'warn' | 'fail'
  /** What it is about: `shard 0`, `redis`. */
  readonly about: string
  /** What was seen. */
  readonly says: string
  /** What to do. */
  readonly advice?: string
}

/** Says things about one subject. */
export type Notes = {
  readonly findings: readonly Finding[]
  ok(says: string): void
  warn(says: string, advice: string): void
  fail(says: string, advice: string): void
}

export function notesOn(about: string): Notes {
  const findings: Finding[] = []
  return {
    findings,
    ok: (says) => findings.push({ level: 'ok', about, says }),
    warn: (says, advice) => findings.push({ level: 'warn', about, says, advice }),
    fail: (says, advice) => findings.push({ level: 'fail', about, says, advice }),
  }
}

/** What went wrong, in a line. An error of a connection says it in its cause. */
export function reasonOf(error: unknown): string {
  const { message = '', cause, code, errors } = (error ?? {}) as Error & { code?: string; errors?: unknown[] }
  if (cause !== undefined) return reasonOf(cause)
  // Several addresses, or brokers, were tried.
  if (errors?.length) return [...new Set(errors.map(reasonOf))].join('; ')
  return message.split('\n', 1)[0] || code || String(error)
}
