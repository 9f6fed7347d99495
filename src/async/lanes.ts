/**
 * Waits until something is over; with it wait all that are behind in the same scope and were turned back too, or have not begun, and it with
 * them: until all that any of them waits for is over. @throws what its own work is rejected with
 */
export type Pause = (work: Promise<unknown>) => Promise<void>

/** Where a piece of work belongs. */
export type Place = {
  /** What shares a lane begins in the order in which it came, so many at a time. */
  readonly lane: string
  /** What shares a scope, which is a part of a lane, goes on in that order, too. */
  readonly scope: string
  /** It begins no earlier; neither does what is behind it. Must not be rejected. */
  readonly ready: Promise<unknown>
}

export type Lanes = {
  /**
   * Does work when its turn has come.
   * @param work hands in its request before it first waits for anything; where that is turned back, it waits by `pause`, and hands it in again
   * at once
   */
  run<T>(place: Place, work: (pause: Pause) => Promise<T>): Promise<T>
}

/** Pieces of work of a lane that are under way at most: two blocks, and what goes into the next. */
const AT_ONCE_MAX = 1_000
/** So many begin in one turn of the event loop: so that the blocks they go into overlap. */
const BURST_MAX = 250

type Waiting = { isReady: boolean; begin: () => void }
type Lane = { readonly waiting: Waiting[]; underWay: number; isServed: boolean }
/** Who waits to go on, and how many came before; and how much of what they wait for is not over. */
type TurnedBack = { readonly waiting: { readonly place: number; goOn: () => void }[]; underWay: number }

/**
 * Lines in which requests wait for their turn, so that none of a payer overtakes another of the same, and none is handed in that will hardly
 * find room. Nobody waits for the one before to be decided: a burst is handed in within one turn of the event loop, in which nothing else can
 * make room, so when one of it is turned back for lack of room, those behind it are too. They then try together, in order, and what comes later waits for that.
 */
export function createLanes({ atOnceMax = AT_ONCE_MAX, burstMax = BURST_MAX } = {}): Lanes {
  const lanes = new Map<string, Lane>()
  const turnedBack = new Map<string, TurnedBack>()
  let places = 0

  /** As all who wait do nothing else before they hand in again, they do so in the order in which they are told to go on. */
  function pauseOf(scope: string, place: number): Pause {
    return (work) => {
      const { promise, resolve, reject } = Promise.withResolvers<void>()
      const one = { place, goOn: resolve }
      const together = turnedBack.get(scope) ?? { waiting: [], underWay: 0 }
      turnedBack.set(scope, together)
      together.waiting.push(one)
      together.underWay += 1
      const over = () => {
        together.underWay -= 1
        // In a turn of its own: what begins in this one must find them waiting, or go after them.
        if (together.underWay === 0) setImmediate(() => release(scope, together))
      }
      work.then(over, (error: unknown) => {
        one.goOn = () => reject(error)
        over()
      })
      return promise
    }
  }

  function release(scope: string, together: TurnedBack): void {
    if (together.underWay > 0 || turnedBack.get(scope) !== together) return
    turnedBack.delete(scope)
    for (const { goOn } of together.waiting.toSorted((one, other) => one.place - other.place)) goOn()
  }

  function laneOf(name: string): Lane {
    const known = lanes.get(name)
    if (known) return known
    const lane = { waiting: [], underWay: 0, isServed: false }
    lanes.set(name, lane)
    return lane
  }

  function serve(name: string, lane: Lane): void {
    if (lane.waiting.length === 0 && lane.underWay === 0) lanes.delete(name)
    if (lane.isServed || !canBegin(lane)) return
    lane.isServed = true
    setImmediate(() => {
      lane.isServed = false
      for (let burst = 0; burst < burstMax && canBegin(lane); burst++) {
        lane.underWay += 1
        lane.waiting.shift()?.begin()
      }
      serve(name, lane)
    })
  }

  const canBegin = ({ waiting, underWay }: Lane) => underWay < atOnceMax && waiting[0]?.isReady === true

  return {
    async run({ lane: name, scope, ready }, work) {
      const lane = laneOf(name)
      const pause = pauseOf(scope, places++)
      const begun = new Promise<void>((begin) => {
        const one = { isReady: false, begin }
        lane.waiting.push(one)
        void ready.then(() => {
          one.isReady = true
          serve(name, lane)
        })
      })
      await begun
      try {
        if (turnedBack.has(scope)) await pause(Promise.resolve())
        return await work(pause)
      } finally {
        lane.underWay -= 1
        serve(name, lane)
      }
    },
  }
}
