import { hash } from 'node:crypto'
import { slotOfId } from './ids.ts'
import type { Request } from './request.ts'

/**
 * Ids of requests that are posted later. The id is made of what is asked, so that asking again needs nothing stored to get the same one: a
 * UUIDv8 (RFC 9562, 5.8) of 94 bits of digest, a check of 16, and the slot in the last 12 as in every id. The check tells an id that
 * was made so from any other, for one tenant; it is no secret.
 */

type Asked = Pick<Request, 'tenantId' | 'scope' | 'key' | 'payload'> & {
  readonly operation: Pick<Request['operation'], 'kind'>
}

/** The id of a request that is posted later: equal requests of a tenant, equal ids. It routes as its scope does. */
export function asyncId({ tenantId, scope, key, payload, operation }: Asked): string {
  // None of them can have a line break: UUIDs, printable ASCII, JSON.
  const digest = hash('sha256', ['async', tenantId, scope, key, operation.kind, payload].join('\n'))
  const variant = ((Number.parseInt(digest.slice(15, 16), 16) & 0x3) | 0x8).toString(16)
  const [high, middle, low] = [digest.slice(0, 12), digest.slice(12, 15), digest.slice(16, 24)]
  const head = `${high}8${middle}${variant}${low}`
  const slot = slotOfId(scope).toString(16).padStart(3, '0')
  const hex = `${head}${checkOf(tenantId, head, slot)}${slot}`
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`
}

/** Whether an id was made by `asyncId` for that tenant; of others, one in 65,536 UUIDv8 passes too. */
export function isAsyncId(tenantId: string, id: string): boolean {
  const hex = id.replaceAll('-', '')
  const [head, check, slot] = [hex.slice(0, 25), hex.slice(25, 29), hex.slice(29)]
  return hex[12] === '8' && check === checkOf(tenantId, head, slot)
}

function checkOf(tenantId: string, head: string, slot: string): string {
  return hash('sha256', ['async check', tenantId, head, slot].join('\n')).slice(0, 4)
}
