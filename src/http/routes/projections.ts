import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import Type, { type Static } from 'typebox'
import { formatId, parseId } from '../../core/ids.ts'
import { formatTime } from '../../core/time.ts'
import { ZerosumError } from '../../errors.ts'
import type { Activity } from '../../projections/activity.ts'
import { type Projections, ProjectionsUnavailable } from '../../projections/projections.ts'
import type { Router } from '../../shards/router.ts'
import { activityPage, activityPlace, pageView } from '../page.ts'
import { Currency, Nullable, PageOf, PageQuery, Problems } from '../schemas.ts'

const AsOf = Type.String({
  description: 'All that was completed up to then is in the answer; of what came later, some may be.',
})

const ActivityBody = Type.Object({
  transactionId: Type.String(),
  leg: Type.Integer({ description: 'Which of the movements that were asked for together, from 0.' }),
  kind: Type.String(),
  direction: Type.Enum(['in', 'out']),
  amount: Type.String(),
  currency: Type.String(),
  counterparty: Nullable<string>('string'),
  transferId: Nullable<string>('string'),
  holdId: Nullable<string>('string'),
  reverses: Nullable<string>('string'),
  memo: Nullable<string>('string'),
  reference: Nullable<string>('string'),
  completedAt: Type.String(),
})

const ActivityPage = Type.Object({ ...PageOf(ActivityBody).properties, asOf: AsOf })

const TotalBody = Type.Object({
  day: Type.String({ description: 'UTC.' }),
  currency: Type.String(),
  kind: Type.String(),
  count: Type.Integer(),
  amount: Type.String({ description: 'Minor units, as a decimal string; it may be larger than any one amount.' }),
})

const Day = Type.String({ pattern: '^[0-9]{4}-[0-9]{2}-[0-9]{2}$', examples: ['2026-01-31'] })
const DAYS_MAX = 366
const DAY_MS = 86_400_000

/** What the consumer group `projections` has made of the ledger: a wallet's payments, a tenant's daily totals. */
export function projectionRoutes(router: Router, projections: Projections | undefined): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.get(
      '/wallets/:id/activity',
      {
        config: { scope: 'wallets:read' },
        schema: {
          tags: ['wallets'],
          summary: 'List what a person would call the payments of a wallet, newest first',
          description:
            'A line for each movement that was completed, with the wallet at the other end; what runs in steps is one line when it is ' +
            'done. Made of the ledger in the background: asOf says up to when.',
          params: Type.Object({ id: Type.String() }),
          querystring: Type.Object(PageQuery, { additionalProperties: false }),
          response: { 200: ActivityPage, ...Problems },
        },
      },
      async ({ principal: { tenantId }, params, query }) => {
        const id = parseId('wal', params.id)
        const page = activityPage(query)
        const wallet = id && (await router.read(id, ({ reader }) => reader.wallet(tenantId, id)))
        if (!wallet) throw new ZerosumError('not_found')
        const { rows, asOfUs } = await shown((known) => known.activity({ tenantId, walletId: wallet.id }, page))
        return { ...pageView(rows, query.limit, activityView, activityPlace), asOf: formatTime(asOfUs) }
      },
    )

    app.get(
      '/totals',
      {
        config: { scope: 'ledger:read' },
        schema: {
          tags: ['ledger'],
          summary: 'What was completed day by day, by currency and kind',
          description: `Days are UTC, both are included, ${DAYS_MAX} at most. Made of the ledger in the background: asOf says up to when.`,
          querystring: Type.Object(
            { from: Day, to: Day, currency: Type.Optional(Currency) },
            { additionalProperties: false },
          ),
          response: { 200: Type.Object({ data: Type.Array(TotalBody), asOf: AsOf }), ...Problems },
        },
      },
      async ({ principal, query }) => {
        checkDays(query)
        const { rows, asOfUs } = await shown((known) => known.totals(principal.tenantId, query))
        const data = rows.map(({ day, currency, kind, number, amount }) => ({
          ...{ day, currency, kind, count: Number(number), amount: `${amount}` },
        }))
        return { data, asOf: formatTime(asOfUs) }
      },
    )

    async function shown<T>(read: (known: Projections) => Promise<T>): Promise<T> {
      try {
        if (projections) return await read(projections)
      } catch (error) {
        if (!(error instanceof ProjectionsUnavailable)) throw error
        throw new ZerosumError('projections_unavailable', error.message)
      }
      throw new ZerosumError('projections_unavailable')
    }
  }
}

function activityView(row: Activity): Static<typeof ActivityBody> {
  const { transactionId, counterparty, transferId, holdId, reverses, timeUs } = row
  const { leg, kind, direction, amount, currency, memo, reference } = row
  return {
    ...{ transactionId: formatId('txn', transactionId), leg, kind, direction, amount, currency, memo, reference },
    counterparty: counterparty && formatId('wal', counterparty),
    transferId: transferId && formatId('trf', transferId),
    holdId: holdId && formatId('hld', holdId),
    reverses: reverses && formatId('trf', reverses),
    completedAt: formatTime(timeUs),
  }
}

/** @throws validation_failed */
function checkDays({ from, to }: { from: string; to: string }): void {
  const [first, last] = [dayMs('from', from), dayMs('to', to)]
  if (first > last) throw badDay('to', 'must not be before from')
  if ((last - first) / DAY_MS >= DAYS_MAX) throw badDay('to', `must be less than ${DAYS_MAX} days after from`)
}

function dayMs(field: string, day: string): number {
  const ms = Date.parse(`${day}T00:00:00Z`)
  // 2026-02-30 is parsed as a day in March.
  if (Number.isNaN(ms) || new Date(ms).toISOString().slice(0, 10) !== day || day < '0001')
    throw badDay(field, 'must be a day')
  return ms
}

function badDay(name: string, message: string): ZerosumError {
  const field = `querystring/${name}`
  return new ZerosumError('validation_failed', `${field}: ${message}`, { errors: [{ field, message }] })
}
