import Type from 'typebox'
import { CURRENCIES } from '../core/money.ts'

/**
 * The shapes that go over the wire, shared by the routes. Formats (`amount`, `text`, …) are checked in validation.ts; patterns
 * beside them are for readers of the OpenAPI document.
 */

export const Amount = Type.String({
  format: 'amount',
  pattern: '^[1-9][0-9]{0,18}$',
  description: 'Minor units, as a decimal string; 1 to 9223372036854775807.',
  examples: ['1250'],
})
/** An amount that may be nothing or negative: what a balance is. */
export const SignedAmount = Type.String({ description: 'Minor units, as a decimal string.', examples: ['-1250'] })
export const AmountOrZero = Type.String({
  format: 'amount-or-zero',
  pattern: '^(0|[1-9][0-9]{0,18})$',
  examples: ['0'],
})
export const Currency = Type.String({
  format: 'currency',
  description: `ISO 4217, one of ${CURRENCIES.size}.`,
  examples: ['USD'],
})
export const Text = (maxLength: number, minLength = 0) => Type.String({ format: 'text', minLength, maxLength })
// Not Type.Record: its pattern for names doesn't match one with a line break, whose value would go unchecked.
export const Metadata = Type.Unsafe<Record<string, string>>({
  type: 'object',
  additionalProperties: Text(500),
  propertyNames: { format: 'text', minLength: 1, maxLength: 40 },
  maxProperties: 50,
  description: 'Up to 50 texts of your own, each up to 500 characters.',
})
const MetadataBody = Type.Unsafe<Record<string, string>>({ type: 'object', additionalProperties: { type: 'string' } })
export const Time = Type.String({ format: 'time', description: 'RFC 3339; answers have microseconds.' })

/** An id with its prefix, as in `wal_0197c2a4…`. */
export const Id = (prefix: string) =>
  Type.String({ pattern: `^${prefix}_[0-9a-f]{32}$`, examples: [`${prefix}_${'0197c2a4'.repeat(4)}`] })

export const Nullable = <T>(type: 'string' | 'object' | 'integer') => Type.Unsafe<T | null>({ type: [type, 'null'] })

export const Limits = Type.Object(
  {
    transferMax: Type.Optional(Amount),
    balanceMax: Type.Optional(Amount),
  },
  {
    additionalProperties: false,
    description: 'transferMax: the most that one transfer may take out; balanceMax: the most the wallet may hold.',
  },
)

export const PageQuery = {
  limit: Type.Integer({ minimum: 1, maximum: 100, default: 25 }),
  cursor: Type.Optional(Type.String({ maxLength: 200 })),
}

export const PageOf = <T extends Type.TSchema>(item: T) =>
  Type.Object({ data: Type.Array(item), nextCursor: Nullable<string>('string') })

export const ProblemBody = Type.Object(
  {
    type: Type.String(),
    title: Type.String(),
    status: Type.Integer(),
    detail: Type.String(),
    instance: Type.String(),
    code: Type.String(),
    correlationId: Type.String(),
    errors: Type.Optional(Type.Array(Type.Object({ field: Type.String(), message: Type.String() }))),
  },
  { additionalProperties: true, description: 'RFC 9457 problem details. The codes are listed in docs/errors.md.' },
)

/** What any route may answer beside what it is for. */
const ProblemAnswer = {
  description: 'A problem: see its code.',
  content: { 'application/problem+json': { schema: ProblemBody } },
}
export const Problems = { '4xx': ProblemAnswer, '5xx': ProblemAnswer }

export const IdempotencyHeaders = Type.Object({
  'idempotency-key': Type.Optional(
    Type.String({
      minLength: 1,
      maxLength: 255,
      pattern: '^[\\x20-\\x7e]+$',
      description: 'Required. Yours to choose; a retry with the same key and body has no further effect.',
    }),
  ),
})

export const LaterHeaders = Type.Object({
  ...IdempotencyHeaders.properties,
  prefer: Type.Optional(
    Type.String({
      description:
        '`respond-async`: it is kept safe, answered with 202 and posted later; look at Location. The same key and body get the same answer.',
    }),
  ),
})

export const WalletBody = Type.Object({
  id: Type.String(),
  holderId: Type.String(),
  currency: Type.String(),
  status: Type.String(),
  overdraftLimit: Type.String(),
  limits: Type.Object({ transferMax: Type.Optional(Type.String()), balanceMax: Type.Optional(Type.String()) }),
  name: Nullable<string>('string'),
  metadata: MetadataBody,
  createdAt: Type.String(),
})

export const BalanceBody = Type.Object({
  walletId: Type.String(),
  currency: Type.String(),
  posted: SignedAmount,
  pendingIn: SignedAmount,
  pendingOut: SignedAmount,
  available: SignedAmount,
  version: Type.Integer({ description: 'The number of the last entry that is in it. It never falls.' }),
  source: Type.Union([Type.Literal('cache'), Type.Literal('database')], { description: 'Where it was read.' }),
  asOf: Type.String(),
})

export const EntryBody = Type.Object({
  id: Type.String(),
  transactionId: Type.String(),
  transferId: Nullable<string>('string'),
  kind: Type.String(),
  amount: SignedAmount,
  balanceAfter: SignedAmount,
  layer: Type.String(),
  sequence: Type.Integer(),
  counterparty: Nullable<string>('string'),
  memo: Nullable<string>('string'),
  createdAt: Type.String(),
})

const LegBody = Type.Object({
  from: Nullable<string>('string'),
  to: Nullable<string>('string'),
  amount: Type.String(),
  currency: Type.String(),
})

const TransferFields = {
  id: Type.String(),
  from: Nullable<string>('string'),
  to: Nullable<string>('string'),
  amount: Nullable<string>('string'),
  currency: Nullable<string>('string'),
  legs: Type.Optional(Type.Array(LegBody)),
  status: Type.String(),
  kind: Type.String(),
  memo: Nullable<string>('string'),
  metadata: MetadataBody,
  effectiveAt: Type.Optional(Type.String()),
  reference: Type.Optional(Type.String()),
  reverses: Type.Optional(Type.String()),
  createdAt: Type.String(),
  completedAt: Nullable<string>('string'),
  reversedBy: Type.Optional(Type.String()),
  refusal: Type.Optional(Type.String()),
}
export const TransferBody = Type.Object(TransferFields)
/** A transfer that is not over. */
export const UnfinishedTransferBody = Type.Object({
  ...TransferFields,
  createdAt: Type.Unsafe<string | null>({
    type: ['string', 'null'],
    description: 'null while it waits to be posted (`Prefer: respond-async`).',
  }),
})
/** What is known of a transfer that waits to be posted: that it was not yet. */
export const WaitingTransferBody = Type.Object({ id: Type.String(), status: Type.Literal('pending') })

export const HoldBody = Type.Object({
  id: Type.String(),
  walletId: Type.String(),
  to: Type.String(),
  amount: Type.String(),
  currency: Type.String(),
  captured: Type.String(),
  status: Type.String(),
  expiresAt: Type.String(),
})

export const BlockBody = Type.Object({
  shard: Type.Integer(),
  number: Type.Integer(),
  previousHash: Type.String(),
  root: Type.String(),
  hash: Type.String(),
  time: Type.String(),
  writer: Type.String(),
  requestCount: Type.Integer(),
  entryCount: Type.Integer(),
})

const WebhookFields = {
  id: Type.String(),
  url: Type.String(),
  description: Nullable<string>('string'),
  eventTypes: Type.Array(Type.String()),
  disabled: Type.Boolean(),
  disabledReason: Type.Unsafe<string | null>({
    type: ['string', 'null'],
    description:
      '`manual`: by a call. `gone`: it answered 410. `failing`: nothing could be delivered for five days. PATCH it to enable it.',
  }),
  disabledAt: Nullable<string>('string'),
  failingSince: Nullable<string>('string'),
  full: Type.Boolean({
    description: 'So much waits to be delivered that what happens now is not: until less waits again.',
  }),
  missedEvents: Type.Union(
    [
      Type.Object({
        count: Type.Integer({ description: 'Of all time.' }),
        from: Type.String({ description: 'When the first of them happened, of the last time that it was full.' }),
        until: Type.String({ description: 'When the last of them happened.' }),
      }),
      Type.Null(),
    ],
    { description: 'What it wanted and did not get because it was full.' },
  ),
  createdAt: Type.String(),
}
export const WebhookEndpointBody = Type.Object(WebhookFields)
export const ShownWebhookEndpointBody = Type.Object({
  ...WebhookFields,
  secret: Type.Optional(
    Type.String({ description: '`whsec_…`, when it was made by this call: keep it, it is not shown again.' }),
  ),
})

const WebhookAttemptBody = Type.Object({
  number: Type.Integer(),
  at: Type.String(),
  durationMs: Type.Integer(),
  statusCode: Nullable<number>('integer'),
  error: Nullable<string>('string'),
  response: Type.Unsafe<string | null>({ type: ['string', 'null'], description: 'The first 1,024 bytes.' }),
})
const WebhookDeliveryFields = {
  id: Type.String(),
  endpointId: Type.String(),
  messageId: Type.String({ description: 'What the header webhook-id says.' }),
  eventType: Type.String(),
  status: Type.String({ description: '`pending`, `delivered` or `dead`.' }),
  attemptCount: Type.Integer(),
  nextAttemptAt: Nullable<string>('string'),
  createdAt: Type.String(),
  deliveredAt: Nullable<string>('string'),
}
export const WebhookDeliveryBody = Type.Object({
  ...WebhookDeliveryFields,
  lastAttempt: Type.Union([WebhookAttemptBody, Type.Null()]),
})
export const LoggedWebhookDeliveryBody = Type.Object({
  ...WebhookDeliveryFields,
  payload: Type.String({ description: 'What is sent, to the byte.' }),
  attempts: Type.Array(WebhookAttemptBody, { description: 'Newest first, the last 50.' }),
})
