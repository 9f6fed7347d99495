import { Ajv } from 'ajv'
import { asyncId } from '../core/asyncId.ts'
import type { Leg } from '../core/leg.ts'
import { type Operation, type Payload, type Request, requestOf } from '../core/request.ts'
import { FORMATS } from '../formats.ts'

/**
 * A request as it lies in a queue: JSON of whose it is, its key, its kind, and the payload in the canonical form that will be recorded. The id is
 * not in it: it is made anew of what is (core/asyncId.ts), so no message can claim another's.
 */
type Message = {
  tenantId: string
  key: string
  kind: 'transfer' | 'top-up' | 'withdrawal' | 'reversal'
  payload: Payload
}

/** What moves money at once, and may be asked to be posted later. */
export type LaterOperation = Extract<Operation, { kind: Message['kind'] }>

/** A request that is to be posted later. @param key 1 to 255 printable ASCII characters */
export function laterRequest(tenantId: string, key: string, operation: LaterOperation): Request {
  const request = requestOf('', tenantId, key, operation)
  return { ...request, id: asyncId(request) }
}

export function messageText({ tenantId, key, operation, payload }: Request): string {
  const head = JSON.stringify({ tenantId, key, kind: operation.kind })
  return `${head.slice(0, -1)},"payload":${payload}}`
}

const uuid = { type: 'string', pattern: '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' }
const amount = { type: 'string', format: 'amount' }
const currency = { type: 'string', format: 'currency' }
const text = (maxLength: number) => ({ type: 'string', format: 'text', maxLength })
const object = (required: Record<string, object>, optional: Record<string, object> = {}) => ({
  type: 'object',
  properties: { ...required, ...optional },
  required: Object.keys(required),
  additionalProperties: false,
})
const leg = object({ from: uuid, to: uuid, amount, currency })
const metadata = {
  type: 'object',
  additionalProperties: text(500),
  propertyNames: { format: 'text', minLength: 1, maxLength: 40 },
  maxProperties: 50,
}
const outside = object({ walletId: uuid, amount, currency }, { reference: text(500) })

/** What the HTTP API lets through (http/routes/transfers.ts), after it was put into the canonical form. */
const PAYLOADS: Record<Message['kind'], object> = {
  transfer: object(
    { legs: { type: 'array', items: leg, minItems: 1, maxItems: 100 } },
    { memo: text(500), metadata, effectiveAt: { type: 'string', format: 'time' } },
  ),
  'top-up': outside,
  withdrawal: outside,
  reversal: object({ transferId: uuid }, { amount }),
}

const ajv = new Ajv({ strict: false, formats: FORMATS })
const isMessage = ajv.compile<Message>({
  oneOf: Object.entries(PAYLOADS).map(([kind, payload]) =>
    object({
      ...{ tenantId: uuid, key: { type: 'string', minLength: 1, maxLength: 255, pattern: '^[\\x20-\\x7e]+$' } },
      ...{ kind: { const: kind }, payload },
    }),
  ),
})

/** Reads what `messageText` wrote. @returns what is wrong with it, in words, if it is nothing that may be posted */
export function readMessage(message: string): Request | string {
  let value: unknown
  try {
    value = JSON.parse(message)
  } catch {
    return 'it is not JSON'
  }
  if (!isMessage(value)) return 'it is no transfer, top-up, withdrawal or reversal as they are described'
  const { tenantId, key, kind, payload } = value
  const request = laterRequest(tenantId, key, operationOf(kind, payload))
  // Written otherwise, it would be another payload to whoever repeats the key.
  return messageText(request) === message ? request : 'it is not in the canonical form'
}

/** The operation of a payload that was checked: what `requestOf` made the payload of. */
function operationOf(kind: Message['kind'], payload: Payload): LaterOperation {
  const { amount = '0', currency = '', walletId = '', transferId = '', reference } = payload
  switch (kind) {
    case 'transfer': {
      const { memo, metadata, effectiveAt } = payload
      const legs = (payload.legs ?? []).map((leg): Leg => ({ ...leg, amount: BigInt(leg.amount) }))
      const remarks = {
        ...(memo === undefined ? {} : { memo }),
        ...(metadata === undefined ? {} : { metadata }),
        ...(effectiveAt === undefined ? {} : { effectiveAt }),
      }
      return { kind, legs, remarks }
    }
    case 'top-up':
    case 'withdrawal':
      return { kind, walletId, amount: BigInt(amount), currency, ...(reference === undefined ? {} : { reference }) }
    case 'reversal':
      return { kind, transferId, ...(payload.amount === undefined ? {} : { amount: BigInt(payload.amount) }) }
    default:
      return kind satisfies never
  }
}
