/** What waits, in lines: one for each tenant, which take turns, and one before them all. */
export type FairQueue<T> = {
  /** Puts something at the end of a line; `undefined` is the line that goes before all others. */
  push(item: T, line: string | undefined): void
  /** Takes what is next: no more than so many, and no more than so much, but one at least. */
  take(countMax: number, costMax: number): T[]
  /** The tenant that has most waiting, and how much that is; `undefined` if no tenant has anything waiting. */
  longest(): { line: string; length: number } | undefined
  /** Takes back what came last in a line. */
  dropNewest(line: string): T | undefined
  /** How many wait in a line. */
  lengthOf(line: string): number
  /** How many tenants have something waiting. */
  readonly lines: number
  readonly size: number
  /** The first of each line. */
  firsts(): Iterable<T>
}

/** In one turn a line may take this much; what costs more waits for as many turns as it takes. */
const QUANTUM = 16
/** Places in front that were taken already are given back when there are so many. */
const TAKEN_MAX = 1_024

/**
 * Deficit round robin (Shreedhar and Varghese, 1995): whoever has ten thousand things waiting delays those of another by a turn, not by
 * ten thousand. Within a line the order is that of coming.
 * @param costOf 1 or more
 */
export function createFairQueue<T>(costOf: (item: T) => number): FairQueue<T> {
  const urgent = createLine<T>()
  /** In the order of their turns. */
  const lines = new Map<string, Line<T>>()
  let size = 0

  return {
    push(item, name) {
      size += 1
      if (name === undefined) return urgent.push(item)
      let line = lines.get(name)
      if (!line) {
        line = createLine<T>()
        lines.set(name, line)
      }
      line.push(item)
    },
    take(countMax, costMax) {
      const taken: T[] = []
      let cost = 0
      /** @returns whether there was room for the first of a line */
      function takeFirst(line: Line<T>): boolean {
        const item = line.first as T
        const more = costOf(item)
        if (taken.length === countMax || (taken.length > 0 && cost + more > costMax)) return false
        line.shift()
        line.credit -= more
        cost += more
        taken.push(item)
        return true
      }
      function fill(): void {
        while (urgent.length > 0) if (!takeFirst(urgent)) return
        // A line that has had its turn goes to the end, and so is met again while this goes on.
        for (const [name, line] of lines) {
          line.credit += QUANTUM
          while (line.length > 0 && costOf(line.first as T) <= line.credit) {
            if (takeFirst(line)) continue
            // It is still its turn the next time.
            line.credit -= QUANTUM
            return
          }
          lines.delete(name)
          if (line.length > 0) lines.set(name, line)
        }
      }
      fill()
      size -= taken.length
      return taken
    },
    longest() {
      let longest: { line: string; length: number } | undefined
      for (const [line, { length }] of lines) if (!longest || length > longest.length) longest = { line, length }
      return longest
    },
    dropNewest(name) {
      const line = lines.get(name)
      if (!line) return undefined
      size -= 1
      const item = line.pop()
      if (line.length === 0) lines.delete(name)
      return item
    },
    lengthOf: (name) => lines.get(name)?.length ?? 0,
    get lines() {
      return lines.size
    },
    get size() {
      return size
    },
    *firsts() {
      if (urgent.first !== undefined) yield urgent.first
      for (const { first } of lines.values()) if (first !== undefined) yield first
    },
  }
}

type Line<T> = ReturnType<typeof createLine<T>>

/** First in, first out, without moving what stays. */
function createLine<T>() {
  let items: (T | undefined)[] = []
  let taken = 0
  return {
    /** What it may still take in this turn, or has saved up for something large. */
    credit: 0,
    push(item: T): void {
      items.push(item)
    },
    shift(): void {
      items[taken++] = undefined
      if (taken < TAKEN_MAX && taken < items.length) return
      items = items.slice(taken)
      taken = 0
    },
    pop(): T | undefined {
      return items.pop()
    },
    get first(): T | undefined {
      return items[taken]
    },
    get length() {
      return items.length - taken
    },
  }
}
