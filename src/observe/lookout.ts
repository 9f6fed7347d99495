import { setTimeout as sleep } from 'node:timers/promises'

/** Something that is looked at now and then, and may fail or be silent. */
export type Sight = {
  readonly name: string
  look(): Promise<void>
  /** Called instead, when a look failed, or the one before has not ended yet: what is known is out of date. */
  lost(): void
}

export type LookoutOptions = {
  /** As of now. */
  sights: () => readonly Sight[]
  /** Told when a look fails after one that did not. */
  onTrouble: (name: string, error: unknown) => void
  intervalMs?: number
}

const INTERVAL_MS = 5_000
const STOP_MS_MAX = 2_000

/**
 * Looks at what has to be asked for over a connection, so that a scrape only takes what is there: it costs nothing, and waits for nobody. At each
 * sight one look is under way at a time; one that is silent delays no other, and is told lost until it answers.
 * @returns what ends it; looks under way are waited for, a little
 */
export function startLookout({ sights, onTrouble, intervalMs = INTERVAL_MS }: LookoutOptions): () => Promise<void> {
  const looking = new Map<string, Promise<void>>()
  const failing = new Set<string>()
  const stopping = new AbortController()
  const { signal } = stopping

  function fail(sight: Sight, error: unknown): void {
    if (signal.aborted) return
    sight.lost()
    if (failing.has(sight.name)) return
    failing.add(sight.name)
    onTrouble(sight.name, error)
  }

  async function lookAt(sight: Sight): Promise<void> {
    try {
      await sight.look()
      failing.delete(sight.name)
    } catch (error) {
      fail(sight, error)
    }
  }

  async function loop(): Promise<void> {
    while (!signal.aborted) {
      for (const sight of sights()) {
        const { name } = sight
        if (looking.has(name)) fail(sight, new Error('no answer yet'))
        else
          looking.set(
            name,
            lookAt(sight).finally(() => looking.delete(name)),
          )
      }
      await sleep(intervalMs * (0.75 + Math.random() / 2), undefined, { signal }).catch(() => {})
    }
  }

  const running = loop()
  return async () => {
    stopping.abort()
    await running
    await Promise.race([Promise.all(looking.values()), sleep(STOP_MS_MAX, undefined, { ref: false })])
  }
}
