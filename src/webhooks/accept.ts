import { digestUuid } from '../core/ids.ts'
import { formatTime } from '../core/time.ts'
import type { Tx } from '../postgres/connect.ts'
import { newId } from '../shards/newId.ts'
import { EVENT_TYPE, EVENT_TYPE_LENGTH_MAX, isChosen } from './eventTypes.ts'
import { addDeliveries } from './sql/addDeliveries.ts'
import { listeningEndpoints } from './sql/listeningEndpoints.ts'

/** Something that happened, for whoever wants to hear of it. */
export type WebhookEvent = {
  /** Tells it apart from all others of the installation; the same when it comes again. */
  readonly id: string
  readonly tenantId: string
  /** As `EVENT_TYPE` has it: `transaction.posted`. */
  readonly type: string
  /** When it happened, microseconds since 1970. */
  readonly timeUs: number
  /** Goes to the endpoints as JSON. */
  readonly data: unknown
}

export type Accepted = {
  /** How many deliveries were made. */
  readonly deliveries: number
  /** Ids of events that somebody wants and that are too large to be sent: for the caller to put aside. */
  readonly tooLarge: readonly string[]
}

/** Of what is sent. */
export const BODY_BYTES_MAX = 256 * 1024
/** What happened before an endpoint was made is not for it; nodes' clocks may differ by so much. */
const CLOCKS_APART_US = 5_000_000

/**
 * Makes the deliveries of these events, for all enabled endpoints of their tenants that chose their types. To be called within the
 * transaction in which the caller notes that it has seen them: they are delivered if that is committed, and not if it isn't. An event
 * that was accepted before has no effect, for as long as it is kept (30 days).
 * @param sql a transaction on the first shard
 * @param nowMs milliseconds since 1970
 * @throws for a type that is none: a bug
 */
export async function accept(sql: Tx, events: readonly WebhookEvent[], nowMs = Date.now()): Promise<Accepted> {
  const wrong = events.find(({ type }) => !EVENT_TYPE.test(type) || type.length > EVENT_TYPE_LENGTH_MAX)
  if (wrong) throw new Error(`"${wrong.type}" is not a type of events`)
  const listening = await listeningEndpoints(sql, [...new Set(events.map(({ tenantId }) => tenantId))])
  const byTenant = Map.groupBy(listening, ({ tenantId }) => tenantId)
  const tooLarge: string[] = []
  const wanted = events.flatMap((event) => {
    const endpoints =
      byTenant
        .get(event.tenantId)
        ?.filter(
          ({ eventTypes, createdUs }) =>
            isChosen(event.type, eventTypes) && event.timeUs >= createdUs - CLOCKS_APART_US,
        ) ?? []
    if (endpoints.length === 0) return []
    const body = bodyOf(event)
    if (Buffer.byteLength(body) > BODY_BYTES_MAX) {
      tooLarge.push(event.id)
      return []
    }
    const { tenantId, type } = event
    const deliveries = endpoints.map((endpoint) => ({ id: newId(0), endpointId: endpoint.id }))
    return [{ id: digestUuid(`webhook ${tenantId} ${event.id}`), tenantId, type, body, deliveries }]
  })
  if (wanted.length === 0) return { deliveries: 0, tooLarge }
  return { deliveries: await addDeliveries(sql, wanted, nowMs * 1000), tooLarge }
}

/** What is signed and sent, to the byte: `{ type, timestamp, data }`, as Standard Webhooks recommends. */
function bodyOf({ type, timeUs, data }: WebhookEvent): string {
  return JSON.stringify({ type, timestamp: formatTime(timeUs), data })
}
