import { digestUuid } from '../core/ids.ts'
import { formatTime } from '../core/time.ts'
import type { Tx } from '../postgres/connect.ts'
import { newId } from '../shards/newId.ts'
import { type EventType, isChosen } from './eventTypes.ts'
import { addDeliveries, type NewEvent } from './sql/addDeliveries.ts'
import { type BacklogChange, countPendingOf, writeBacklogs } from './sql/backlogs.ts'
import { type Listener, listeningEndpoints } from './sql/listeningEndpoints.ts'

/** Something that happened, for whoever wants to hear of it. */
export type WebhookEvent = {
  /** Tells it apart from all others of the installation; the same when it comes again. */
  readonly id: string
  readonly tenantId: string
  readonly type: EventType
  /** When it happened, microseconds since 1970. */
  readonly timeUs: number
  /** Goes to the endpoints as JSON. */
  readonly data: unknown
  /** Where the API has what it is about. It is sent when `data` is too large to be. */
  readonly href: string
  /** W3C trace context of what made it happen, if that is traced. */
  readonly traceparent?: string
}

export type AcceptOptions = {
  /** Milliseconds since 1970. */
  readonly nowMs?: number
  /** Deliveries that may wait for one endpoint. */
  readonly pendingMax?: number
  /** How long it may go on; the first portion always may. */
  readonly msMax?: number
}

export type Accepted = {
  /** How many deliveries were made. */
  readonly deliveries: number
  /** The endpoints for which as much waits as may, which was found now: they miss what happens, from these events on. */
  readonly filled: readonly string[]
}

/** The time was over before all was stored: to be tried again with fewer events. */
export class BatchTooLarge extends Error {
  constructor() {
    super('more deliveries are to be made at once than can be made in time')
  }
}

/** Of what is sent. */
export const BODY_BYTES_MAX = 256 * 1024
/** So many, or a tenth less: that is how exactly it is counted. */
export const PENDING_MAX = 100_000
/** With less room than this share, what waits would have to be counted again too soon. */
const ROOM_SHARE_MIN = 0.1
/** What waits for an endpoint that is full is counted again after so long. */
export const COUNT_AGAIN_US = 60_000_000
/** What is stored in one statement: it is over soon, however much comes at once. */
const PORTION_DELIVERIES = 1_000
const PORTION_BYTES = 4 * 1024 * 1024
/** What happened before an endpoint was made is not for it; nodes' clocks may differ by so much. */
const CLOCKS_APART_US = 5_000_000
/** Members of what is too large that are sent nevertheless. */
const MEMBERS_KEPT = 50
const MEMBER_LENGTH_MAX = 200

/**
 * Makes the deliveries of these events, for all enabled endpoints of their tenants that chose their types. To be called as the last in
 * the transaction in which the caller notes that it has seen them: they are delivered if that is committed, and not if it isn't. An event
 * that was accepted before has no effect, for as long as it is kept (30 days).
 *
 * An endpoint for which too much waits is full: it gets nothing of what happens until less does, and what it misses is counted. What
 * waits is not counted each time: a count says how many deliveries may follow before the next, at least a tenth of all that may wait.
 * @param sql a transaction on the first shard
 * @throws BatchTooLarge
 */
export async function accept(
  sql: Tx,
  events: readonly WebhookEvent[],
  { nowMs = Date.now(), pendingMax = PENDING_MAX, msMax }: AcceptOptions = {},
): Promise<Accepted> {
  const began = performance.now()
  const nowUs = nowMs * 1000
  const listening = await listeningEndpoints(sql, [...new Set(events.map(({ tenantId }) => tenantId))])
  const byTenant = Map.groupBy(listening, ({ tenantId }) => tenantId)
  const wanted = events
    .map((event) => ({
      event,
      id: digestUuid(`webhook ${event.tenantId} ${event.id}`),
      listeners: (byTenant.get(event.tenantId) ?? []).filter((listener) => wants(listener, event)),
    }))
    .filter(({ listeners }) => listeners.length > 0)
  if (wanted.length === 0) return { deliveries: 0, filled: [] }

  const eventsOf = Map.groupBy(
    wanted.flatMap(({ event, listeners }) => listeners.map((listener) => ({ listener, timeUs: event.timeUs }))),
    ({ listener }) => listener,
  )
  const changes = await backlogChanges(sql, eventsOf, { nowUs, pendingMax })
  const full = new Set(changes.filter(({ missed }) => missed).map(({ endpointId }) => endpointId))

  let deliveries = 0
  let portions = 0
  let portion = emptyPortion()
  const store = async () => {
    if (portions++ > 0 && msMax !== undefined && performance.now() - began >= msMax) throw new BatchTooLarge()
    deliveries += await addDeliveries(sql, portion.events, nowUs)
    portion = emptyPortion()
  }
  for (const { event, id, listeners } of wanted.toSorted((a, b) => (a.id < b.id ? -1 : 1))) {
    const open = listeners.filter((listener) => !full.has(listener.id))
    if (open.length === 0) continue
    const body = bodyOf(event)
    const { tenantId, type, traceparent } = event
    portion.events.push({
      ...{ id, tenantId, type, body, ...(traceparent === undefined ? {} : { traceparent }) },
      deliveries: open.map((endpoint) => ({ id: newId(0), endpointId: endpoint.id })),
    })
    portion.deliveries += open.length
    portion.bytes += body.length
    if (portion.deliveries >= PORTION_DELIVERIES || portion.bytes >= PORTION_BYTES) await store()
  }
  if (portion.events.length > 0) await store()
  await writeBacklogs(sql, changes, nowUs)
  const wereFull = new Set(listening.filter(({ backlog }) => backlog?.isFull).map(({ id }) => id))
  return { deliveries, filled: [...full].filter((id) => !wereFull.has(id)) }
}

function wants({ eventTypes, createdUs }: Listener, { type, timeUs }: WebhookEvent): boolean {
  return isChosen(type, eventTypes) && timeUs >= createdUs - CLOCKS_APART_US
}

const emptyPortion = () => ({ events: [] as NewEvent[], deliveries: 0, bytes: 0 })

/** What comes of these events for what waits for each endpoint, which is counted where that has to be. */
async function backlogChanges(
  sql: Tx,
  eventsOf: ReadonlyMap<Listener, readonly { readonly timeUs: number }[]>,
  { nowUs, pendingMax }: { nowUs: number; pendingMax: number },
): Promise<BacklogChange[]> {
  const mustCount = ([{ backlog }, events]: [Listener, readonly unknown[]]) =>
    backlog === null || (backlog.isFull ? backlog.countedUs <= nowUs - COUNT_AGAIN_US : backlog.room < events.length)
  const uncounted = [...eventsOf].filter(mustCount).map(([{ id }]) => id)
  const pending = uncounted.length > 0 ? await countPendingOf(sql, uncounted, pendingMax) : new Map<string, number>()
  return [...eventsOf].map(([{ id, backlog }, events]) => {
    const count = pending.get(id)
    const room = count === undefined ? null : pendingMax - count
    const isFull =
      room === null ? backlog?.isFull === true : room < Math.max(events.length, pendingMax * ROOM_SHARE_MIN)
    const times = events.map(({ timeUs }) => timeUs)
    return {
      endpointId: id,
      made: isFull ? 0 : events.length,
      counted: room === null ? null : { room, isFull },
      missed: isFull ? { count: events.length, fromUs: Math.min(...times), untilUs: Math.max(...times) } : null,
    }
  })
}

/** What is signed and sent, to the byte: `{ type, timestamp, data }`, as Standard Webhooks recommends. */
function bodyOf({ type, timeUs, data, href }: WebhookEvent): string {
  const timestamp = formatTime(timeUs)
  const body = JSON.stringify({ type, timestamp, data })
  if (Buffer.byteLength(body) <= BODY_BYTES_MAX) return body
  return JSON.stringify({ type, timestamp, data: { ...smallMembers(data), truncated: true, href } })
}

/** Ids, and what else says in a few characters what it is about. */
function smallMembers(data: unknown): Record<string, unknown> {
  const isSmall = (value: unknown) =>
    typeof value === 'string' ? value.length <= MEMBER_LENGTH_MAX : value === null || typeof value !== 'object'
  const members = Object.entries(typeof data === 'object' && data !== null ? data : {})
  return Object.fromEntries(members.filter(([, value]) => isSmall(value)).slice(0, MEMBERS_KEPT))
}
