import { randomUUID } from 'node:crypto'
import { connect, type Socket } from 'node:net'

/** What came of a load that arrives at a constant rate, whatever the answers do. */
export type Flow = {
  offered: number
  seconds: number
  /** How many answers there were with each status; `0` is no answer: the connection broke, or it was not there in time. */
  statuses: Map<number, number>
  /** From when a request was due to when its answer was there, in milliseconds, of those that were accepted, ascending. */
  acceptedMs: number[]
  refusedMs: number[]
  /** How many were accepted while who asked was still there: within `IN_TIME_MS`. */
  inTime: number
  /** Of all that was refused: how many without saying when to come again. */
  withoutRetryAfter: number
  /** Accepted, by the second in which they were due. */
  acceptedBySecond: number[]
  refusedBySecond: number[]
  /** How many refusals there were with each code of a problem. */
  codes: Map<string, number>
}

export type OpenLoopOptions = {
  url: string
  path: string
  /** Beside those for the length of the body and the idempotency key. */
  headers: Record<string, string>
  body: () => string
  perSecond: number
  seconds: number
  /** A crowd of so many at most, which asks until the signal comes, or all seconds are over; while all of it wait for answers nobody else comes. */
  crowd?: { size: number; signal: AbortSignal }
}

/** What comes later is of no use to who asked. */
export const IN_TIME_MS = 1_000
/** Two files each where there is a balancer between, and a process has 20,000 on most machines. */
const CONNECTIONS_MAX = 8_000
/** After the last request was due. */
const ANSWER_MS_MAX = 15_000

type Asked = { dueMs: number }

/**
 * Sends requests at the times when they are due, each on a connection of its own, without waiting for earlier answers, as a crowd of
 * strangers does. Latency counts from when a request was due, so what waits here for a connection counts too: no coordinated omission.
 */
export async function offer(options: OpenLoopOptions): Promise<Flow> {
  const { url, path, headers, body, perSecond, seconds, crowd } = options
  const { hostname, port } = new URL(url)
  const head = Object.entries({ host: `${hostname}:${port}`, ...headers }).map(
    ([name, value]) => `${name}: ${value}\r\n`,
  )
  const before = `POST ${path} HTTP/1.1\r\n${head.join('')}`
  const flow: Flow = {
    ...{ offered: 0, seconds, statuses: new Map(), acceptedMs: [], refusedMs: [], inTime: 0, withoutRetryAfter: 0 },
    acceptedBySecond: Array.from({ length: seconds }, () => 0),
    refusedBySecond: Array.from({ length: seconds }, () => 0),
    codes: new Map(),
  }
  const idle: Line[] = []
  const open = new Set<Line>()
  const waiting: Asked[] = []
  const beganMs = performance.now()
  const total = Math.floor(perSecond * seconds)
  const connectionsMax = crowd?.size ?? CONNECTIONS_MAX
  let due = 0
  let answered = 0

  /** @param answer as it came; empty if none did */
  function count({ dueMs }: Asked, answer: string): void {
    answered += 1
    const status = Number(answer.slice(9, 12))
    flow.statuses.set(status, (flow.statuses.get(status) ?? 0) + 1)
    const second = Math.min(seconds - 1, Math.floor((dueMs - beganMs) / 1_000))
    const tookMs = performance.now() - dueMs
    if (status >= 200 && status < 300) {
      flow.acceptedMs.push(tookMs)
      if (tookMs <= IN_TIME_MS) flow.inTime += 1
      flow.acceptedBySecond[second] = (flow.acceptedBySecond[second] ?? 0) + 1
    } else {
      flow.refusedMs.push(tookMs)
      flow.refusedBySecond[second] = (flow.refusedBySecond[second] ?? 0) + 1
      if (answer !== '' && !/\r\nretry-after:/i.test(answer)) flow.withoutRetryAfter += 1
      const code = /"code":"(\w+)"/.exec(answer)?.[1] ?? ''
      flow.codes.set(code, (flow.codes.get(code) ?? 0) + 1)
    }
  }

  function send(asked: Asked): void {
    const line = idle.pop() ?? (open.size < connectionsMax ? dial() : undefined)
    if (!line && crowd) return
    flow.offered += 1
    if (!line) {
      waiting.push(asked)
      return
    }
    write(line, asked)
  }

  function write(line: Line, asked: Asked): void {
    const text = body()
    line.asked = asked
    line.socket.write(`${before}idempotency-key: ${randomUUID()}\r\ncontent-length: ${text.length}\r\n\r\n${text}`)
  }

  function dial(): Line {
    const socket = connect(Number(port), hostname).setNoDelay(true).setEncoding('latin1')
    const line: Line = { socket, asked: undefined, text: '' }
    open.add(line)
    socket.on('data', (chunk: unknown) => {
      line.text += chunk
      const end = line.text.indexOf('\r\n\r\n')
      if (end < 0) return
      const length = Number(/content-length: (\d+)/i.exec(line.text.slice(0, end))?.[1] ?? 0)
      if (line.text.length < end + 4 + length) return
      const { asked } = line
      if (asked) count(asked, line.text)
      line.asked = undefined
      line.text = ''
      const next = waiting.shift()
      if (next) write(line, next)
      else idle.push(line)
    })
    socket.on('error', () => {}) // `close` follows
    socket.on('close', () => {
      open.delete(line)
      const place = idle.indexOf(line)
      if (place >= 0) idle.splice(place, 1)
      if (line.asked) count(line.asked, '')
    })
    return line
  }

  while (due < total && !crowd?.signal.aborted) {
    const now = Math.min(total, Math.floor(((performance.now() - beganMs) * perSecond) / 1_000))
    for (; due < now; due++) send({ dueMs: beganMs + (due * 1_000) / perSecond })
    await new Promise((done) => setTimeout(done, 1))
  }
  const endMs = performance.now() + ANSWER_MS_MAX
  while (answered < flow.offered && performance.now() < endMs) await new Promise((done) => setTimeout(done, 5))
  for (const { socket } of open) socket.destroy()
  const without = flow.offered - answered
  if (without > 0) flow.statuses.set(0, (flow.statuses.get(0) ?? 0) + without)
  flow.acceptedMs.sort((a, b) => a - b)
  flow.refusedMs.sort((a, b) => a - b)
  return flow
}

type Line = { socket: Socket; asked: Asked | undefined; text: string }
