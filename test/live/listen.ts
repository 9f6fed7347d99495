import { once } from 'node:events'
import { type IncomingMessage, request } from 'node:http'
import { onTestFinished } from 'vitest'
import { until } from '../cache/wait.ts'
import type { Balance, Client, Entry } from '../support/api.ts'

export type SeenEvent = { event: string; id: string; data: Entry & Balance }

/** A stream as its reader sees it. */
export type Listener = {
  readonly status: number
  readonly headers: IncomingMessage['headers']
  /** What has come so far, whole events only. */
  readonly events: SeenEvent[]
  readonly entries: SeenEvent[]
  /** All that has come, to the byte. */
  text(): string
  isOver(): boolean
  /** Waits until the last balance that has come is of a version, or later. */
  untilVersion(version: number): Promise<void>
  close(): void
}

/** Opens a stream over real HTTP; it is closed when the test is over. */
export async function listen(
  url: string,
  { apiKey }: Pick<Client, 'apiKey'>,
  walletId: string,
  { lastEventId, query = '' }: { lastEventId?: string | number; query?: string } = {},
): Promise<Listener> {
  const call = request(`${url}/v1/wallets/${walletId}/events${query}`, {
    agent: false,
    headers: {
      authorization: `Bearer ${apiKey}`,
      ...(lastEventId === undefined ? {} : { 'last-event-id': `${lastEventId}` }),
    },
  }).end()
  const [answer] = (await once(call, 'response')) as [IncomingMessage]
  call.on('error', () => {})
  answer.on('error', () => {})
  onTestFinished(() => {
    call.destroy()
  })
  let text = ''
  let isOver = false
  answer.setEncoding('utf8').on('data', (some: string) => {
    text += some
  })
  answer.once('close', () => {
    isOver = true
  })
  const listener: Listener = {
    status: answer.statusCode ?? 0,
    headers: answer.headers,
    get events() {
      return eventsOf(text)
    },
    get entries() {
      return eventsOf(text).filter(({ event }) => event === 'entry')
    },
    text: () => text,
    isOver: () => isOver,
    untilVersion: (version) =>
      until(() => {
        const last = listener.events.filter(({ event }) => event === 'balance').at(-1)
        return Number(last?.data.version ?? -1) >= version
      }),
    close() {
      call.destroy()
    },
  }
  return listener
}

function eventsOf(text: string): SeenEvent[] {
  const whole = text.slice(0, text.lastIndexOf('\n\n') + 2).split('\n\n')
  return whole.flatMap((block) => {
    const fields = Object.fromEntries(
      block.split('\n').map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1).trim()]),
    )
    const { event, id = '', data = '' } = fields
    return event === undefined ? [] : [{ event, id, data: JSON.parse(data) }]
  })
}
