import { expect, test } from 'vitest'
import { Mover, type Stage, type Work } from './moving.ts'
import { CHANGE, town } from './town.ts'

/** Takes so many steps. @returns whether the work was over before */
function advance(work: Work<unknown>, steps: number): boolean {
  for (let step = 0; step < steps; step++) if (work.next().done) return true
  return false
}

/** What is on its way when somebody crashes is lost, or arrives all the same: at once, or when all is over. */
type Fate = 'lost' | 'arrives at once' | 'arrives last'

function crash(stage: Stage, { pending }: Mover, fate: Fate): void {
  if (!pending || fate === 'lost') return
  if (fate === 'arrives at once') stage.world.post(pending.shard, pending.request)
  else stage.adrift.push(pending)
}

function finish(stage: Stage): void {
  const { world, adrift } = stage
  const resumeAll = () => {
    for (const change of world.open) advance(new Mover(stage).resume(change), 10_000)
  }
  resumeAll()
  for (const { shard, request } of adrift.splice(0)) world.post(shard, request)
  resumeAll()
}

test.each<Fate>(['lost', 'arrives at once', 'arrives last'])(
  'a move that is broken off after any step is made or undone, whole, by who takes it up, though he is broken off too: what is on its way %s',
  { timeout: 600_000 },
  (fate) => {
    const start = town()
    const seen = start.world.seen()
    const ends = { made: 0, undone: 0 }
    let isMade = false
    for (let steps = 0; !isMade; steps++) {
      let isResumed = false
      for (let stepsOfSecond = 0; !isResumed; stepsOfSecond++) {
        const stage: Stage = { ...start, world: start.world.copied(), sent: [], adrift: [] }
        const { world } = stage
        const first = new Mover(stage)
        isMade = advance(first.make(CHANGE), steps)
        crash(stage, first, fate)
        const second = new Mover(stage)
        isResumed = isMade || advance(second.resume(CHANGE), stepsOfSecond)
        crash(stage, second, fate)
        finish(stage)
        world.checkSettled()
        expect(world.seen()).toEqual(seen)
        ends[world.map.epoch === 2 ? 'made' : 'undone'] += 1
      }
    }
    expect(ends.made).toBeGreaterThan(100)
    expect(ends.undone).toBeGreaterThan(50)
  },
)
