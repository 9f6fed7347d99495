import { createHmac, randomBytes } from 'node:crypto'

/** Signing as in Standard Webhooks 1.0.0 ("Signature scheme"): HMAC-SHA256, the symmetric scheme `v1`. */

const PREFIX = 'whsec_'
/** The specification asks for 24 to 64. */
const SECRET_BYTES = 32

/** A new secret: `whsec_` and 256 bits of chance in base64. */
export function newSecret(): string {
  return PREFIX + randomBytes(SECRET_BYTES).toString('base64')
}

/** What is signed and told in headers. */
export type Message = {
  /** The event's own, the same at every attempt. Without a full stop. */
  readonly id: string
  /** Of the attempt, in whole seconds since 1970. */
  readonly timestamp: number
  /** As it goes over the wire. */
  readonly body: string
}

/**
 * The value of `webhook-signature`: one `v1,<base64>` for each secret, separated by spaces.
 * @param secrets `whsec_<base64>`, the current one first
 */
export function sign(secrets: readonly string[], { id, timestamp, body }: Message): string {
  return secrets
    .map((secret) => {
      const key = Buffer.from(secret.startsWith(PREFIX) ? secret.slice(PREFIX.length) : secret, 'base64')
      return `v1,${createHmac('sha256', key).update(`${id}.${timestamp}.${body}`).digest('base64')}`
    })
    .join(' ')
}
