import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { watchOutage } from '../../src/bus/outage.ts'
import { errorFields } from '../../src/observe/log.ts'

const told: unknown[] = []
const well: string[] = []
let outage: ReturnType<typeof watchOutage>

beforeEach(() => {
  vi.useFakeTimers()
  told.length = 0
  well.length = 0
  outage = watchOutage({
    name: 'cache on shard 0',
    onTrouble: (error) => told.push(error),
    onWell: (message) => well.push(message),
  })
})
afterEach(() => vi.useRealTimers())

/** Tries and fails four times a second; other things go well in between. */
function failFor(seconds: number): void {
  for (let i = 0; i < 4 * seconds; i++) {
    outage.failed(new Error(`connect ECONNREFUSED, try ${i}`))
    vi.advanceTimersByTime(125)
    outage.worked()
    vi.advanceTimersByTime(125)
  }
}

describe('an outage', () => {
  it('is told once, with all that is known, and then once a minute without a stack', () => {
    failFor(59)
    expect(told.map((error) => errorFields(error).message)).toEqual(['connect ECONNREFUSED, try 0'])
    expect(errorFields(told[0]).stack).toContain('outage.test')
    failFor(122)
    expect(told).toHaveLength(4)
    for (const error of told.slice(1)) {
      expect(errorFields(error).stack).toBeUndefined()
      expect(errorFields(error).message).toMatch(
        /^cache on shard 0 has failed \d+ times in \d+ s; the last time: connect/,
      )
    }
    expect(well).toEqual([])
  })

  it('that has another reason too is told of that, once; of endlessly many, not', () => {
    failFor(1)
    for (let i = 0; i < 3; i++) outage.failed(new TypeError('a bug'))
    expect(told.slice(1).map((error) => errorFields(error).message)).toEqual(['a bug'])
    for (let i = 0; i < 100; i++) outage.failed(new Error('x'.repeat(i + 1)))
    expect(told).toHaveLength(10)
  })

  it('is over when it has not failed for ten seconds after it worked, and the next is a new one', () => {
    failFor(5)
    vi.advanceTimersByTime(9_500)
    expect(well).toEqual([])
    vi.advanceTimersByTime(500)
    expect(well).toEqual([expect.stringMatching(/^cache on shard 0 works again, after 20 failures in 1\d s$/)])
    outage.worked()
    vi.advanceTimersByTime(20_000)
    expect(well).toHaveLength(1)
    failFor(1)
    expect(told).toHaveLength(2)
  })
})
