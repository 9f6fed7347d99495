import { randomUUID } from 'node:crypto'
import { uuidv7 } from '../core/ids.ts'

/** A new id that routes to the shard of `slot` (0 to 4095). */
export function newId(slot: number): string {
  return uuidv7(Date.now(), randomUUID().replaceAll('-', '').slice(16), slot)
}
