import { hash } from 'node:crypto'

/**
 * Ids are UUIDs (RFC 9562) inside, `wal_` and friends with 32 hex digits outside. A UUIDv7 carries the slot of its
 * holder in its last 12 bits, so that any wallet, transfer or hold id tells its shard without a look-up.
 */

/** How many slots holders are spread over. */
export const SLOT_COUNT = 4096

/** The slot of a holder, 0 to 4095: the first 12 bits of SHA-256. Tenants are mixed in, so that their "customer 1" differ. */
export function slotOf(tenantId: string, holderId: string): number {
  return Number.parseInt(hash('sha256', `${tenantId} ${holderId}`).slice(0, 3), 16)
}

/** The slot that an id carries, 0 to 4095. */
export function slotOfId(id: string): number {
  return Number.parseInt(id.slice(-3), 16)
}

/**
 * A UUIDv7 (RFC 9562, 5.7) whose last 12 bits are `slot`: 48 bits of time, 62 bits of `entropy`.
 * @param timeMs milliseconds since 1970
 * @param entropy eight random bytes, in hex (16 digits)
 */
export function uuidv7(timeMs: number, entropy: string, slot: number): string {
  const time = timeMs.toString(16).padStart(12, '0')
  const variant = ((Number.parseInt(entropy.slice(3, 4), 16) & 0x3) | 0x8).toString(16)
  const tail = entropy.slice(4, 16) + slot.toString(16).padStart(3, '0')
  return `${time.slice(0, 8)}-${time.slice(8)}-7${entropy.slice(0, 3)}-${variant}${tail.slice(0, 3)}-${tail.slice(3)}`
}

/** A UUIDv8 (RFC 9562, 5.8) made of the SHA-256 of a name: equal names, equal ids. */
export function digestUuid(name: string): string {
  const hex = hash('sha256', name)
  const variant = ((Number.parseInt(hex.slice(16, 17), 16) & 0x3) | 0x8).toString(16)
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-${variant}${hex.slice(17, 20)}-${hex.slice(20, 32)}`
}

/** What an id names; the outside form is prefix, underscore, the 32 hex digits of the UUID. */
export type IdPrefix = 'wal' | 'trf' | 'hld' | 'txn' | 'ten' | 'whk' | 'whd' | 'msg'

/** `0197…-…` → `wal_0197…`. */
export function formatId(prefix: IdPrefix, id: string): string {
  return `${prefix}_${id.replaceAll('-', '')}`
}

/** `wal_0197…` → `0197…-…`; `undefined` when it is not an id with that prefix. */
export function parseId(prefix: IdPrefix, text: string): string | undefined {
  if (text.length !== 36 || !text.startsWith(`${prefix}_`)) return undefined
  const hex = text.slice(4)
  if (!/^[0-9a-f]{32}$/.test(hex)) return undefined
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`
}
