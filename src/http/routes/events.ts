import type { OutgoingHttpHeaders } from 'node:http'
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import Type from 'typebox'
import { parseId } from '../../core/ids.ts'
import { ZerosumError } from '../../errors.ts'
import { type AdmissionLimits, createAdmission } from '../../live/admission.ts'
import { type EventStreamOptions, type StreamEvent, streamEvents } from '../../live/eventStream.ts'
import type { Feed } from '../../live/feed.ts'
import { createFollow, type WalletEvent } from '../../live/followWallet.ts'
import type { Router } from '../../shards/router.ts'
import { Problems } from '../schemas.ts'
import { balanceView, entryView } from '../views.ts'

/** Of streams; all have defaults. */
export type StreamSettings = AdmissionLimits &
  Pick<EventStreamOptions, 'heartbeatMs' | 'stallMsMax'> & {
    /** How often a stream looks by itself, whatever the feed says. */
    lookMs?: number
  }

// An EventSource that was told of nothing yet may send an empty one.
const LastEventId = Type.String({
  pattern: '^([0-9]{1,15})?$',
  description:
    'The `id` of the last event that was received: the stream goes on after it. The header counts, if both are given.',
})

const DESCRIPTION = `Server-sent events. The stream begins with the current \`balance\`, or, if it resumes, with the entries since then and the balance after them.

- \`entry\`: the same JSON as an item of \`GET /v1/wallets/{id}/entries\`. Each comes once, in order, without a gap.
- \`balance\`: the same JSON as \`GET /v1/wallets/{id}/balance\`, after each change. It may come without an entry, when what changed it is not listed.

The \`id\` of an event is the number of the last entry that it has in it. A comment comes every 15 seconds. The server ends streams now and then, and cuts off readers that are too slow: ask again with the last id, as EventSource does.`

/** What happens to a wallet, as it happens. */
export function eventRoutes(
  router: Router,
  feed: Feed,
  { lookMs, perTenant, perNode, lifeMsMax, ...timing }: StreamSettings = {},
): FastifyPluginAsyncTypebox {
  return async (app) => {
    const admission = createAdmission({
      ...(perTenant !== undefined && { perTenant }),
      ...(perNode !== undefined && { perNode }),
      ...(lifeMsMax !== undefined && { lifeMsMax }),
    })
    const follow = createFollow({
      ...{ router, feed, ...(lookMs !== undefined && { lookMs }) },
      onTrouble: (error) => app.log.warn({ err: error }, 'a stream met trouble and goes on'),
    })
    // Streams end before the server waits for what is still open.
    app.addHook('preClose', async () => admission.close())

    app.get(
      '/wallets/:id/events',
      {
        config: { scope: 'wallets:read', isStream: true },
        exposeHeadRoute: false,
        schema: {
          tags: ['wallets'],
          summary: "Follow a wallet's entries and balance",
          description: DESCRIPTION,
          params: Type.Object({ id: Type.String() }),
          headers: Type.Object({ 'last-event-id': Type.Optional(LastEventId) }),
          querystring: Type.Object({ lastEventId: Type.Optional(LastEventId) }, { additionalProperties: false }),
          response: {
            200: {
              description: 'Events, until one of both sides ends it.',
              content: { 'text/event-stream': { schema: Type.String() } },
            },
            ...Problems,
          },
        },
      },
      async ({ principal: { tenantId }, params, headers, query, log }, reply) => {
        const walletId = parseId('wal', params.id)
        const wallet = walletId && (await router.read(walletId, ({ reader }) => reader.wallet(tenantId, walletId)))
        if (!wallet) throw new ZerosumError('not_found')
        const after = numberOf(headers['last-event-id'] || query.lastEventId)
        const { ending, leave } = admission.enter(tenantId)
        reply.hijack()
        const events = follow({ tenantId, walletId: wallet.id, after, signal: ending.signal })
        try {
          await streamEvents(reply.raw, {
            ...timing,
            headers: reply.getHeaders() as OutgoingHttpHeaders,
            events: views(events),
            ending,
          })
        } catch (error) {
          log.error({ err: error }, 'a stream failed unexpectedly')
        } finally {
          leave()
        }
      },
    )
  }
}

async function* views(events: AsyncIterable<readonly WalletEvent[]>): AsyncGenerator<StreamEvent[]> {
  for await (const some of events) yield some.map(viewOf)
}

function viewOf(event: WalletEvent): StreamEvent {
  const { kind, sequence: id } = event
  switch (kind) {
    case 'entry':
      return { event: kind, id, data: entryView(event.entry) }
    case 'balance':
      return { event: kind, id, data: balanceView(event.walletId, event.balance, 'database') }
  }
}

/** Nothing, if it says nothing. */
function numberOf(text = ''): number | undefined {
  return text === '' ? undefined : Number(text)
}
