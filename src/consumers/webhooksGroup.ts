import type { ConsumerGroup } from '../bus/bus.ts'
import { type LedgerEvent, TOPICS } from '../bus/events.ts'
import { parseId } from '../core/ids.ts'
import { parseTime } from '../core/time.ts'
import type { Sql } from '../postgres/connect.ts'
import { accept, type WebhookEvent } from '../webhooks/accept.ts'
import { hasEndpoints } from '../webhooks/sql/listeningEndpoints.ts'

/** What endpoints choose from (docs/webhooks.md), by the types of the ledger's events. */
const TYPES: Readonly<Record<LedgerEvent['type'], string>> = {
  'zerosum.transaction.v1': 'transaction.posted',
  'zerosum.entry.v1': 'entry.posted',
}

/**
 * The consumer group that makes deliveries to webhook endpoints of the ledger's events, each once: in the transaction that marks them.
 * @param sql on the first shard's database
 * @param onTooLarge told of events that somebody wants and that can't be sent
 */
export function webhooksGroup(sql: Sql, onTooLarge: (ids: readonly string[]) => void): ConsumerGroup {
  return {
    name: 'webhooks',
    topics: TOPICS,
    // Asked after the blocks are there: whoever adds an endpoint later is told of what comes later.
    skips: async () => !(await hasEndpoints(sql)),
    async handle(_, marks) {
      const { tooLarge } = await sql.begin(async (tx) => await accept(tx, (await marks.fresh(tx)).map(webhookOf)))
      if (tooLarge.length > 0) onTooLarge(tooLarge)
    },
  }
}

function webhookOf({ id, type, tenant, time, data }: LedgerEvent): WebhookEvent {
  const tenantId = parseId('ten', tenant)
  const timeUs = parseTime(time)
  if (tenantId === undefined || timeUs === undefined) throw new Error(`event ${id} is of no tenant, or no time`)
  return { id, tenantId, type: TYPES[type], timeUs, data }
}
