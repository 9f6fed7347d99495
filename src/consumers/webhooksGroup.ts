import { BATCH_MAX, type ConsumerGroup } from '../bus/bus.ts'
import { type LedgerEvent, TOPICS, type TransactionData } from '../bus/events.ts'
import { parseId } from '../core/ids.ts'
import { parseTime } from '../core/time.ts'
import type { Sql } from '../postgres/connect.ts'
import { type AcceptOptions, accept, type WebhookEvent } from '../webhooks/accept.ts'
import type { EventType } from '../webhooks/eventTypes.ts'
import { hasEndpoints } from '../webhooks/sql/listeningEndpoints.ts'

/** What endpoints choose from (docs/webhooks.md). What was refused is no transaction, and has types of its own. */
function typeOf({ type, data }: LedgerEvent): EventType {
  if (type !== 'zerosum.transaction.v1') return 'entry.posted'
  const { status, transferId } = data as TransactionData
  if (status !== 'refused') return 'transaction.posted'
  return transferId === null ? 'hold.refused' : 'transfer.refused'
}

/** Meanwhile others who have the same events wait, and no row that was replaced can be cleared away. */
const TRANSACTION_MS_MAX = 10_000

/**
 * The consumer group that makes deliveries to webhook endpoints of the ledger's events, each once: in the transaction that marks them.
 *
 * What can't be done in one transaction within its time is done in several, each half as large as the one that failed, until it goes
 * through: one event of it always does, if the database answers at all. What went through once is not done again. Later batches are
 * tried in larger ones again, little by little.
 * @param sql on the first shard's database
 * @param onFull told of endpoints for which so much waits that they miss what happens from now on
 */
export function webhooksGroup(
  sql: Sql,
  onFull: (endpointIds: readonly string[]) => void,
  limits: Pick<AcceptOptions, 'msMax' | 'pendingMax'> = {},
): ConsumerGroup {
  let countMax = BATCH_MAX
  return {
    name: 'webhooks',
    topics: TOPICS,
    // Asked after the blocks are there: whoever adds an endpoint later is told of what comes later.
    skips: async () => !(await hasEndpoints(sql)),
    async handle(events, marks) {
      for (let done = 0; done < events.length; ) {
        const upTo = Math.min(events.length, done + countMax)
        try {
          const { filled } = await sql.begin(
            async (tx) =>
              await accept(tx, (await marks.fresh(tx, upTo)).map(webhookOf), { msMax: TRANSACTION_MS_MAX, ...limits }),
          )
          if (filled.length > 0) onFull(filled)
        } catch (error) {
          countMax = Math.max(1, Math.floor((upTo - done) / 2))
          throw error
        }
        done = upTo
      }
      countMax = Math.min(BATCH_MAX, countMax + Math.ceil(countMax / 10))
    },
  }
}

function webhookOf(event: LedgerEvent): WebhookEvent {
  const { id, tenant, time, traceparent, data } = event
  const tenantId = parseId('ten', tenant)
  const timeUs = parseTime(time)
  if (tenantId === undefined || timeUs === undefined) throw new Error(`event ${id} is of no tenant, or no time`)
  const traced = traceparent === undefined ? {} : { traceparent }
  return { id, tenantId, type: typeOf(event), timeUs, data, href: hrefOf(data), ...traced }
}

/** A transfer says all that was asked; a transaction, which may be a step of it, what was moved. */
function hrefOf(data: LedgerEvent['data']): string {
  if (data.transferId !== null) return `/v1/transfers/${data.transferId}`
  return `/v1/transactions/${'transactionId' in data ? data.transactionId : data.id}`
}
