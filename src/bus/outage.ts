/** What is told of something that fails again and again: that it began, now and then that it goes on, and that it is over. */
export type Outage = {
  failed(error: unknown): void
  worked(): void
}

export type OutageOptions = {
  /** What fails. */
  name: string
  /** Told the first error of each kind; then, once a minute at most, one without a stack that says how often, and what was last. */
  onTrouble: (error: unknown) => void
  /** Told that it is over: it has worked, and not failed for ten seconds. */
  onWell?: ((message: string) => void) | undefined
}

const REMINDER_MS = 60_000
/** Longer than any pause between two tries, so that something that still fails has failed again by then. */
const WELL_MS = 10_000
/** Of one outage; what there is beyond is in the reminders. */
const KINDS_MAX = 10

/** Watches over what goes on trying when it fails, so that it fills no log: it may be tried several times a second, for hours. */
export function watchOutage({ name, onTrouble, onWell }: OutageOptions): Outage {
  const kinds = new Set<string>()
  let failures = 0
  let sinceMs = 0
  let toldMs = 0
  let well: NodeJS.Timeout | undefined

  return {
    failed(error) {
      clearTimeout(well)
      well = undefined
      const now = Date.now()
      if (failures === 0) sinceMs = now
      failures += 1
      const kind = kindOf(error)
      if (!kinds.has(kind) && kinds.size < KINDS_MAX) {
        kinds.add(kind)
        toldMs = now
        onTrouble(error)
      } else if (now - toldMs >= REMINDER_MS) {
        toldMs = now
        const last = error instanceof Error ? error.message : String(error)
        onTrouble(
          withoutStack(`${name} has failed ${failures} times in ${secondsSince(sinceMs)} s; the last time: ${last}`),
        )
      }
    },
    worked() {
      if (failures === 0 || well) return
      well = setTimeout(() => {
        onWell?.(`${name} works again, after ${failures} failures in ${secondsSince(sinceMs)} s`)
        kinds.clear()
        failures = 0
        well = undefined
      }, WELL_MS).unref()
    },
  }
}

const secondsSince = (ms: number) => Math.round((Date.now() - ms) / 1000)

/** The same for errors that differ in numbers alone: ports, blocks, milliseconds. */
function kindOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const { code } = error as { code?: unknown }
  return `${error.constructor.name} ${typeof code === 'string' ? code : ''} ${error.message.replace(/\d+/g, '0')}`
}

function withoutStack(message: string): Error {
  const error = new Error(message)
  delete error.stack
  return error
}
