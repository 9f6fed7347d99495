import { describe, expect, test } from 'vitest'
import { whenDue } from '../../src/async/whenDue.ts'
import { until } from '../bus/stage.ts'

const dueMsOf = ({ dueMs }: { dueMs: number }) => dueMs

function stage() {
  const failures: unknown[] = []
  const stopping = new AbortController()
  const outage = { failed: (error: unknown) => void failures.push(error), worked() {} }
  return { failures, stop: () => stopping.abort(), options: { signal: stopping.signal, outage } }
}

describe('what is put off', () => {
  test('is tried again by itself when it fails, and what is due at other times is done once', async () => {
    const { failures, options } = stage()
    const done: string[] = []
    let fails = 2
    const nowMs = Date.now()
    const work = async (due: readonly { name: string }[]) => {
      const names = due.map(({ name }) => name).join(' ')
      if (names === 'second' && fails-- > 0) throw new Error('no broker')
      done.push(names)
    }
    const items = [
      { name: 'first', dueMs: 0 },
      { name: 'second', dueMs: nowMs },
      { name: 'first too', dueMs: 0 },
      { name: 'third', dueMs: nowMs + 600 },
    ]
    await whenDue(items, dueMsOf, work, options)
    expect(done.toSorted()).toEqual(['first first too', 'second', 'third'])
    expect(failures).toHaveLength(2)
  })

  test('is left when it is broken off, and after that nothing of it is under way', async () => {
    const { stop, options } = stage()
    let underWay = 0
    const { promise: held, resolve: letGo } = Promise.withResolvers<void>()
    const work = async () => {
      underWay += 1
      await held
      underWay -= 1
    }
    const items = [{ dueMs: 0 }, { dueMs: Date.now() + 300_000 }]
    let isOver = false
    const doing = whenDue(items, dueMsOf, work, options).finally(() => {
      isOver = true
    })
    await until(() => underWay === 1)
    stop()
    await new Promise((done) => setImmediate(done))
    expect(isOver).toBe(false)
    letGo()
    await expect(doing).rejects.toThrow('aborted')
    expect(underWay).toBe(0)
  })

  test('is not tried again once it is broken off', async () => {
    const { stop, options } = stage()
    let tries = 0
    const work = async () => {
      tries += 1
      stop()
      throw new Error('no broker')
    }
    await expect(whenDue([{ dueMs: 0 }], dueMsOf, work, options)).rejects.toThrow('aborted')
    expect(tries).toBe(1)
  })
})
